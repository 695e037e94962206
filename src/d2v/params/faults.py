"""Errors of a parameter file, reported with dotted path and closest valid name."""

import difflib
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

# keys of earlier parameter files, without the run's name, and where their values belong now
MOVED = {
    ("finetune", "optimiser", "lr"): "the learning rate of a task belongs in settings or grid",
    ("finetune", "train", "steps"): "the number of steps of a task belongs in settings or grid",
}


def refuse(faults: Iterable[str]) -> None:
    """Raise a ValidationError with one error per fault, from a group's validator.

    Without faults, nothing is raised.
    """
    errors = [
        InitErrorDetails(type=PydanticCustomError("fault", "{fault}", {"fault": fault}), input={})
        for fault in faults
    ]
    if errors:
        raise ValidationError.from_exception_data("parameters", errors)


def explain(error: Any, root: type[BaseModel]) -> str:
    """Describe one of pydantic's errors in one line; `root` is the outermost group."""
    return " ".join(_explained(error, root).split())


def _explained(error: Any, root: type[BaseModel]) -> str:
    loc = error["loc"]
    path, model = _walk(loc, root)
    message = error["msg"].removeprefix("Value error, ")
    if moved := MOVED.get((loc[0], *loc[2:])) if loc else None:
        return f"{path}: {moved}; remove this key"
    if error["type"] == "extra_forbidden":
        names = model.model_fields if model else {}
        return f"{path}: unknown key{nearest(str(loc[-1]), names)}"
    if error["type"] == "missing":
        return f"{path}: missing"
    if error["type"] == "union_tag_invalid":  # `kind` of a group that has several kinds
        tag, known = error["ctx"]["tag"], error["ctx"]["expected_tags"]
        return f"{path}: no kind {tag}{nearest(tag, known.replace(chr(39), '').split(', '))}"
    if error["type"] == "union_tag_not_found":
        return f"{path}: missing key {error['ctx']['discriminator'].replace(chr(39), '')}"
    if not path:
        return message
    return (
        f"{path}: {message}, got {_shown(error['input'])}"
        if not isinstance(error["input"], dict | BaseModel)
        else f"{path}: {message}"
    )


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except RecursionError:
        return "a list that is nested too deeply"


def nearest(name: str, names: typing.Iterable[str]) -> str:
    names = sorted(map(str, names))
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f" (known: {', '.join(names)})"


def _walk(loc: tuple[Any, ...], root: type[BaseModel]) -> tuple[str, type[BaseModel] | None]:
    """Dotted path of an error, without pydantic's union tags, and the group that has the key."""
    path: list[str] = []
    kind: Any = root
    holder: type[BaseModel] | None = None
    for part in loc:
        options = _models(kind)
        tagged = [m for m in options if part in _tags(m)]
        if tagged and not any(part in m.model_fields for m in options):
            kind = tagged[0]
            continue
        path.append(str(part))
        holder = options[0] if options else None
        field = holder.model_fields.get(str(part)) if holder else None
        kind = field.annotation if field else _item(kind)
    return ".".join(path), holder


def _models(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    if typing.get_origin(kind) in (typing.Union, types.UnionType, Annotated):
        return [m for arg in typing.get_args(kind) for m in _models(arg)]
    return []


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return typing.get_args(field.annotation) if field else ()


def _item(kind: Any) -> Any:
    args = [a for a in typing.get_args(kind) if a is not type(None)]
    return args[-1] if args else None

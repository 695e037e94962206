"""`--set KEY=VALUE`: values that replace those of a parameter file, as an experiment of its own.

The experiment receives another name, which contains a hash of the overrides. Its runs, checkpoints
and tables are therefore in folders of their own, and never stand for those of the file.
"""

import json
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from d2v.params.base import ParamsError
from d2v.params.experiment import Experiment, load
from d2v.params.faults import explain, nearest
from d2v.params.reading import overridden, read_params, refuse_file, value_of

GROUPS = ("pretrain", "finetune")
OWN = ("name", "title")  # not part of the hash


def load_overridden(path: Path, words: Sequence[str]) -> Experiment:
    """Read a parameter file with the overrides `words`, each KEY=VALUE.

    Raises ParamsError as `load` does, and with the words that are wrong.
    """
    return Experiment.model_validate(values(path, words)) if words else load(path)


def values(path: Path, words: Sequence[str]) -> dict[str, Any]:
    """All values of a parameter file with overrides: templates and base files are expanded.

    Raises ParamsError as `load_overridden`.
    """
    base = load(path)
    raw = read_params(path)
    given = _parsed(words)
    for key in given:
        _check_place(raw, key, f"--set {key}={_shown(given[key])}")
    nested = _nested(given)
    found = overridden(raw, nested, "--set")
    found["stages"] = nested.get("stages", base.stages)
    found["name"] = _name(base.name, nested, path)
    if "title" not in nested:
        found["title"] = f"{base.title} ({described(words)})"
    try:
        Experiment.model_validate(found)
    except ValidationError as error:
        _refuse(path, given, [explain(e, Experiment) for e in error.errors()])
    return found


def described(words: Sequence[str]) -> str:
    """The overrides in one line."""
    return ", ".join(f"{key}={_shown(value)}" for key, value in _parsed(words).items())


def _parsed(words: Sequence[str]) -> dict[str, Any]:
    """Values by dotted key, in the order of the command line."""
    found: dict[str, Any] = {}
    for word in words:
        key, sign, text = word.partition("=")
        key = key.strip()
        if not sign or not re.fullmatch(r"[^.\s]+(\.[^.\s]+)*", key):
            raise ParamsError(
                f"--set {word}: expected KEY=VALUE, for example pretrain.vision.optimiser.lr=1e-3"
            )
        if not text.strip():
            raise ParamsError(f"--set {word}: has no value; write {key}=null for none")
        if key in found:
            raise ParamsError(f"--set {word}: {key} is set more than once")
        try:
            found[key] = value_of(text)
        except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
            said = " ".join(str(error).split())
            raise ParamsError(f"--set {word}: the value is not valid YAML: {said}") from None
    return found


def _check_place(raw: dict[str, Any], key: str, word: str) -> None:
    """Raise ParamsError if the file has no place for a key."""
    first, *rest = key.split(".")
    if first == "data":
        raise ParamsError(
            f"{word}: data sets are prepared from the parameter file, so they cannot be overridden;"
            " write a parameter file with `base:` and its own prepared: and stages:"
        )
    if first not in Experiment.model_fields:
        raise ParamsError(f"{word}: unknown key{nearest(first, Experiment.model_fields)}")
    if first in GROUPS and rest and rest[0] not in raw[first]:
        known = [f"{first}.{name}" for name in raw[first]]
        raise ParamsError(f"{word}: no {first}.{rest[0]}{nearest(f'{first}.{rest[0]}', known)}")
    place: Any = raw
    for number, part in enumerate((first, *rest)):
        if isinstance(place, dict):
            place = place.get(part)
        elif place is not None:
            holder = ".".join((first, *rest)[:number])
            raise ParamsError(f"{word}: {holder} is {_shown(place)}, which has no keys")


def _nested(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in given.items():
        *groups, last = key.split(".")
        place = found
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                raise ParamsError(f"--set {key}={_shown(value)}: {group} is itself set to a value")
        if last in place:
            raise ParamsError(f"--set {key}={_shown(value)}: keys below {key} are set, too")
        place[last] = value
    return found


def _name(base: str, nested: dict[str, Any], path: Path) -> Any:
    """Name of the experiment: the given one, or that of the file with a hash of the overrides."""
    if "name" in nested:
        for file in sorted(path.parent.glob("*.y*ml")):
            found = re.search(r"^name: *(\S+)", file.read_text("utf-8", "replace"), re.MULTILINE)
            if nested["name"] == base or (found and found[1] == nested["name"]):
                raise ParamsError(
                    f"--set name={nested['name']}: the results of a parameter file have this name;"
                    " choose another one"
                )
        return nested["name"]
    values = {key: value for key, value in nested.items() if key not in OWN}
    text = json.dumps(values, sort_keys=True, default=str)
    return f"{base[:80]}-set-{sha256(text.encode()).hexdigest()[:8]}"


def _refuse(path: Path, given: dict[str, Any], lines: Sequence[str]) -> None:
    """Raise ParamsError; errors at the place of an override name the override."""
    named = []
    for line in lines:
        where, _, said = line.partition(": ")
        key = next((key for key in given if where == key or where.startswith(f"{key}.")), None)
        if key is None or not said:
            named.append(line)
            continue
        inner = where.removeprefix(key).removeprefix(".")
        named.append(f"--set {key}={_shown(given[key])}: {f'{inner}: ' * bool(inner)}{said}")
    if len(named) == 1:
        raise ParamsError(named[0] if named[0].startswith("--set") else f"{path}: {named[0]}")
    refuse_file(f"{path} with --set", named)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)

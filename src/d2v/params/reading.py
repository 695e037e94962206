"""Reading YAML parameter files."""

import re
from pathlib import Path
from typing import Any

import yaml

from d2v.params.base import ParamsError
from d2v.params.faults import nearest


def read_params(path: Path) -> dict[str, Any]:
    """Read a parameter file with all that it is composed of.

    `base: FILE` (one or a list, relative to the file) is read first; later files override earlier
    ones key by key, and the file itself overrides all; a group of another `kind` takes the place of
    the whole group. A mapping with `like: NAME` is a copy of
    `templates: NAME`, overridden key by key; templates may be like others. What no `like` names is
    not part of the experiment.

    Raises ParamsError for a file that cannot be read and a template that is not there.
    """
    raw = read_yaml(path)
    templates = raw.pop("templates", None) or {}
    return {key: _copied(value, templates, f"{path}: {key}", ()) for key, value in raw.items()}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping and the files that its `base:` names."""
    try:
        raw = yaml.load(path.read_text(), Loader=_Loader)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such parameter file") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}".replace("\n", " ")) from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: a mapping of keys to values is expected")
    base = raw.pop("base", None) or []
    found: dict[str, Any] = {}
    for name in [base] if isinstance(base, str) else base:
        found = _merge(found, read_yaml(path.parent / name))
    return _merge(found, raw)


class _Loader(yaml.SafeLoader):
    """Safe YAML with 1e-3 as a number and doubled keys as an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [
            self.construct_object(key, deep=True)
            for key, _ in node.value
            if key.tag != "tag:yaml.org,2002:merge"
        ]
        doubled = sorted({str(k) for k in keys if keys.count(k) > 1})
        if doubled:
            raise yaml.YAMLError(f"key {', '.join(doubled)} twice{node.start_mark}")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)
# integers are tried after the resolver above; re-add theirs in front
_Loader.yaml_implicit_resolvers = {
    first: sorted(resolvers, key=lambda r: r[0] != "tag:yaml.org,2002:int")
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = base.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and not _other_kind(old, value):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def _other_kind(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether a group takes the place of one of another kind, with none of its keys."""
    return "kind" in new and "kind" in old and new["kind"] != old["kind"]


def _copied(value: Any, templates: dict[str, Any], where: str, seen: tuple[str, ...]) -> Any:
    """The value with every `like` in it replaced; `seen` are the templates on the way to it."""
    if not isinstance(value, dict):
        return value
    own = dict(value)
    name = own.pop("like", None)
    if name is not None:
        if name not in templates:
            raise ParamsError(f"{where}: no template {name}{nearest(str(name), templates)}")
        if name in seen:
            raise ParamsError(f"{where}: templates in a circle ({' -> '.join((*seen, name))})")
        seen = (*seen, name)
        own = _merge(_copied(templates[name], templates, where, seen), own)
    return {k: _copied(v, templates, f"{where}.{k}", seen) for k, v in own.items()}

"""Reading YAML parameter files."""

import re
from pathlib import Path
from typing import Any

import yaml

from d2v.params.base import ParamsError


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; files named by `base:` (one or a list) are read first, relative to it.

    Later ones override earlier ones key by key, and the file itself overrides all.
    """
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
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged

"""Reading YAML parameter files."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from d2v.params.base import ParamsError
from d2v.params.faults import nearest
from d2v.util.errors import counted
from d2v.util.shipped import recipe

# what PyYAML raises; the last four: invalid dates, numbers without digits, tags on values of the
# wrong type
UNPARSED = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError)
UNREADABLE = (*UNPARSED, RecursionError)  # the last one: thousands of brackets
REMOVABLE = ("data", "pretrain", "finetune")  # groups with entries that null removes


def read_params(path: Path) -> dict[str, Any]:
    """Read a parameter file, with its base files and templates.

    A path params/NAME that does not exist stands for the recipe that is shipped with d2v.

    `base: FILE` (one file or a list, relative to the parameter file) is read first. Later files
    override earlier ones key by key, and the file itself overrides all of them. A group of another
    `kind` replaces the whole group. `finetune: {cola: null}` removes an inherited run (also for
    `data` and `pretrain`). A mapping with `like: NAME` is a copy of `templates: NAME`,
    overridden key by key; templates may use `like` themselves. Templates that no `like` names are
    not part of the experiment.

    Raises ParamsError if a file cannot be read or a template does not exist.
    """
    try:
        raw = read_yaml(recipe(path))
        templates = raw.pop("templates", None) or {}
        if not isinstance(templates, dict):
            raise ParamsError(f"{path}: templates: expected a mapping of names to groups")
        return {key: _copied(value, templates, f"{path}: {key}", ()) for key, value in raw.items()}
    except RecursionError:  # `a: &a [*a]`, or thousands of brackets
        raise ParamsError(f"{path}: groups contain themselves or are nested too deeply") from None


def refuse_file(path: str | Path, faults: Sequence[str]) -> None:
    """Raise ParamsError with one line per error of a file, if there are any."""
    if faults:
        raise ParamsError(f"{path}: {counted(len(faults), 'error')}\n  " + "\n  ".join(faults))


def read_yaml(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a YAML mapping and, recursively, its `base:` files; `seen` are the files above it."""
    where = path.resolve()
    if where in seen:
        names = " -> ".join(file.name for file in (*seen[seen.index(where) :], where))
        raise ParamsError(f"{path}: base: circular reference ({names})")
    raw = _mapping(path)
    base = raw.pop("base", None) or []
    found: dict[str, Any] = {}
    for name in [base] if isinstance(base, str) else base:
        if not isinstance(name, str):
            raise ParamsError(f"{path}: base: expected a file or a list of files, got {base!r}")
        if not os.path.exists(path.parent / name):  # False also for a name that none can have
            raise ParamsError(f"{path}: base: {path.parent / name}: no such parameter file")
        found = _merge(found, read_yaml(path.parent / name, (*seen, where)))
    return overridden(found, raw, path) if base else raw


def overridden(found: dict[str, Any], raw: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Override the values `found` key by key with those of `raw`, which the file `path` contains.

    Raises ParamsError if `raw` removes an entry that `found` does not have.
    """
    return _merge(found, _without_removed(found, raw, path))


def _without_removed(
    found: dict[str, Any], raw: dict[str, Any], path: str | Path
) -> dict[str, Any]:
    """Remove from `found`, in place, the entries that `raw` sets to null; return the others of it.

    Raises ParamsError for an entry that no base file has.
    """
    kept = dict(raw)
    for group in REMOVABLE:
        own, inherited = raw.get(group), found.get(group)
        if not isinstance(own, dict) or not isinstance(inherited, dict):
            continue
        for name in [name for name, value in own.items() if value is None]:
            if name not in inherited:
                raise ParamsError(
                    f"{path}: {group}.{name}: null removes an inherited entry, but no base file has"
                    f" it{nearest(str(name), inherited)}"
                )
        kept[group] = {name: value for name, value in own.items() if value is not None}
        found[group] = {k: v for k, v in inherited.items() if own.get(k, "") is not None}
    return kept


def base_files(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return a parameter file and, recursively, its `base:` files, each with its own content.

    Raises ParamsError as `read_yaml`.
    """
    read_yaml(path)  # refuses circles
    raw = _mapping(path)
    base = raw.get("base") or []
    names = [base] if isinstance(base, str) else base
    found = [entry for name in names for entry in base_files(path.parent / name)]
    return [(path, raw), *found]


def value_of(text: str) -> Any:
    """Read one value as a parameter file would; raises yaml.YAMLError or ValueError."""
    return yaml.load(text, _Loader)


def written(values: dict[str, Any]) -> str:
    """YAML text of the values, which a parameter file gives back unchanged."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _mapping(path: Path) -> dict[str, Any]:
    """Read the values of one file, without its base files."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such parameter file") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror}") from None
    except UNPARSED as error:
        said = " ".join(str(error).split())
        raise ParamsError(f"{path}: not valid YAML: {said}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: expected a mapping of keys to values")
    return raw


# libyaml's parser, which takes a tenth of the time, where PyYAML was built with it
SafeLoader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(SafeLoader):  # type: ignore[misc, valid-type]
    """Safe YAML loader that reads 1e-3 as a number and rejects duplicate keys, 010 and 1:30."""

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Read a number; raises YAMLError if YAML's reading differs from the usual one."""
        text = str(node.value)
        whole = node.tag.endswith(":int")
        if ":" in text or re.fullmatch(r"[-+]?0[\d_]+", text):
            why = "a base-60 number" if ":" in text else "an octal number"
            raise yaml.YAMLError(
                f"line {node.start_mark.line + 1}: {text} is {why} in YAML; write it as a decimal"
                " number, or in quotes if it is text"
            )
        return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [
            self.construct_object(key, deep=True)
            for key, _ in node.value
            if key.tag != "tag:yaml.org,2002:merge"
        ]
        doubled = sorted({str(k) for k in keys if keys.count(k) > 1})
        if doubled:
            raise yaml.YAMLError(f"duplicate key {', '.join(doubled)}{node.start_mark}")
        return super().construct_mapping(node, deep)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)
# the resolver above would take integers, too: move the resolver of integers to the front
_Loader.yaml_implicit_resolvers = {
    first: sorted(resolvers, key=lambda r: r[0] != "tag:yaml.org,2002:int")
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """Safe YAML dumper that quotes text which the loader above would read as a number."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: Any) -> bool:
        return True


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
    """Whether `new` has another kind and therefore replaces the group `old` and all its keys."""
    return "kind" in new and "kind" in old and new["kind"] != old["kind"]


def _copied(value: Any, templates: dict[str, Any], where: str, seen: tuple[str, ...]) -> Any:
    """Copy `value`, expanding every `like` in it; `seen` are the templates being expanded."""
    if not isinstance(value, dict):
        return value
    own = dict(value)
    name = own.pop("like", None)
    if name is not None:
        if not isinstance(name, str) or name not in templates:
            raise ParamsError(f"{where}: no template {name}{nearest(str(name), templates)}")
        if name in seen:
            raise ParamsError(f"{where}: circular templates ({' -> '.join((*seen, name))})")
        seen = (*seen, name)
        copy = _copied(templates[name], templates, where, seen)
        if not isinstance(copy, dict):
            raise ParamsError(f"{where}: template {name} is not a mapping")
        own = _merge(copy, own)
    return {k: _copied(v, templates, f"{where}.{k}", seen) for k, v in own.items()}

"""Examples of one's own data sets divided into splits, and contents that occur more than once."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from d2v import params
from d2v.util.errors import UserError, quoted
from d2v.util.files import sha256 as sha256_of

Item = TypeVar("Item")


def by_column(
    items: Sequence[Item],
    splits: params.Splits,
    value: Callable[[Item], str],
    where: Callable[[Item], str],
) -> dict[str, list[Item]]:
    """Divide items by a column; `value` is an item's value in it, and `where` its place.

    Raises UserError naming the first item whose value belongs to no split, or an empty split.
    """
    assert splits.values is not None
    named = {text: split for split, text in splits.values.items()}
    found: dict[str, list[Item]] = {split: [] for split in splits.names}
    for item in items:
        split = named.get(value(item).strip())
        if split is None:
            raise UserError(
                f"{where(item)}: {quoted(value(item))} in column {splits.column!r} is the value of"
                f" no split ({', '.join(named)})"
            )
        found[split].append(item)
    return _filled(found, f"column {splits.column!r} names no example of it")


def by_chance(
    items: Sequence[Item],
    splits: params.Splits,
    group: Callable[[Item], Hashable],
    stratum: Callable[[Item], Hashable] = lambda item: None,
) -> dict[str, list[Item]]:
    """Divide items by `splits.fractions`, so that the items of a group stay together.

    Groups are ordered by a hash of the seed and the group, and cut where the shares are reached;
    the division therefore depends neither on the order of the items nor on the machine. Each
    stratum (class) is divided on its own. Raises UserError for a split that stays empty.
    """
    assert splits.fractions is not None
    strata: dict[Hashable, dict[Hashable, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, item in enumerate(items):
        strata[stratum(item)][group(item)].append(place)
    chosen: dict[int, str] = {}
    for groups in strata.values():
        order = sorted(groups, key=lambda key: sha256(f"{splits.seed} {key}".encode()).digest())
        total, done = sum(map(len, groups.values())), 0
        for key in order:
            middle = (done + len(groups[key]) / 2) / total
            done += len(groups[key])
            chosen |= dict.fromkeys(groups[key], _reached(splits.fractions, middle))
    found: dict[str, list[Item]] = {split: [] for split in splits.names}
    for place, item in enumerate(items):
        found[chosen[place]].append(item)
    return _filled(found, "its fraction is too small for this set")


def _reached(fractions: Mapping[str, float], share: float) -> str:
    """The split in whose part of [0, 1) a share lies."""
    top = 0.0
    for split, fraction in fractions.items():
        top += fraction
        if share < top:
            return split
    return list(fractions)[-1]


def _filled(found: dict[str, list[Item]], why: str) -> dict[str, list[Item]]:
    for split, items in found.items():
        if not items:
            raise UserError(f"split {split} has no examples: {why}")
    return found


# --- the same content more than once ----------------------------------------------------------


def contents(paths: Sequence[Path]) -> dict[Path, str]:
    """SHA-256 of the files that may equal another one; files of a unique size are not read."""
    sizes: dict[int, list[Path]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        sizes[path.stat().st_size].append(path)
    return {
        path: sha256_of(path)
        for size, group in sizes.items()
        if len(group) > 1 and size
        for path in group
    }


def leaks(
    splits: Mapping[str, Sequence[tuple[str, Hashable]]],
) -> list[tuple[str, str, str]]:
    """Find examples (place, content) whose content another split has, too.

    Returns their place, the other place and the other split. Of two splits, it is the example of
    the train split that counts as the leak, because it is the one to leave out; contents of None
    are unknown.
    """
    seen: dict[Hashable, tuple[str, str]] = {}
    found: list[tuple[str, str, str]] = []
    for split in sorted(splits, key=lambda name: name == "train"):
        for place, content in splits[split]:
            if content is None:
                continue
            other, first = seen.setdefault(content, (split, place))
            if other != split:
                found.append((place, first, other))
    return found

"""Summary of a prepared set, from its meta.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2v.data.readers.official import lacking
from d2v.util.files import read_json

UNITS = ("B", "kB", "MB", "GB", "TB")
# further counts of a split in meta.json, and how they are displayed
NOTES = {
    "missing": "clips missing",
    "broken_rows_left_out": "broken rows left out",
    "left_out": "left out",
    "unaligned": "transcripts too long for CTC",
    "rounded_to_16_bits": "rounded to 16 bits",
    "duplicates": "duplicates",
}


@dataclass(frozen=True)
class Summary:
    """Counts of a prepared set; `splits` has one line per split."""

    folder: Path
    counts: tuple[str, ...]
    splits: tuple[str, ...]
    notes: tuple[str, ...]
    size: int  # bytes on disk

    @property
    def line(self) -> str:
        """The whole set in one line."""
        return ", ".join([*self.counts, amount(self.size), *self.notes])


def summary(folder: Path) -> Summary | None:
    """Summary of a prepared set; None if it has no readable meta.json."""
    meta = read_json(folder / "meta.json")
    if not isinstance(meta, dict):
        return None
    splits: dict[str, Mapping[str, Any]] = meta.get("splits") or {}
    total = {key: sum(s.get(key, 0) for s in splits.values()) for key in _keys(splits)}
    counts = [_words(total, meta)] if splits else []
    if classes := meta.get("classes"):
        counts.append(f"{len(classes)} classes")
    for key in ("vocab_size", "words"):
        if key in meta and not splits:
            counts.append(f"{meta[key]:,} {'tokens' if key == 'vocab_size' else key}")
    repeats = meta.get("repeats") or {}
    named = [
        f"{name}: {_words(split, meta)}{_noted({**split, **repeats.get(name, {})})}"
        for name, split in splits.items()
    ]
    lacks = lacking(meta)
    if words := meta.get("words_left_out"):
        lacks = ", ".join(
            filter(None, [lacks, f"{words:,} words left out that the model cannot spell"])
        )
    return Summary(folder, tuple(counts), tuple(named), (lacks,) if lacks else (), _size(folder))


def told(folder: Path, seconds: float) -> str:
    """Lines that `d2v prepare` ends with: the set, its splits, what was left out, size and time."""
    found = summary(folder)
    if found is None:
        return f"{folder}: written in {seconds:.1f} s"
    lines = [f"  {line}" for line in found.splits]
    return "\n".join([f"{folder}: {found.line}, in {seconds:.1f} s", *lines])


def amount(size: float) -> str:
    """A number of bytes with a unit."""
    unit = 0
    while size >= 1000 and unit < len(UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:,.0f} {UNITS[unit]}" if unit == 0 or size >= 100 else f"{size:.1f} {UNITS[unit]}"


def _keys(splits: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {
        key
        for split in splits.values()
        for key in ("examples", "samples", "tokens")
        if key in split
    }


def _words(split: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    words = [f"{split.get('examples', 0):,} examples"]
    if "samples" in split and meta.get("rate"):
        hours = split["samples"] / meta["rate"] / 3600
        words.append(f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes")
    if "tokens" in split:
        words.append(f"{split['tokens']:,} tokens")
    return ", ".join(words)


def _noted(split: Mapping[str, Any]) -> str:
    found = [f"{split[key]:,} {words}" for key, words in NOTES.items() if split.get(key)]
    found += [f"{count:,} also in {other}" for other, count in split.get("also_in", {}).items()]
    return f" ({', '.join(found)})" if found else ""


def _size(folder: Path) -> int:
    # safe: reads sizes only
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

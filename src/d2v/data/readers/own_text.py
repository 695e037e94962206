"""One's own text to shards: a corpus of documents, and sentences with classes or numbers."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2v import params
from d2v.data.documents import PIECE_BYTES, Part, Share, find_parts
from d2v.data.layout import copy_lists
from d2v.data.readers.corpus import write_corpus
from d2v.data.readers.own_files import Left, report, write_left_out
from d2v.data.readers.splitting import by_chance, by_column, leaks
from d2v.data.readers.tables import Row, read_table
from d2v.data.shards import write_meta, written_whole
from d2v.data.tokenizer import Tokenizer, train_tokenizer
from d2v.data.writing import Columns, Example, write_split
from d2v.util.errors import UserError, quoted

SHARD_BYTES = 8 * 2**20  # small, so that processes share the work on a set
REMEDY = "correct or remove it, or set skip_bad: true to leave out such rows"


# --- a corpus -------------------------------------------------------------------------------------


def prepare_own_corpus(
    group: params.TextFolder, tokenizer: Path, out: Path, workers: int | None = None
) -> None:
    """Write blocks of tokens for every split of a corpus; raises UserError as prepare_corpus does.

    With `splits.fractions`, whole documents are divided, by a hash of the seed and their name.
    """
    write_corpus(out, group.source, _documents(group), tokenizer, group.block, group.field, workers)


def prepare_own_tokenizer(group: params.TextFolder, out: Path) -> None:
    """Train the tokenizer on the train split of a corpus; raises as prepare_tokenizer does."""
    if group.vocab_size is None:
        raise UserError(f"{out.name}: vocab_size is not given, so no tokenizer is trained")
    train_tokenizer(
        out,
        group.source,
        _documents(group)["train"],
        group.vocab_size,
        field=group.field,
        cased=group.cased,
        byte_fallback=group.byte_fallback,
    )


def _documents(group: params.TextFolder) -> dict[str, list[Part]]:
    """Parts of every split."""
    source, splits = Path(group.source), group.splits
    if splits.folders is not None:
        return {s: find_parts(source / place, PIECE_BYTES) for s, place in splits.folders.items()}
    assert splits.fractions is not None
    parts = find_parts(source, PIECE_BYTES)
    found, low = {}, 0.0
    for split, fraction in splits.fractions.items():
        last = split == splits.names[-1]
        share = Share(splits.seed, low, math.inf if last else low + fraction)
        found[split] = [part._replace(share=share) for part in parts]
        low += fraction
    return found


# --- labelled sentences ---------------------------------------------------------------------------


class Sentence(NamedTuple):
    """A row of a table: its texts, its label (None without), and FILE:LINE."""

    texts: tuple[str, ...]
    label: int | float | None
    where: str


class _Bad(Exception):
    """Why a row cannot be used."""


def prepare_labelled_text(
    group: params.LabelledText, tokenizer: Path, out: Path, workers: int | None = None
) -> None:
    """Write the token ids of texts and their labels, as for a GLUE task.

    Example ids are SPLIT-ROW, where the rows of a split count from 0. Classes without names are
    numbered in the order of their names.

    Raises UserError naming file and line for: a missing column, an empty text, a label that is not
    a class or a number, texts that two splits share; and for another number of classes.
    """
    source = Path(group.source)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    tables = _rows(group, source)
    classes = _classes(group, tables)
    found: dict[str, list[Sentence]] = {}
    left: dict[str, Left] = {}
    for split, rows in tables.items():
        found[split], left[split] = _sentences(group, classes, rows)
    _without_leaks(found, left)
    faults = [f"{where}: {why}" for told in left.values() for where, why in told]
    report(faults, group.skip_bad, REMEDY)
    for split, sentences in found.items():
        if not sentences:
            raise UserError(f"split {split} has no usable rows; all are listed above")
    model = Tokenizer(tokenizer)
    with written_whole(out) as temporary:
        ids: set[str] = set()
        for split, sentences in found.items():
            written = write_split(
                temporary / split,
                [(f"{split}-{n}", *_plain(sentence)) for n, sentence in enumerate(sentences)],
                partial(_examples, model),
                sizes=[len("".join(sentence.texts)) for sentence in sentences],
                label=split,
                workers=workers,
                shard_bytes=SHARD_BYTES,
            )
            ids.update(written.shards.texts("id"))
        copy_lists(source, temporary, ids)
        write_left_out(temporary, left)
        write_meta(
            temporary,
            dataset=out.name,
            kind="glue",
            task=out.name,
            source=group.source,
            splits={
                split: _split_meta(sentences, len(left[split]))
                for split, sentences in found.items()
            },
            classes=classes,
            pairs=len(group.texts) == 2,
            dtype=model.dtype.str,
            vocab_size=model.size,
            tokenizer=model.meta["sha256"],
        )


def _rows(group: params.LabelledText, source: Path) -> dict[str, list[Row]]:
    """Rows of every split; raises UserError for a file that lacks a column."""
    splits = group.splits
    if splits.folders is not None:
        return {s: _table(group, source / place, s) for s, place in splits.folders.items()}
    assert group.file is not None
    rows = _table(group, source / group.file, "train")
    if (column := splits.column) is not None:
        return by_column(rows, splits, lambda row: row[column], lambda row: row.where)
    by = splits.by
    return by_chance(
        rows,
        splits,
        lambda row: row[by] if by else tuple(row.get(text) or "" for text in group.texts),
        lambda row: row.get(group.label) if group.classes else None,
    )


def _table(group: params.LabelledText, path: Path, split: str) -> list[Row]:
    columns, rows = read_table(path)
    for column in (*group.texts, *([group.label] if split == "train" else [])):
        if column not in columns:
            known = ", ".join(quoted(name, 30) for name in columns)
            raise UserError(f"{path}:1: no column {column!r} (there are {known})")
    return rows


def _classes(group: params.LabelledText, tables: Mapping[str, Sequence[Row]]) -> list[str] | None:
    """Names of the classes in the order of their ids; None if labels are numbers."""
    if group.classes is None or isinstance(group.classes, list):
        return group.classes
    cells = {(row.get(group.label) or "").strip() for row in tables["train"]} - {""}
    if len(cells) != group.classes:
        shown = ", ".join(quoted(name, 30) for name in sorted(cells)[:10])
        more = ", ..." if len(cells) > 10 else ""
        raise UserError(
            f"{group.source}: the train split has {len(cells)} different values ({shown}{more}) in"
            f" column {group.label!r}, but classes is {group.classes}"
        )
    return sorted(cells)


def _sentences(
    group: params.LabelledText, classes: Sequence[str] | None, rows: Sequence[Row]
) -> tuple[list[Sentence], Left]:
    """Usable rows, and the others with the reason; a split has labels in all rows or in none."""
    found: list[Sentence] = []
    left: Left = []
    labelled = any(group.label in row.cells for row in rows)
    number = {name: i for i, name in enumerate(classes)} if classes is not None else None
    for row in rows:
        try:
            texts = tuple(_text(row, column) for column in group.texts)
            label = _label(row, group.label, number) if labelled else None
            found.append(Sentence(texts, label, row.where))
        except _Bad as why:
            left.append((row.where, str(why)))
    return found, left


def _text(row: Row, column: str) -> str:
    text = " ".join((row.get(column) or "").split())
    if not text:
        raise _Bad(f"column {column!r} is empty")
    return text


def _label(row: Row, column: str, number: Mapping[str, int] | None) -> int | float:
    cell = (row.get(column) or "").strip()
    if not cell:
        raise _Bad(f"column {column!r} is empty")
    if number is not None:
        if cell not in number:
            known = ", ".join(list(number)[:10])
            raise _Bad(f"label {quoted(cell)} is not one of the classes ({known})")
        return number[cell]
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _Bad(f"label {quoted(cell)} is not a number")
    return value


def _without_leaks(found: dict[str, list[Sentence]], left: dict[str, Left]) -> None:
    """Move rows whose texts another split has from `found` to `left`."""
    contained = {s: [(x.where, x.texts) for x in rows] for s, rows in found.items()}
    leaked = {
        where: f"a leak: its text is also in split {split}, at {other}"
        for where, other, split in leaks(contained)
    }
    for split, rows in found.items():
        left[split] += [(x.where, leaked[x.where]) for x in rows if x.where in leaked]
        found[split] = [x for x in rows if x.where not in leaked]


def _plain(sentence: Sentence) -> tuple[Any, ...]:
    return ("" if sentence.label is None else sentence.label, *sentence.texts)


def _examples(model: Tokenizer, item: tuple[Any, ...]) -> Iterator[Example]:
    name, label, *texts = item
    encoded = [model.encode(text) for text in texts]
    ids = np.array([i for text in encoded for i in text], model.dtype)
    # `first`: number of tokens of the first text; the others belong to the second
    columns: Columns = {"id": name, "first": len(encoded[0])}
    yield Example(ids.tobytes(), columns if label == "" else columns | {"label": label})


def _split_meta(sentences: Sequence[Sentence], left: int) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "examples": len(sentences),
        "labelled": sentences[0].label is not None,
    }
    if left:
        meta["left_out"] = left
        print(f"{left:,} unusable rows are left out", file=sys.stderr)
    return meta

"""TSV files of GLUE tasks to shards: train.tsv, dev.tsv and test.tsv with the official columns.

GLUE's TSV has no quoting: a quotation mark is text, a tab always ends a column.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from d2v.data.layout import lines
from d2v.data.shards import write_meta, written_whole
from d2v.data.tokenizer import Tokenizer
from d2v.data.writing import Columns, Example, write_split
from d2v.errors import UserError

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class GlueTask:
    """Where a task's texts and labels stand."""

    texts: tuple[str, ...]  # one or two columns
    label: str  # column; the official test files have none
    classes: tuple[str, ...] | None  # in the order of their ids; None: a number
    highest: float = 0.0  # of numbers, which start at 0
    # columns of files without a header line
    headless: tuple[str, ...] | None = None


class Row(NamedTuple):
    """One example; label is None where the file has no labels."""

    texts: tuple[str, ...]
    label: int | float | None


ENTAILMENT = ("not_entailment", "entailment")
TASKS = {
    "SST-2": GlueTask(("sentence",), "label", ("0", "1")),
    "CoLA": GlueTask(
        ("sentence",), "label", ("0", "1"), headless=("source", "label", "mark", "sentence")
    ),
    "MRPC": GlueTask(("#1 String", "#2 String"), "Quality", ("0", "1")),
    "RTE": GlueTask(("sentence1", "sentence2"), "label", ENTAILMENT),
    "STS-B": GlueTask(("sentence1", "sentence2"), "score", None, highest=5.0),
}


def prepare_glue(name: str, source: Path, tokenizer: Path, out: Path) -> None:
    """Write the token ids of a task's texts, without special ids, and its labels.

    Ids of examples are SPLIT-ROW, rows from 0 without the header. Splits whose file is not there
    are left out; a test file without labels gives a split without labels.

    Raises UserError naming file and line: missing or surplus column, bad label, empty text, a line
    that is not UTF-8; a file without rows, no files, an unknown task.
    """
    task = find_task(name)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    paths = [p for p in (source / f"{split}.tsv" for split in SPLITS) if p.exists()]
    if not paths:
        raise UserError(f"{source}: none of {', '.join(f'{s}.tsv' for s in SPLITS)} in it")
    model = Tokenizer(tokenizer)
    splits = {}
    with written_whole(out) as temporary:
        for path in paths:
            rows = list(read_rows(path, task))
            if not rows:
                raise UserError(f"{path}: an empty split: no rows in it")
            _write_split(temporary / path.stem, rows, tokenizer)
            splits[path.stem] = {"examples": len(rows), "labelled": rows[0].label is not None}
        write_meta(
            temporary,
            dataset=out.name,
            kind="glue",
            task=name,
            source=source.as_posix(),
            splits=splits,
            classes=task.classes,
            pairs=len(task.texts) == 2,
            dtype=model.dtype.str,
            vocab_size=model.size,
            tokenizer=model.meta["sha256"],
        )


def find_task(name: str) -> GlueTask:
    """The task of that name; raises UserError with the known names."""
    if name not in TASKS:
        raise UserError(f"{name}: no such GLUE task; known are {', '.join(TASKS)}")
    return TASKS[name]


def read_rows(path: Path, task: GlueTask) -> Iterator[Row]:
    """Rows of one TSV file, checked; raises UserError as prepare_glue does."""
    numbered = lines(path)
    columns = task.headless
    # CoLA's test file is the only one of the task with a header, and without labels
    if columns is None or path.stem == "test":
        _, first = next(numbered, (1, ""))
        header = tuple(first.split("\t"))
        if columns is None or set(task.texts) <= set(header):
            columns = header
        else:
            numbered = lines(path)
    wanted = task.texts if path.stem == "test" else (*task.texts, task.label)
    for column in wanted:
        if column not in columns:
            raise UserError(f"{path}:1: no column {column!r} in the header")
    places = [columns.index(text) for text in task.texts]
    label_place = columns.index(task.label) if task.label in columns else None
    label = _label_reader(task)
    for number, line in numbered:
        where, cells = f"{path}:{number}", line.split("\t")
        if len(cells) != len(columns):
            raise UserError(
                f"{where}: {len(cells)} column(s), {len(columns)} are expected"
                f" ({', '.join(columns)})"
            )
        texts = tuple(cells[place].strip() for place in places)
        if not all(texts):
            raise UserError(f"{where}: an empty {task.texts[texts.index('')]!r}")
        yield Row(texts, None if label_place is None else label(cells[label_place], where))


def _label_reader(task: GlueTask) -> Callable[[str, str], int | float]:
    def read_class(cell: str, where: str) -> int:
        assert task.classes is not None
        if cell not in task.classes:
            raise UserError(f"{where}: label {cell!r} is none of {', '.join(task.classes)}")
        return task.classes.index(cell)

    def read_number(cell: str, where: str) -> float:
        try:
            value = float(cell)
        except ValueError:
            value = -1.0
        if not 0.0 <= value <= task.highest:
            raise UserError(f"{where}: label {cell!r} is no number from 0 to {task.highest:g}")
        return value

    return read_number if task.classes is None else read_class


def _write_split(folder: Path, rows: list[Row], tokenizer: Path) -> None:
    write_split(
        folder,
        [(f"{folder.name}-{number}", *row) for number, row in enumerate(rows)],
        partial(_example, Tokenizer(tokenizer)),
        sizes=[sum(map(len, row.texts)) for row in rows],
        label=folder.name,
    )


def _example(
    model: Tokenizer, item: tuple[str, tuple[str, ...], int | float | None]
) -> Iterator[Example]:
    name, texts, label = item
    encoded = [model.encode(text) for text in texts]
    ids = np.array([i for text in encoded for i in text], model.dtype)
    # `first`: tokens of the first text; the rest are the second's
    columns: Columns = {"id": name, "first": len(encoded[0])}
    yield Example(ids.tobytes(), columns if label is None else {**columns, "label": label})

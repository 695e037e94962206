"""The tasks of GLUE (except WNLI, which the paper omits): files, columns, labels and rows.

GLUE's TSV has no quoting: a quotation mark is text, and a tab always ends a column.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from d2v.data.pieces import Piece, lines_of
from d2v.util.errors import UserError, counted, quoted

IdPairs = tuple[tuple[str, str], ...]

SPLITS = ("train", "dev", "test")
# up to this share, broken rows are assumed to be the known ones
_BROKEN = 0.001


@dataclass(frozen=True)
class GlueTask:
    """Columns and values of a task's texts and labels."""

    dataset: str  # name of the prepared set
    texts: tuple[str, ...]  # one or two columns
    label: str  # column, absent from the official test files
    classes: tuple[str, ...] | None  # in the order of their ids; None: labels are numbers
    highest: float = 0.0  # largest number, where labels are numbers from 0
    # column names for files without a header line
    headless: tuple[str, ...] | None = None
    splits: tuple[str, ...] = SPLITS
    # line breaks inside questions left rows with too few columns in train and dev, which are
    # dropped; some questions are empty, and their rows are kept (fairseq: examples/roberta/
    # preprocess_GLUE_tasks.sh)
    broken: bool = False


BINARY = ("0", "1")
ENTAILMENT = ("not_entailment", "entailment")
PAIR = ("sentence1", "sentence2")
TASKS = {
    "SST-2": GlueTask("sst2", ("sentence",), "label", BINARY),
    "CoLA": GlueTask(
        "cola", ("sentence",), "label", BINARY, headless=("source", "label", "mark", "sentence")
    ),
    "MRPC": GlueTask("mrpc", ("#1 String", "#2 String"), "Quality", BINARY),
    "RTE": GlueTask("rte", PAIR, "label", ENTAILMENT),
    "STS-B": GlueTask("stsb", PAIR, "score", None, highest=5.0),
    "QNLI": GlueTask("qnli", ("question", "sentence"), "label", ENTAILMENT),
    "QQP": GlueTask("qqp", ("question1", "question2"), "is_duplicate", BINARY, broken=True),
    "MNLI": GlueTask(
        "mnli",
        PAIR,
        "gold_label",
        ("contradiction", "neutral", "entailment"),  # order of fairseq's RoBERTa for MNLI
        splits=("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched"),
    ),
}


class Row(NamedTuple):
    """One example; `number` is its row in the file, from 0; `label` is None if unlabelled."""

    number: int
    texts: tuple[str, ...]
    label: int | float | None


@dataclass(frozen=True)
class SplitFile:
    """A split and its file; if the file has two splits, this one is `listed` or all `others`."""

    name: str
    path: Path
    task: GlueTask
    columns: tuple[str, ...]
    header: bool  # whether the first line names the columns
    listed: IdPairs = ()
    others: bool = False

    @property
    def labelled(self) -> bool:
        """Whether the file has a column of labels."""
        return self.task.label in self.columns

    def rows(self, piece: Piece) -> Iterator[Row | None]:
        """Check and yield the rows of a piece of the file; None for a known broken row.

        Raises UserError naming the line for: a missing or extra column, an invalid label, an empty
        text, a line that is not UTF-8.
        """
        task, header, listed = self.task, int(self.header), frozenset(self.listed)
        places = [self.columns.index(text) for text in task.texts]
        label = self.columns.index(task.label) if self.labelled else None
        for line, content in lines_of(piece):
            if line <= header:
                continue
            where, cells = f"{self.path}:{line}", content.split("\t")
            if len(cells) != len(self.columns):
                if task.broken and self.labelled:
                    yield None
                    continue
                raise UserError(
                    f"{where}: {counted(len(cells), 'column')}, but {len(self.columns)} are"
                    f" expected ({', '.join(c[:30] for c in self.columns)})"
                )
            if listed and (pair_of(cells, self.columns) in listed) == self.others:
                continue
            texts = tuple(cells[place].strip() for place in places)
            if not (any if task.broken else all)(texts):
                raise UserError(f"{where}: column {task.texts[texts.index('')]!r} is empty")
            value = None if label is None else read_label(task, cells[label], where)
            yield Row(line - 1 - header, texts, value)

    def count(self) -> tuple[int, int]:
        """Count the examples and the known broken rows; reads and checks the whole file.

        Raises UserError as `rows` does, for a file without rows, and for too many broken rows.
        """
        good = broken = 0
        for row in self.rows(Piece(self.path)):
            good, broken = good + (row is not None), broken + (row is None)
        if broken > _BROKEN * (good + broken):
            raise UserError(
                f"{self.path}: {broken} of {good + broken} rows do not have {len(self.columns)}"
                " columns, many more than in the official file; download it again"
            )
        if not good:
            raise UserError(f"{self.path}: an empty split: it contains no rows")
        return good, broken


def find_task(name: str) -> GlueTask:
    """Return the task called `name`; raises UserError with the known names."""
    if name not in TASKS:
        raise UserError(f"{name}: no such GLUE task; known tasks: {', '.join(TASKS)}")
    return TASKS[name]


def open_split(path: Path, name: str, task: GlueTask) -> SplitFile:
    """Open the file of a split and read its columns; raises UserError for a missing one."""
    _, first = next(lines_of(Piece(path)), (1, ""))
    columns, header = tuple(first.split("\t")), True
    test = name.startswith("test")
    # CoLA's test file, unlike its train and dev files, has a header and no labels
    if task.headless is not None and not (test and set(task.texts) <= set(columns)):
        columns, header = task.headless, False
    for column in task.texts if test else (*task.texts, task.label):
        if column not in columns:
            raise UserError(f"{path}:1: no column {column!r} in the header")
    return SplitFile(name, path, task, columns, header)


def pair_of(cells: list[str], columns: tuple[str, ...]) -> tuple[str, str]:
    """Return the two ids of a row of MRPC."""
    return cells[columns.index("#1 ID")], cells[columns.index("#2 ID")]


def read_label(task: GlueTask, cell: str, where: str) -> int | float:
    """Return the class number, or the number itself; raises UserError for any other cell."""
    if task.classes is not None:
        if cell not in task.classes:
            raise UserError(
                f"{where}: label {quoted(cell)} is not one of {', '.join(task.classes)}"
            )
        return task.classes.index(cell)
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= task.highest:
        raise UserError(f"{where}: label {quoted(cell)} is not a number from 0 to {task.highest:g}")
    return value

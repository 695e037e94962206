"""Uniqueness checks: seeds of a run, and tasks that fill one table cell."""

from collections.abc import Iterator, Mapping

from d2v.params.finetuning import Finetune
from d2v.params.pretraining import Pretrain

# rows of the arms that do not start from the task's own pre-training (d2v.results.cells.row_of)
ARM_ROWS = {"scratch": "from scratch", "input": "input targets"}


def repetitions(
    pretrain: Mapping[str, Pretrain], finetune: Mapping[str, Finetune]
) -> Iterator[str]:
    """Yield an error for each repeated seed or grid point, and for tasks that share a cell.

    A repeated seed yields the same run again, which would count as an independent run. Two tasks in
    one table cell would be averaged as if they were two seeds.
    """
    for path, values in _lists(pretrain, finetune):
        repeated = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        if repeated:
            yield (
                f"{path}: {', '.join(map(str, repeated))} is given more than once; remove the"
                " duplicates"
            )
    yield from _cells(pretrain, finetune)


def _lists(
    pretrain: Mapping[str, Pretrain], finetune: Mapping[str, Finetune]
) -> Iterator[tuple[str, list[object]]]:
    for name, run in pretrain.items():
        yield f"pretrain.{name}.seeds", [*run.seeds]
    for name, task in finetune.items():
        yield f"finetune.{name}.seeds", [*task.seeds]
        yield f"finetune.{name}.arms", [*task.arms]
        yield f"finetune.{name}.metrics", [*task.metrics]
        if task.grid is not None:
            for key in ("seeds", "lr", "steps", "freeze"):
                yield f"finetune.{name}.grid.{key}", [*getattr(task.grid, key)]


def _cells(pretrain: Mapping[str, Pretrain], finetune: Mapping[str, Finetune]) -> Iterator[str]:
    filled: dict[tuple[str, str, str], str] = {}  # (table, row, column) to the task that fills it
    for name, task in finetune.items():
        if task.column in task.more:
            yield f"finetune.{name}.more: {task.column} is already the task's own column"
        if task.pretrain not in pretrain:
            continue
        if task.row in ARM_ROWS.values():
            yield (
                f"finetune.{name}.row: {task.row} is the row of another arm, whose runs would be"
                " averaged with these; give another name"
            )
        for row in _rows(pretrain, task):
            for column in dict.fromkeys((task.column, *task.more)):
                other = filled.setdefault((task.table, row, column), name)
                if other != name:
                    yield (
                        f"finetune.{name}: table {task.table}, row {row}, column {column} is"
                        f" already filled by finetune.{other}; give another row or column"
                    )


def _rows(pretrain: Mapping[str, Pretrain], task: Finetune) -> list[str]:
    """Table rows of the task's arms, named as in the tables (d2v.results.cells.row_of)."""
    row = task.row or "data2vec"
    if task.released is not None:
        row += ", released weights, evaluated here"
    elif pretrain[task.pretrain].released is not None:
        row += ", released weights, fine-tuned here"
    return [ARM_ROWS.get(arm, row) for arm in task.arms]

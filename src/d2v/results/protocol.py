"""Notes under each table: how its values were obtained."""

from collections.abc import Iterable

from d2v.evaluation.metrics import METRICS
from d2v.params import Decode, Finetune, Pretrain
from d2v.results.cells import AVERAGE, INPUT, OURS, SCRATCH, Table, row_of
from d2v.results.wording import REPORTED_UNITS

NONE = "–"
PARTIAL = "‡"  # marks a cell whose data lacks a part of the official set


def protocol(table: Table) -> list[str]:
    """Lines on splits, seeds, settings and their choice, decoding, and the table's terms."""
    named: dict[str, list[str]] = {}  # tasks that share a protocol, by protocol
    for key, task in table.tasks.items():
        row = row_of(table.experiment, task, task.arms[-1])
        row = "" if row == OURS else f"{row}, "
        named.setdefault(_task(table, key, task), []).append(f"{row}{task.column}")
    lines = [f"{'; '.join(names)}: {text}" for text, names in named.items()]
    if table.pairs:
        lines.append(
            "Difference: of the two means, with its 95 % interval (Welch's t). A gain or a loss is"
            " a difference whose interval excludes zero. Where a row has several pre-training"
            " runs, each counts once, with the mean of its seeds; this also applies to ±."
        )
    if table.experiment.scale == "paper":
        lines.append(
            "Gap: reproduced − reported, with its 95 % interval (Student's t). Within the spread:"
            " the interval, widened by the rounding of one decimal, includes zero. Reported values"
            " have no spread."
        )
    if any(column.heading == AVERAGE for column in table.columns):
        few = sum(task.labels is not None for task in table.tasks.values())
        which = " with all labels" if 0 < few < len(table.tasks) else ""
        lines.append(f"Average: mean of the scores of tasks{which} within a seed, then over seeds.")
    if any(cell.undefined for cell in table.cells.values()):
        lines.append(
            "Undefined: the metric has no value for at least one of the seeds (constant"
            " predictions, nothing to score), so there is no mean, difference or best value."
        )
    return [*lines, f"Each cell's runs: {table.name}.csv."]


def units(table: Table) -> str:
    """Units and sources of the reported values."""
    sources = joined(list(dict.fromkeys(table.reported["source"])))
    origin = f" Source of every value: {sources}. {NONE}: not given." if sources else ""
    return f"{REPORTED_UNITS[table.name]}{origin}"


def footnotes(table: Table) -> list[str]:
    """Notes on reported rows, and on recipes that stand in for unpublished ones."""
    frame = table.reported
    notes: dict[str, list[str]] = {}
    for line in frame[frame["note"] != ""].drop_duplicates(["method", "note"]).to_dict("records"):
        notes.setdefault(line["method"], []).append(line["note"])
    lines = [f"{method}: {'; '.join(texts)}." for method, texts in notes.items()]
    stands_in = {(t.row or OURS, t.stand_in) for t in table.tasks.values() if t.stand_in}
    lines += [f"† {row}: nobody published this recipe. {text}" for row, text in sorted(stands_in)]
    return lines


def partial_notes(table: Table) -> list[str]:
    """One line per row with incomplete data, naming the sets and what they lack."""
    lines = []
    for row in table.rows:
        cells = [cell for (name, _), cell in table.cells.items() if name == row]
        sets = dict.fromkeys(part for cell in cells for part in cell.partial)
        if sets:
            lines.append(f"{PARTIAL} {row}: a part of the data is missing: {', '.join(sets)}.")
    return lines


def joined(words: list[str]) -> str:
    """Words joined by "and"."""
    return " and ".join(words)


def _task(table: Table, key: str, task: Finetune) -> str:
    splits = [task.test_split, *task.more.values()]
    text = f"split {joined(splits)} of {task.data}; {_training(table, key, task)}"
    if task.decode:
        text += f"; decoding: {_decoding(task.decode)}"
    return f"{text}."


def _training(table: Table, key: str, task: Finetune) -> str:
    """How the weights of a task's runs were obtained."""
    if task.released:
        return f"the fine-tuned weights {task.released.path}, unchanged"
    pretrain = table.experiment.pretrain[task.pretrain]
    names = {"scratch": SCRATCH, "input": INPUT, "data2vec": OURS}
    used = ", ".join(f"{names[arm]} {table.settings[key, arm] or NONE}" for arm in task.arms)
    text = (
        f"fine-tuning seeds {_list(task.seeds)}, {_pretrained(pretrain)};"
        f" setting {_chosen(task)}: {used}"
    )
    if task.keep == "best":
        text += f"; weights of the best {METRICS[task.metrics[0]].label} on {task.dev_split}"
    return text


def _chosen(task: Finetune) -> str:
    split = task.dev_split + (", which is also reported," if task.chosen_on_test else "")
    if not task.grid:
        where = "" if task.chosen_on_test else f" on {split}"
        return f"fixed beforehand for each arm{where}"
    rates, steps = _list(f"{lr:g}" for lr in task.grid.lr), _list(task.grid.steps)
    frozen = "; features trained or frozen" if len(task.grid.freeze) > 1 else ""
    tried = f"(learning rates {rates}; steps {steps}{frozen}; seeds {_list(task.grid.seeds)})"
    if task.grid.best_over == "table":
        return f"the one best learning rate over all tasks of the row on {split} {tried}"
    return (
        f"chosen for each arm by {METRICS[task.metrics[0]].label} on {split} from the same grid"
        f" {tried}"
    )


def _decoding(decode: Decode) -> str:
    if decode.search:
        return (
            f"lexicon and n-gram, beam {decode.beam}, weights searched on the development split in"
            f" {decode.search.trials} trials"
        )
    return (
        f"lexicon and n-gram, beam {decode.beam}, weight {decode.lm_weight:g}, word score"
        f" {decode.word_score:g}"
    )


def _pretrained(pretrain: Pretrain) -> str:
    if pretrain.released:
        return f"from the released weights {pretrain.released.path}"
    seeds = pretrain.seeds
    if len(seeds) == 1:
        return f"one pre-training (seed {seeds[0]}), whose own spread is not in the ±"
    return f"pre-training seeds {_list(seeds)} in turn"


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))

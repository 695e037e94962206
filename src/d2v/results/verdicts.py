"""Summary of all tables of an experiment, for the page and the terminal."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from d2v.results.cells import AVERAGE, INPUT, OURS, SCRATCH, Column, Gain, Gap, Table
from d2v.results.protocol import PARTIAL
from d2v.util.errors import counted

Kind = Literal["better", "same", "worse", "open"]
KINDS: dict[str, Kind] = {
    "gain": "better",
    "no clear gain": "same",
    "no clear difference": "same",
    "loss": "worse",
    "better": "better",
    "within the spread": "same",
    "worse": "worse",
}  # keyed by the verdicts of Gain and Gap; all others cannot be judged
NAMED = 6  # largest number of tasks that a sentence lists by name


@dataclass(frozen=True)
class Verdict:
    """Comparison of a measured value with another: from scratch, or reported by the paper."""

    table: Table
    column: Column
    row: str
    other: float
    found: Gain | Gap

    @property
    def kind(self) -> Kind:
        """Whether the value is better, worse, the same, or cannot be judged (open)."""
        return KINDS.get(self.found.verdict.split(" (")[0], "open")

    @property
    def partial(self) -> bool:
        """Whether a part of the data behind the value is missing."""
        return bool(self.table.cells[self.row, self.column].partial)

    @property
    def better_by(self) -> float:
        """The difference, signed so that positive is better."""
        return self.found.value if self.column.higher_is_better else -self.found.value

    @property
    def name(self) -> str:
        """Name of the task, with the row if it is not data2vec's; for an ablation, the row."""
        if self.table.name.startswith("ablation"):
            return self.row
        return self.column.heading + (f", {self.row}" if self.row != OURS else "")


def against_scratch(tables: Iterable[Table]) -> list[Verdict]:
    """Gains of pre-training: one verdict per score."""
    return _against(SCRATCH, tables)


def against_input(tables: Iterable[Table]) -> list[Verdict]:
    """Differences between the teacher's targets and targets of the input, per score."""
    return _against(INPUT, tables)


def _against(other: str, tables: Iterable[Table]) -> list[Verdict]:
    return [
        Verdict(t, c, row, t.cells[other, c].value, t.gain(c, other, row))
        for t in tables
        for row, subtracted in t.pairs
        if subtracted == other and row != INPUT
        for c in t.columns
        if c.headline and t.compares(row, other, c)
    ]


def against_reported(tables: Iterable[Table]) -> list[Verdict]:
    """Gaps to the paper's values, for experiments at paper scale."""
    found = [
        (t, c, row, t.gap(row, c))
        for t in tables
        if t.experiment.scale == "paper"
        for c in t.columns
        for row in t.rows
        if t.cells[row, c].planned
    ]
    return [
        Verdict(t, c, row, t.cells[row, c].value - gap.value, gap)
        for t, c, row, gap in found
        if gap is not None
    ]


def answers(tables: Sequence[Table]) -> list[str]:
    """Text on whether pre-training helps, and on how close the results are to the paper's."""
    found = []
    if gains := [v for v in against_scratch(tables) if v.column.heading != AVERAGE]:
        found.append(_pays(gains))
    if compared := [v for v in against_input(tables) if v.column.heading != AVERAGE]:
        found.append(_targets(compared))
    if gaps := against_reported(tables):
        found.append(_close(gaps))
    return found


def _pays(verdicts: Sequence[Verdict]) -> str:
    better = _of(verdicts, "better")
    judged = [v for v in verdicts if v.kind != "open"]
    if not judged:
        return "Whether pre-training pays cannot be judged yet."
    share = _share(len(better), len(judged), open_=len(judged) < len(verdicts))
    text = f"Pre-training pays on {share}."
    if same := _of(verdicts, "same"):
        text += f" It makes no clear difference on {_named(same)}."
    if worse := _of(verdicts, "worse"):
        text += f" It hurts on {_named(worse)}."
    if left := _of(verdicts, "open"):
        text += f" No verdict yet on {_named(left)}."
    return text + _of_a_part(judged)


def _share(part: int, judged: int, open_: bool) -> str:
    """Such as "2 of 3 tasks"; `open_` tells that there are more than those that were judged."""
    if part == 0:
        return "no task"
    if part < judged:
        return f"{part} of {judged} tasks"
    every = {1: "the only task", 2: "both tasks"}.get(judged, f"all {judged} tasks")
    return every + " judged so far" * open_


def _targets(verdicts: Sequence[Verdict]) -> str:
    """Whether the teacher's targets beat those of the input."""
    told = [
        f"{verb} on {_named(some)}."
        for kind, verb in (("better", "are better"), ("same", "are not clearly different"),
                           ("worse", "are worse"), ("open", "cannot be judged yet"))
        if (some := [v for v in verdicts if v.kind == kind])
    ]  # fmt: skip
    return "Compared with targets of the input, the teacher's " + " They ".join(told)


def _close(verdicts: Sequence[Verdict]) -> str:
    same, better, worse = (len(_of(verdicts, kind)) for kind in ("same", "better", "worse"))
    open_ = _of(verdicts, "open")
    single = sum(not math.isnan(v.found.value) for v in open_)
    told = f"{same} as reported (within the spread of the seeds), {better} better, {worse} worse"
    text = f"Of the paper's {counted(len(verdicts), 'value')}: "
    text += f"{told}." if len(open_) < len(verdicts) else "none can be judged yet."
    each = " each" * (single > 1)
    text += f" {single} from one run{each}, without a spread." if single else ""
    undefined = sum(bool(v.found.undefined) for v in open_)
    text += f" {undefined} undefined." if undefined else ""
    missing = len(open_) - single - undefined
    text += f" {missing} not measured yet." if missing else ""
    return text + _of_a_part([v for v in verdicts if v not in open_])


def _of_a_part(verdicts: Sequence[Verdict]) -> str:
    """How many verdicts rest on data of which a part is missing; empty if none does."""
    count = sum(v.partial for v in verdicts)
    return f" {PARTIAL} Of these, {count} with incomplete data." if count else ""


def _of(verdicts: Iterable[Verdict], kind: Kind) -> list[Verdict]:
    return [v for v in verdicts if v.kind == kind]


def _named(verdicts: Sequence[Verdict]) -> str:
    names = [v.name for v in verdicts]
    if len(names) > NAMED:
        return f"{len(names)} tasks"
    if any(", " in name for name in names):  # such as "MNIST digits, 100 labels"
        return "; ".join(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def spread(found: Gain | Gap) -> tuple[float, float] | None:
    """The 95 % interval of a difference, signed so that positive is better.

    None if the difference or its interval is missing.
    """
    if math.isnan(found.value) or math.isnan(found.half):
        return None
    middle = found.value if found.column.higher_is_better else -found.value
    return middle - found.half, middle + found.half

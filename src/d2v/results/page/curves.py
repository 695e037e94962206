"""Learning curves of the runs of one name: losses, standard deviations, validations."""

import math
from collections.abc import Sequence

from d2v.evaluation.metrics import METRICS
from d2v.experiment.run import PretrainRun
from d2v.results.page import svg
from d2v.results.page.records import Record
from d2v.results.page.svg import WIDTH, Chart, Scale, fitted
from d2v.results.wording import number

Line = tuple[str, str, list[int], list[float]]  # class, name, steps, values
TOP, BOTTOM, LEFT = 8, 160, 46  # edges of the plot, in pixels
ARMS = {"scratch": "from scratch", "input": "input targets", "data2vec": "data2vec"}
SPREAD = (("target_std", "", "targets"), ("prediction_std", " dotted", "predictions"))


def curves(records: Sequence[Record], name: str) -> list[Chart]:
    """Charts of loss and standard deviations, or validations, against the optimiser step."""
    place = svg.slug(name)
    losses = [(_kind(r), _name(r), *r.curve("loss")) for r in records]
    charts = [_chart(f"{place}-loss", "Training loss", losses, _arms(records))]
    if records[0].run.kind == "pretrain":
        charts.append(_spread(f"{place}-std", records))
    else:
        charts += _validations(place, records)
    return [chart for chart in charts if chart is not None]


def _spread(place: str, records: Sequence[Record]) -> Chart | None:
    lines = [
        (_kind(r) + dash, f"{_name(r)}, {what}", *r.curve(key))
        for r in records
        for key, dash, what in SPREAD
    ]
    key = tuple((f"curve {_kind(records[0])}{dash}", what) for _, dash, what in SPREAD)
    note = "Mean over channels. Near 0 would mean that representations have collapsed."
    return _chart(place, "Std of targets and predictions", lines, key, note)


def _validations(place: str, records: Sequence[Record]) -> list[Chart | None]:
    found = [(record, record.validations()) for record in records]
    charts = []
    for metric in dict.fromkeys(key for _, validations in found for key in validations):
        lines = [(_kind(r), _name(r), *v[metric]) for r, v in found if metric in v]
        known = METRICS.get(metric)
        title = f"{known.label[0].upper()}{known.label[1:]}" if known else metric
        better = "" if known is None else f", {'higher' if known.higher_is_better else 'lower'}"
        title += f" on the development split{better} is better" * bool(better)
        id = f"{place}-{metric}".replace("_", "-")
        charts.append(_chart(id, title, lines, _arms(records)))
    return charts


def _chart(
    id: str, title: str, lines: Sequence[Line], key: tuple[tuple[str, str], ...], note: str = ""
) -> Chart | None:
    """Chart of the lines; None if no run has such values."""
    lines = [line for line in lines if any(map(math.isfinite, line[3]))]
    if not lines:
        return None
    last = max(steps[-1] for _, _, steps, _ in lines)
    across = Scale(0, max(last, 1), LEFT, WIDTH - 12)
    up = fitted([v for line in lines for v in line[3]], BOTTOM, TOP)
    parts = svg.below(across, TOP, BOTTOM, "optimiser step", 4)
    parts += svg.beside(up, LEFT, WIDTH - 12)
    for kind, name, steps, values in lines:
        points = [(across(x), up(y)) for x, y in zip(steps, values, strict=True)]
        end = number(_last(values), ".3g")
        parts.append(svg.path(points, kind, f"{name}: ends at {end}, step {steps[-1]}"))
    ends = sorted(_last(values) for *_, values in lines)
    low, high = number(ends[0], ".3g"), number(ends[-1], ".3g")
    at = f"at {low}" if low == high else f"between {low} and {high}"
    runs = "1 curve" if len(lines) == 1 else f"{len(lines)} curves"
    label = f"{title} by optimiser step: {runs} up to step {last}, ending {at}."
    return Chart(id, title, svg.drawing(WIDTH, BOTTOM + 36, label, parts), note, key)


def _last(values: Sequence[float]) -> float:
    return next(v for v in reversed(values) if math.isfinite(v))


def _arms(records: Sequence[Record]) -> tuple[tuple[str, str], ...]:
    arms = dict.fromkeys(map(_arm, records))
    return tuple((f"curve {_hue(arm)}", ARMS.get(arm, arm)) for arm in arms)


def _arm(record: Record) -> str:
    run = record.run
    if isinstance(run, PretrainRun):
        return "input" if run.params.target.kind == "input" else "data2vec"
    return run.arm or "data2vec"


def _kind(record: Record) -> str:
    return _hue(_arm(record))


def _hue(arm: str) -> str:
    return {"scratch": "scratch", "input": "hue1"}.get(arm, "ours")


def _name(record: Record) -> str:
    arm = f"{ARMS.get(record.run.arm, record.run.arm)}, " if record.run.arm else ""
    point = f", {record.run.point}" if record.run.point else ""
    return f"{arm}seed {record.run.seed}{point}"

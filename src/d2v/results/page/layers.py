"""Accuracy of the linear probes by layer, for the page."""

from d2v.results import probes
from d2v.results.cells import INPUT, SCRATCH, Table
from d2v.results.page import svg
from d2v.results.page.svg import WIDTH, Chart, Scale, fitted
from d2v.results.wording import number

LEFT, TOP, BOTTOM = 44, 12, 196
HUES = {SCRATCH: "scratch", INPUT: "hue1"}


def by_layer(table: Table) -> list[Chart]:
    """One chart per task that has probes."""
    tasks = dict.fromkeys(p.task for p in table.probed)
    return [_chart(table, task) for task in tasks]


def _chart(table: Table, task: str) -> Chart:
    found = probes.by_layer(table, task, "linear")
    deepest = max(map(len, found.values())) - 1
    across = Scale(0, max(deepest, 1), LEFT, WIDTH - 12)
    up = fitted([e.value for layers in found.values() for e in layers], BOTTOM, TOP)
    parts = svg.below(across, TOP, BOTTOM, "layer (0: input of the first block)", max(deepest, 1))
    parts += svg.beside(up, LEFT, WIDTH - 12)
    told = []
    for row, layers in found.items():
        values = ", ".join(number(e.value, ".1f") for e in layers)
        points = [(across(i), up(e.value)) for i, e in enumerate(layers)]
        kind = HUES.get(row, "ours")
        parts.append(svg.path(points, kind, f"{row}: {values}"))
        parts += [svg.mark(kind, x, y, f"{row}, layer {i}") for i, (x, y) in enumerate(points)]
        told.append(f"{row}: {values}")
    column = table.tasks[task].column
    title = f"Linear probe by layer: {column}"
    label = f"{title}, accuracy in %. {'. '.join(told)}."
    key = tuple((f"curve {HUES.get(row, 'ours')}", row) for row in found)
    note = "Accuracy on the test split in %, mean over seeds; the features are not trained further."
    drawn = svg.drawing(WIDTH, BOTTOM + 36, label, parts)
    return Chart(f"{svg.slug(task)}-layers", title, drawn, note, key)

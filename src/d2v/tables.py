"""Tables in the shape of the paper's Tables 1, 2 and 4: CSV, Markdown and plain text.

The fixed wording is here; what an experiment calls its columns is in its parameter file.
"""

import math
import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from d2v.cells import AVERAGE, REPORTED, ROWS, Cell, Column, Gain, Table, collect
from d2v.metrics import METRICS
from d2v.params import ARMS, CTC, Experiment, Finetune

NONE = "–"
TITLES = {
    "imagenet": ("Table 1", "image classification", "ImageNet-1K"),
    "librispeech": ("Table 2", "speech recognition", "LibriSpeech test-other"),
    "glue": ("Table 4", "natural language understanding", "GLUE development sets"),
}
MINIATURE = {
    "imagenet": "MNIST digits, few labels",
    "librispeech": "synthetic speech (espeak-ng voices)",
    "glue": "small tasks in GLUE's format, not GLUE itself",
}
REPORTED_UNITS = {
    "imagenet": "Top-1 accuracy in % ↑ on ImageNet-1K validation images.",
    "librispeech": "Word error rate in % ↓ on test-other by amount of labelled speech, 4-gram"
    " language model. Unlabelled speech: LS-960 = LibriSpeech, 960 h; LL-60K = Libri-light,"
    " 60,000 h; MIX-94K = 94,000 h of several sources.",
    "glue": "Development sets ↑: accuracy in %; MRPC and QQP mean of accuracy and F1; STS-B mean of"
    " Pearson and Spearman ×100; CoLA Matthews ×100. The average is over eight tasks, MNLI being"
    " the mean of its two columns. data2vec: means over five fine-tuning runs.",
}


def build(experiment: Experiment, results: Path, reported: Path = REPORTED) -> None:
    """Write `tables/<table>.{csv,md}` in an experiment's results folder.

    Missing or unreadable metrics are shown as gaps and named. The same runs give the same bytes.
    """
    folder = results / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for table in collect(experiment, results, reported):
        _write(folder / f"{table.name}.csv", _csv(table))
        _write(folder / f"{table.name}.md", markdown(table))


def render_console(experiment: Experiment, results: Path, reported: Path = REPORTED) -> str:
    """The tables as plain text for a terminal, and where their files are."""
    tables = collect(experiment, results, reported)
    folder = results / "tables"
    return "\n\n".join([*map(console, tables), f"tables: {folder}/*.md (to read), *.csv (cells)"])


def markdown(table: Table) -> str:
    """The whole page of a table: measured rows, protocol, and the reported rows set apart."""
    headline = [c for c in table.columns if c.headline]
    further = [c for c in table.columns if not c.headline]
    parts = [
        f"# {_title(table)}",
        _opening(table),
        _markdown_grid(_measured(table, headline, "<br>")),
        "\n".join(["**Gain** (data2vec − from scratch):", "", *(f"- {g}" for g in _gains(table))]),
    ]
    if further:
        parts += ["Further metrics of the same runs:"]
        parts += [_markdown_grid(_measured(table, further, "<br>"))]
    parts += ["## Protocol", "\n".join(f"- {line}" for line in _protocol(table))]
    if table.gaps:
        parts += ["## Gaps", "\n".join(f"- {gap}" for gap in table.gaps)]
    return "\n\n".join([*parts, *_reported(table)]) + "\n"


def console(table: Table) -> str:
    """Measured rows, gains and gaps, and the paper's data2vec values, for a terminal."""
    headline = [c for c in table.columns if c.headline]
    further = [c for c in table.columns if not c.headline]
    title = _title(table)
    lines = [title, "=" * len(title), *_plain_grid(table, headline)]
    lines += [f"  gain · {gain}".replace("**", "") for gain in _gains(table)]
    if further:
        lines += ["", "further metrics of the same runs", *_plain_grid(table, further)]
    lines += [f"  gap · {gap}" for gap in table.gaps]
    for method, cells in _values(table.reported).items():
        if method.startswith("data2vec"):
            values = ", ".join(f"{column} {value}" for column, value in cells.items())
            lines.append(f"reported by the paper{_scale(table)}: {method}: {values}")
    return "\n".join(lines)


def _title(table: Table) -> str:
    number, what, _ = TITLES[table.name]
    small = f" – {MINIATURE[table.name]}" if table.experiment.scale == "miniature" else ""
    return f"{table.experiment.title}: {what}{small} (in the shape of the paper's {number})"


def _opening(table: Table) -> str:
    notes = [f"**{t.column}**: {t.note}" for t in table.tasks.values() if t.note]
    text = (
        "Mean ± standard error over n fine-tuning seeds, test split. ↑ higher, ↓ lower is better."
    )
    return "\n\n".join([text, *notes])


def _label(column: Column, tasks: dict[str, Finetune]) -> str:
    """Metric, decoding, unit and direction of a column."""
    arrow = "↑" if column.higher_is_better else "↓"
    if column.task == AVERAGE:
        return f"mean over tasks {arrow}"
    metrics = [METRICS[name] for name in column.metrics]
    name = metrics[0].label if len(metrics) == 1 else f"mean of {_and([m.label for m in metrics])}"
    task = tasks[column.task]
    if isinstance(task.task, CTC) and metrics[0].column == "prediction":
        name = f"{name}, {'lexicon + n-gram' if task.decode else 'greedy'}"
    return f"{name}, {metrics[0].unit} {arrow}"


def _measured(table: Table, columns: list[Column], joint: str) -> list[list[str]]:
    """Header and the two rows, then their difference, as text."""
    header = [f"{c.heading}{joint}{_label(c, table.tasks)}" for c in columns]
    rows = [[ROWS[arm], *(_cell(table.cells[arm, c]) for c in columns)] for arm in ARMS]
    gains = [_signed(table.gain(c)) for c in columns]
    return [["", *header], *rows, ["difference", *gains]]


def _cell(cell: Cell) -> str:
    """`77.9 ± 0.3 (n=3)`; the number of seeds planned where some are missing."""
    if math.isnan(cell.value):
        return NONE
    spread = "" if math.isnan(cell.stderr) else f" ± {_spread(cell.stderr)}"
    planned = "" if cell.n == cell.planned else f" of {cell.planned}"
    return f"{cell.value:.1f}{spread} (n={cell.n}{planned})"


def _spread(stderr: float) -> str:
    return f"{stderr:.1f}" if stderr >= 0.05 or stderr == 0 else "<0.1"


def _signed(gain: Gain) -> str:
    if math.isnan(gain.value):
        return NONE
    spread = "" if math.isnan(gain.stderr) else f" ± {_spread(gain.stderr)}"
    return f"{gain.value:+.1f}{spread}".replace("-", "−")


def _gains(table: Table) -> list[str]:
    """One sentence a score: the difference, its standard error, and the verdict."""
    gains = [table.gain(c) for c in table.columns if c.headline]
    return [f"{g.column.heading}: {_signed(g)}, **{g.verdict}**" for g in gains]


def _protocol(table: Table) -> list[str]:
    """How each task's cells came about: split, seeds, settings and how chosen, decoding."""
    lines = []
    for key, task in table.tasks.items():
        seeds = table.experiment.pretrain[task.pretrain].seeds
        used = {arm: table.settings[key, arm] or NONE for arm in ARMS}
        if task.grid:
            rates, steps = _list(f"{lr:g}" for lr in task.grid.lr), _list(task.grid.steps)
            frozen = "; features trained or frozen" if len(task.grid.freeze) > 1 else ""
            how = (
                f"chosen for each arm by {METRICS[task.metrics[0]].label} on {task.dev_split} from"
                f" the same grid (rates {rates}; steps {steps}{frozen}; seeds"
                f" {_list(task.grid.seeds)})"
            )
        else:
            how = f"fixed beforehand for each arm on {task.dev_split}"
        text = (
            f"{task.column}: split {task.test_split} of {task.data}; fine-tuning seeds"
            f" {_list(task.seeds)}, {_pretrained(seeds)}; setting {how}:"
            f" from scratch {used['scratch']}, data2vec {used['data2vec']}"
        )
        if task.decode:
            text += (
                f"; decoding: lexicon and n-gram, beam {task.decode.beam}, weight"
                f" {task.decode.lm_weight:g}, word score {task.decode.word_score:g}"
            )
        lines.append(f"{text}.")
    lines.append(
        "Difference: of the two means; its standard error is the root of the summed squares of"
        " theirs. A gain or a loss is a difference of more than two of them."
    )
    if any(column.task == AVERAGE for column in table.columns):
        lines.append("Average: mean of the tasks' scores within a seed, then over seeds.")
    return [*lines, f"Each cell's runs: {table.name}.csv, beside this file."]


def _reported(table: Table) -> list[str]:
    """The paper's table, with its own units, sources and notes."""
    number, _, sets = TITLES[table.name]
    frame = table.reported
    columns = list(dict.fromkeys(frame["column"]))
    with_setup = bool(frame["setup"].any())
    rows = [["", *(["pre-training data, LM"] if with_setup else []), *columns]]
    cells = _values(frame)
    for group, members in frame.groupby("group", sort=False):
        if group:
            rows.append(["*" + str(group) + "*", *[""] * (len(rows[0]) - 1)])
        for method, lines in members.groupby("method", sort=False):
            setup = [lines["setup"].iloc[0]] if with_setup else []
            rows.append([str(method), *setup, *(cells[str(method)].get(c, NONE) for c in columns)])
    sources = _and(list(dict.fromkeys(frame["source"])))
    notes: dict[str, list[str]] = {}
    for line in frame[frame["note"] != ""].drop_duplicates(["method", "note"]).to_dict("records"):
        notes.setdefault(line["method"], []).append(line["note"])
    footnotes = [f"- {method}: {'; '.join(texts)}." for method, texts in notes.items()]
    apart = (
        f"**Another scale**: full-size models on {sets}; not comparable with the rows above.\n\n"
        if table.experiment.scale == "miniature"
        else ""
    )
    return [
        f"## Reported by the paper ({number})",
        f"{apart}{REPORTED_UNITS[table.name]} Source of every value: {sources}. {NONE}: not given.",
        _markdown_grid(rows, 1 + with_setup),
        *(["\n".join(footnotes)] if footnotes else []),
    ]


def _values(reported: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Reported values as printed, by method and column."""
    found: dict[str, dict[str, str]] = {}
    for line in reported.to_dict("records"):
        found.setdefault(line["method"], {})[line["column"]] = line["value"] or NONE
    return found


def _scale(table: Table) -> str:
    return " (another scale)" if table.experiment.scale == "miniature" else ""


def _pretrained(seeds: list[int]) -> str:
    if len(seeds) == 1:
        return f"one pre-training (seed {seeds[0]}), whose own spread is not in the ±"
    return f"pre-training seeds {_list(seeds)} in turn"


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _and(words: list[str]) -> str:
    return " and ".join(words)


def _markdown_grid(rows: list[list[str]], texts: int = 1) -> str:
    """The first row is the header; the first `texts` columns hold words, the others numbers."""
    rule = ["---"] * texts + ["---:"] * (len(rows[0]) - texts)
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def _plain_grid(table: Table, columns: list[Column]) -> list[str]:
    """Aligned columns; headings above their metrics."""
    rows = _measured(table, columns, "\n")
    header = [[*text.split("\n"), ""][:2] for text in rows[0]]
    rows = [[h[0] for h in header], [h[1] for h in header], *rows[1:]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _csv(table: Table) -> str:
    """Measured cells with four decimals, then reported ones as printed; empty where missing."""
    lines = []
    for arm, label in ROWS.items():
        for column in table.columns:
            cell = table.cells[arm, column]
            line = {
                "row": label,
                "column": column.heading,
                "metric": column.name,
                "split": column.split,
                "value": "" if math.isnan(cell.value) else f"{cell.value:.4f}",
                "stderr": "" if math.isnan(cell.stderr) else f"{cell.stderr:.4f}",
                "n": str(cell.n),
                "kind": "reproduced",
                "scale": table.experiment.scale,
                "source": f"experiment {table.experiment.name}",
                "runs": " ".join(cell.runs),
            }
            lines.append(line)
    for row in table.reported.to_dict("records"):
        same = {key: row[key] for key in ("column", "metric", "split", "value", "source")}
        unknown = {"stderr": "", "n": "", "runs": ""}
        kind = {"kind": "reported", "scale": "paper"}
        lines.append({"row": row["method"], **same, **unknown, **kind})
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8", newline="\n")
    os.replace(partial, path)

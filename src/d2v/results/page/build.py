"""Write `index.html`: one file that needs no network, no script and no other files."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from d2v.experiment import runs
from d2v.params import Experiment
from d2v.results import html, verdicts
from d2v.results.cells import Table
from d2v.results.grid import Section
from d2v.results.layout import document
from d2v.results.page import amounts, charts, cost, effort, examples, layers, records
from d2v.results.page.attention import attention
from d2v.results.page.curves import curves
from d2v.results.page.forest import forests
from d2v.results.page.svg import Chart, glyph
from d2v.results.wording import SHORT, TITLES, number
from d2v.util.files import write_text

KINDS = {
    "pretrain": "pre-training",
    "select": "trial",
    "finetune": "fine-tuning",
    "probe": "probe",
}
OPEN = 2  # number of groups of learning curves that are initially unfolded
# sections of a table that are initially unfolded
UNFOLDED = ("", "Missing runs", "Score by number of labels")


def build(
    experiment: Experiment,
    results: Path,
    found: Sequence[records.Record],
    tables: Sequence[Table],
) -> Path:
    """Write `<results>/index.html` and return its path.

    Runs that have not finished and unreadable files are listed as missing. The same runs give a
    byte-identical file, because all dates are those of the runs.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("d2v.results", "assets"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["glyph"] = lambda kind: Markup(glyph(kind))
    environment.filters["number"] = number
    operations = cost.operations(experiment)
    spent = effort.spending(found, operations)
    text = environment.get_template("page.html.j2").render(
        title=experiment.title,
        scale=experiment.scale,
        states=_states(found),
        facts=_facts(found),
        faults=[f"{r.run.id}: {r.fault}" for r in found if r.fault not in ("", "not run yet")],
        answers=verdicts.answers(tables),
        forests=forests(tables),
        tables=[_table(table, spent) for table in tables],
        curves=[*_curves(found)],
        unfolded=OPEN,
        looks=[_chart(attention(name, look)) for name, look in examples.looks(experiment, results)],
        examples=examples.collect(experiment, results),
        cost=cost.rows(found, operations),
        runs=[_run(experiment, record) for record in found],
        style=Markup(html.asset("style.css")),
        scripts=Markup(html.asset("tables.js") + html.asset("page.js")),
    )
    write_text(results / "index.html", text)
    return results / "index.html"


def _table(table: Table, spent: Mapping[str, effort.Spent]) -> dict[str, Any]:
    """Template values of a table: the scores with their chart, then further sections, folded."""
    shown = document(table)
    first, *others = shown.sections
    assert first.grid is not None
    apart = [_chart(chart) for chart in amounts.by_amount(table)]
    at_scale = table.experiment.scale == "paper"
    parts = [_part(section, _charts_of(section, table, apart)) for section in others]
    return {
        "id": table.name,
        "nav": SHORT[table.name],
        "title": shown.title,
        "subtitle": f"In the shape of the paper's {TITLES[table.name][0]}.",
        "charts": apart if apart and at_scale else [_chart(c) for c in charts.measured(table)],
        "words": Markup(html.words(first)),
        "grid": Markup(html.grid(first.grid, shown.title)),
        "sources": Markup(html.sources(first.grid, "")),
        "parts": [*_efforts(table, spent), *parts],
        "files": [f"tables/{table.name}.{suffix}" for suffix in ("csv", "md", "tex", "html")],
    }


def _efforts(table: Table, spent: Mapping[str, effort.Spent]) -> Iterable[dict[str, Any]]:
    """Sections on what the scores take, each if there is anything to compare."""
    for heading, shown in (
        ("Score by number of labels", effort.by_labels(table)),
        ("Score by cost of training", effort.by_cost(table, spent)),
    ):
        if shown:
            yield _part(Section(heading), [_chart(chart) for chart in shown])


def _charts_of(section: Section, table: Table, apart: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Charts that belong to a section below the scores."""
    if section.heading == "Probes of frozen features":
        return [_chart(chart) for chart in layers.by_layer(table)]
    return apart if section.heading.startswith("Reported") else []


def _part(section: Section, apart: list[dict[str, Any]]) -> dict[str, Any]:
    grid = section.grid
    return {
        "heading": section.heading,
        "folded": section.heading not in UNFOLDED,
        "charts": apart,
        "words": Markup(html.words(section)),
        "grid": Markup(html.grid(grid, section.heading)) if grid else "",
        "sources": Markup(html.sources(grid, "")) if grid else "",
        "points": Markup(html.points(section)),
    }


def _curves(found: Sequence[records.Record]) -> Iterable[dict[str, Any]]:
    """Learning curves, grouped by the name of the runs, pre-training first."""
    trained = [r for r in found if r.run.kind not in ("decode", "probe")]
    for (kind, name), group in groupby(trained, lambda r: (r.run.kind, r.run.name)):
        members = list(group)
        shown = curves(members, f"{kind}/{name}")
        yield {
            "title": f"{name}: {KINDS.get(kind, kind)}",
            "count": f"{len(members)} run" + "s" * (len(members) > 1),
            "charts": [_chart(chart) for chart in shown],
        }


def _chart(chart: Chart) -> dict[str, Any]:
    return {
        "id": chart.id,
        "title": chart.title,
        "svg": Markup(chart.svg),
        "note": chart.note,
        "key": chart.key,
    }


def _code(provenance: dict[str, Any]) -> str:
    """Hash of the code, or of every version that computed steps, with the first step of each."""
    versions = provenance.get("code_versions") or []
    if len(versions) < 2:
        return str(provenance.get("code_sha256", ""))
    return ", then ".join(f"{v['code_sha256']} from step {v['after_step'] + 1}" for v in versions)


def _run(experiment: Experiment, record: records.Record) -> dict[str, Any]:
    """Template values of a run: parameters, environment, commit and data hashes."""
    provenance = record.content.get("provenance") or {}
    rows = {
        "finished": _finished(record),
        "git commit": f"{provenance.get('git_commit', '–')}"
        + (" (with uncommitted changes)" if provenance.get("dirty") else ""),
        "data": ", ".join(f"{k} {v}" for k, v in (provenance.get("data_sha256") or {}).items()),
        "code": _code(provenance),
        "parameters": provenance.get("params_sha256", ""),
        "device": provenance.get("device", ""),
        "versions": ", ".join(f"{k} {v}" for k, v in (provenance.get("versions") or {}).items()),
        "memory, MiB": provenance.get("peak_mib", ""),
    }
    metrics = [
        f"{split} {name} {number(value, '.4f') if isinstance(value, float) else value}"
        for split, values in (record.content.get("metrics") or {}).items()
        for name, value in values.items()
    ]
    return {
        "id": record.run.id,
        "state": "finished" if record.finished else record.fault,
        "link": f"runs/{record.run.id}/metrics.json" if record.finished else "",
        "metrics": ", ".join(metrics),
        "rows": {name: value for name, value in rows.items() if value and record.finished},
        "parameters": "\n".join(runs.as_lines(record.run.defining())),
    }


def _states(found: Sequence[records.Record]) -> str:
    """Summary of which runs have finished."""
    done = sum(record.finished for record in found)
    counts = Counter(KINDS[r.run.kind] for r in found if r.run.kind in KINDS)
    kinds = ", ".join(f"{n} {kind} run" + "s" * (n > 1) for kind, n in counts.items())
    return f"{done} of {len(found)} runs are finished ({kinds})."


def _facts(found: Sequence[records.Record]) -> dict[str, str]:
    """Training time, devices, date of the newest run, and commits of the finished runs."""
    done = [record for record in found if record.finished]
    hours = sum(r.content.get("train_s") or 0.0 for r in done) / 3600
    commits = Counter(str(_provenance(r, "git_commit"))[:12] or "unknown" for r in done)
    facts = {
        "training": f"{hours:,.1f} h" if hours else "",
        "device": ", ".join(sorted({str(_provenance(r, "device")) for r in done} - {""})),
        "newest run": max((_finished(r) for r in done), default="")[:16].replace("T", " "),
        "commit": ", ".join(
            commit if len(commits) == 1 else f"{commit} ({n} runs)" for commit, n in commits.items()
        ),
    }
    return {name: text for name, text in facts.items() if text}


def _finished(record: records.Record) -> str:
    return str(_provenance(record, "finished"))


def _provenance(record: records.Record, name: str) -> Any:
    return (record.content.get("provenance") or {}).get(name, "")

"""Writes `index.html` and what it needs beside it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from d2v import runs
from d2v.files import write_bytes, write_text
from d2v.params import Experiment
from d2v.results import html
from d2v.results.cells import Table
from d2v.results.layout import document
from d2v.results.page import charts, cost, examples, records

PLOTLY = "plotly.min.js"


def build(
    experiment: Experiment,
    results: Path,
    found: Sequence[records.Record],
    tables: Sequence[Table],
) -> Path:
    """Write `<results>/index.html` and `<results>/page/`; returns the page.

    What has not run is shown as a gap, unreadable files are named. The same runs give the same
    bytes: dates are those of the runs.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("d2v.results", "assets"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("page.html.j2").render(
        title=experiment.title,
        miniature=experiment.scale == "miniature",
        states=_states(found),
        faults=[f"{r.run.id}: {r.fault}" for r in found if r.fault not in ("", "not run yet")],
        newest=max((_finished(r) for r in found), default=""),
        commits=Counter(_provenance(r, "git_commit") for r in found if r.finished),
        tables=[_table(table) for table in tables],
        curves=[*_curves(found)],
        looks=[
            _chart(charts.attention(name, look))
            for name, look in examples.looks(experiment, results)
        ],
        examples=examples.collect(experiment, results),
        cost=cost.rows(experiment, found),
        runs=[_run(experiment, record) for record in found],
        style=Markup(html.asset("style.css")),
        scripts=Markup(html.asset("tables.js") + html.asset("page.js")),
    )
    _copy_plotly(results / "page" / PLOTLY)
    write_text(results / "index.html", text)
    return results / "index.html"


def _table(table: Table) -> dict[str, Any]:
    shown = document(table)
    return {
        "id": table.name,
        "title": shown.title,
        "body": Markup(html.fragment(shown, 3)),
        "charts": [_chart(chart) for chart in charts.of_table(table)],
    }


def _curves(found: Sequence[records.Record]) -> Iterable[dict[str, Any]]:
    """Charts of the runs of each name, pre-trainings first."""
    trained = [r for r in found if r.run.kind != "decode"]
    for (kind, name), group in groupby(trained, lambda r: (r.run.kind, r.run.name)):
        members = list(group)
        title = {"select": "grid of "}.get(kind, "") + name
        shown = charts.curves(members, f"{kind}/{name}")
        yield {
            "title": title,
            "charts": [_chart(chart) for chart in shown],
            "gap": "" if shown else "no log of these runs is here",
        }


def _chart(chart: charts.Chart) -> dict[str, Any]:
    # "</" would end the script element that holds it
    figure = Markup(chart.figure.to_json().replace("</", "<\\/"))
    return {"id": chart.id, "figure": figure, "note": chart.note}


def _run(experiment: Experiment, record: records.Record) -> dict[str, Any]:
    """Parameters, environment, commit and data hashes of a run."""
    provenance = record.content.get("provenance") or {}
    rows = {
        "finished": _finished(record),
        "git commit": f"{provenance.get('git_commit', '–')}"
        + (" (with uncommitted changes)" if provenance.get("dirty") else ""),
        "data": ", ".join(f"{k} {v}" for k, v in (provenance.get("data_sha256") or {}).items()),
        "code": provenance.get("code_sha256", ""),
        "parameters": provenance.get("params_sha256", ""),
        "device": provenance.get("device", ""),
        "versions": ", ".join(f"{k} {v}" for k, v in (provenance.get("versions") or {}).items()),
        "memory, MiB": provenance.get("peak_mib", ""),
    }
    metrics = [
        f"{split} {name} {value:.4f}" if isinstance(value, float) else f"{split} {name} {value}"
        for split, values in (record.content.get("metrics") or {}).items()
        for name, value in values.items()
    ]
    return {
        "id": record.run.id,
        "state": "finished" if record.finished else record.fault,
        "metrics": ", ".join(metrics),
        "rows": {name: value for name, value in rows.items() if value and record.finished},
        "parameters": "\n".join(runs.as_lines(runs.resolve(experiment, record.run.id))),
    }


def _states(found: Sequence[records.Record]) -> str:
    done = sum(record.finished for record in found)
    return f"{done} of {len(found)} runs are finished"


def _finished(record: records.Record) -> str:
    return str(_provenance(record, "finished"))


def _provenance(record: records.Record, name: str) -> Any:
    return (record.content.get("provenance") or {}).get(name, "")


def _copy_plotly(path: Path) -> None:
    """Plotly's script, from its own package; it is left alone where it is already."""
    source = files("plotly") / "package_data" / PLOTLY
    text = source.read_bytes()
    if not path.exists() or path.stat().st_size != len(text):
        write_bytes(path, text)

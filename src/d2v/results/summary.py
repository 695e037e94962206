"""Metrics and curves of all runs in small files, for `dvc metrics` and `dvc plots`."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from d2v.results.page.records import Record
from d2v.util.files import read_json, remove_file, write_json, write_text

CURVES = ("loss", "target_std", "prediction_std", "grad_norm", "lr")
FILES = "files.json"  # lists what was written; the workflow's only output in this folder


def write(found: Sequence[Record], results: Path) -> None:
    """Write `<results>/summary/metrics/<run>.json` and `curves/<run>.csv` of all runs with results.

    `<results>/summary/files.json` lists the files. Those that an earlier call listed and that no
    longer belong to a run are removed; other files in the folder stay.
    """
    folder = results / "summary"
    texts: dict[str, str] = {}
    for record in found:
        if record.content.get("metrics"):
            text = json.dumps(record.content["metrics"], indent=1) + "\n"
            texts[f"metrics/{record.run.id}.json"] = text
        if record.lines:
            frame = pd.DataFrame(record.lines)
            names = ["step", *(name for name in CURVES if name in frame)]
            text = frame[names].to_csv(index=False, lineterminator="\n")
            texts[f"curves/{record.run.id}.csv"] = text
    for name in ("metrics", "curves"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    before = _listed(folder)
    # the list grows before files are written, so that a killed call leaves no unlisted file
    write_json(folder / FILES, {"files": sorted(before | texts.keys())})
    for name in before - texts.keys():
        remove_file(folder / name)
    for name, text in texts.items():
        write_text(folder / name, text)
    write_json(folder / FILES, {"files": sorted(texts)})


def _listed(folder: Path) -> set[str]:
    """The files that the folder's list names; a damaged list names none."""
    names = (read_json(folder / FILES) or {}).get("files")
    kinds = re.compile(r"(metrics|curves)(/[^/]+)+/seed\d+\.(json|csv)")
    listed = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return {name for name in listed if kinds.fullmatch(name) and ".." not in name.split("/")}

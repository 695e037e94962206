"""Metrics and curves of all runs in small files, for `dvc metrics` and `dvc plots`."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from d2v.results.page.records import Record
from d2v.util.files import remove_file, write_text

CURVES = ("loss", "target_std", "prediction_std", "grad_norm", "lr")


def write(found: Sequence[Record], results: Path) -> None:
    """Write `<results>/summary/metrics/<run>.json` and `curves/<run>.csv` of all runs with results.

    Files of runs that no longer exist are removed.
    """
    folder = results / "summary"
    texts: dict[Path, str] = {}
    for record in found:
        if record.content.get("metrics"):
            path = folder / "metrics" / f"{record.run.id}.json"
            texts[path] = json.dumps(record.content["metrics"], indent=1) + "\n"
        if record.lines:
            frame = pd.DataFrame(record.lines)
            names = ["step", *(name for name in CURVES if name in frame)]
            path = folder / "curves" / f"{record.run.id}.csv"
            texts[path] = frame[names].to_csv(index=False, lineterminator="\n")
    for name, suffix in (("metrics", "json"), ("curves", "csv")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        # only names of runs are matched, so that no other files are removed
        for kind in ("pretrain", "select", "finetune", "decode"):
            for path in set((folder / name / kind).glob(f"**/seed*.{suffix}")) - texts.keys():
                remove_file(path)
    for path, text in texts.items():
        write_text(path, text)

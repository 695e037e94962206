"""The metrics and curves of all runs in small files, for `dvc metrics` and `dvc plots`."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from d2v.results.page.records import Record

CURVES = ("loss", "target_std", "prediction_std", "grad_norm", "lr")


def write(found: Sequence[Record], results: Path) -> None:
    """`<results>/summary/metrics/<run>.json` and `curves/<run>.csv` of what there is.

    The folder is made anew, so that nothing stays of runs that are gone.
    """
    folder, fresh = results / "summary", results / "summary.part"
    shutil.rmtree(fresh, ignore_errors=True)
    for name in ("metrics", "curves"):
        (fresh / name).mkdir(parents=True)
    for record in found:
        if record.content.get("metrics"):
            path = fresh / "metrics" / f"{record.run.id}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record.content["metrics"], indent=1) + "\n")
        if record.lines:
            path = fresh / "curves" / f"{record.run.id}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            frame = pd.DataFrame(record.lines)
            names = ["step", *(name for name in CURVES if name in frame)]
            frame[names].to_csv(path, index=False, lineterminator="\n")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)

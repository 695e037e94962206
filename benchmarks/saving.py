"""What checkpoints cost the training loop, at Base size.

    python benchmarks/saving.py [--modality vision text] [--repeat 3] [--threads 2] [-o FILE]

In turns in one process: steps with nothing beside them; steps from the begin of a save to the end
of its write (the copy makes the loop wait, the write takes processor time from it); and a save that
is waited for. What a save costs is the time of its steps above that of as many undisturbed ones;
its share is that of an interval of `train.checkpoint_minutes` of the recipe.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import batches
import reports
import steps
import torch

from d2v.training import checkpoint
from d2v.training.saving import Saver

EXAMPLES = {"speech": (160_000, 1), "vision": (224, 2), "text": (512, 2)}


def measure(kind: str, repeat: int) -> dict[str, Any]:
    """Seconds of a step, of what saves add, and the shares of the recipe's interval."""
    p = batches.recipe(kind)
    batch = batches.batch(p, *EXAMPLES[kind])
    ours = steps.Ours(p, torch.device("cpu"), mixed=False)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        saver = Saver(Path(folder), 2, print)
        _timed(ours, batch)
        _save(saver, ours, 0)  # the first one makes room for the copy
        saver.wait()
        for turn in range(1, repeat + 1):
            plain = statistics.median(_timed(ours, batch) for _ in range(4))
            began = time.perf_counter()
            _save(saver, ours, turn)
            copied, count = time.perf_counter() - began, 0
            assert saver.write is not None
            while not saver.write.future.done():
                _timed(ours, batch)
                count += 1
            added = time.perf_counter() - began - count * plain
            began = time.perf_counter()
            _save(saver, ours, -turn)
            saver.wait()
            waited = time.perf_counter() - began
            rows.append({"step": plain, "copy": copied, "added": added, "waited": waited})
        saver.close()
    found = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    interval = 60 * (p.train.checkpoint_minutes or 10)
    return {
        "seconds": {name: round(value, 3) for name, value in found.items()},
        "interval_s": interval,
        "share_in_background": round(found["added"] / interval, 5),
        "share_waited_for": round(found["waited"] / interval, 5),
    }


def _save(saver: Saver, ours: steps.Ours, step: int) -> None:
    training = checkpoint.optimiser_state(ours.optimiser)
    saver.save(abs(step), ours.module.state_dict(), training, {"step": step}, needed=True)


def _timed(ours: steps.Ours, batch: steps.Batch) -> float:
    began = time.perf_counter()
    ours.step(batch)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modality", nargs="+", choices=EXAMPLES, default=[*EXAMPLES])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=reports.out)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    rows = {kind: measure(kind, a.repeat) for kind in a.modality}
    found = {"threads": a.threads, **rows}
    print(json.dumps(found, indent=1))
    if a.out:
        reports.write(a.out, found)


if __name__ == "__main__":
    main()

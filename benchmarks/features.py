"""Features of many short recordings, streamed: time and memory beside a loop written by hand.

    OMP_NUM_THREADS=2 python benchmarks/features.py [-o FILE]

Both compute the mean of the last block's outputs. They take turns on portions of the recordings, in
one process, so that whatever else the machine does slows both down. The loop by hand reads,
normalises and pads recordings in batches of BATCH, in their order. Recordings are made as they are
read. Two sets: lengths from 0.5 to 1.5 s, where `features` saves padding by putting similar lengths
together, and all of 1 s, where neither has an advantage. Memory is measured afterwards, each way in
a process of its own: after the first fifth of the recordings, and the most.

It also measures cold starts: `import d2v`, and the first features in a new process.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import reports
import torch
import torch.nn.functional as F
from torch import Tensor

from d2v import params
from d2v.interop import own
from d2v.interop.content import Architecture, Content
from d2v.interop.loading import load
from d2v.interop.module import Model
from d2v.params import WaveInput

RATE = 16_000
BATCH = 16
PORTION = 100  # recordings per turn, and between two looks at the memory
ALONE = 50  # every ALONE-th recording is also computed alone
SETS = {"0.5 to 1.5 s": (8_000, 24_000), "1 s": (16_000, 16_000)}
COLD = """
import time; began = time.perf_counter()
import d2v
imported = time.perf_counter() - began
import sys, numpy
found = next(iter(d2v.load(sys.argv[1]).features([numpy.zeros(16000, "float32")], layers=-1)))
print(imported, time.perf_counter() - began)
"""


def recordings(count: int, lengths: tuple[int, int]) -> Iterator[np.ndarray]:
    """Noise (S,) float32 of random lengths, always the same."""
    random = np.random.default_rng(0)
    for _ in range(count):
        length = int(random.integers(lengths[0], lengths[1] + 1))
        yield random.standard_normal(length, np.float32) / 10


def checkpoint(folder: Path) -> Path:
    """A checkpoint of the miniature's speech model with random values."""
    p = params.load("params/mini.yaml").pretrain["speech"]
    architecture = Architecture(encoder=p.encoder, backbone=p.backbone)
    torch.manual_seed(0)
    tensors = dict(Model(architecture).state_dict())
    own.write(Content("d2v", folder, architecture, WaveInput(), tensors), folder / "model")
    return folder / "model"


@torch.inference_mode()
def by_hand(model: Model, waves: Iterator[np.ndarray]) -> Iterator[Tensor]:
    """Means (D,) of the last block's outputs, as one writes it with PyTorch alone."""
    batch: list[Tensor] = []
    for wave in waves:
        values = torch.from_numpy(wave)
        batch.append(F.layer_norm(values, values.shape))
        if len(batch) == BATCH:
            yield from _means(model, batch)
            batch = []
    if batch:
        yield from _means(model, batch)


def _means(model: Model, waves: list[Tensor]) -> Iterator[Tensor]:
    samples = torch.tensor([len(wave) for wave in waves])
    padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    hidden, _, padding = model.hidden({"waves": padded, "samples": samples}, alone=True)
    assert padding is not None
    real = (~padding).unsqueeze(-1)
    yield from (hidden[-1] * real).sum(1) / real.sum(1)


def streamed(model: Model, waves: Iterator[np.ndarray]) -> Iterator[Tensor]:
    """The same with `features`."""
    for found in model.features(waves, layers=-1, pool="mean"):
        yield found.states


WAYS: dict[str, Callable[..., Iterator[Tensor]]] = {"features": streamed, "by hand": by_hand}


def taken(results: Iterator[Tensor], count: int) -> tuple[list[Tensor], float, float]:
    """The next results, and the seconds on the clock and of the processor that they took."""
    clock, processor = time.perf_counter(), time.process_time()
    found = [tensor for _, tensor in zip(range(count), results, strict=False)]
    return found, time.perf_counter() - clock, time.process_time() - processor


def compared(model: Model, count: int, lengths: tuple[int, int]) -> dict[str, Any]:
    """Seconds of both ways for one set, their ratios, and the largest differences."""
    for way in WAYS.values():  # the first batches prepare kernels
        list(way(model, recordings(BATCH, lengths)))
    running = {name: way(model, recordings(count, lengths)) for name, way in WAYS.items()}
    seconds = {name: [0.0, 0.0] for name in WAYS}
    results: dict[str, list[Tensor]] = {name: [] for name in WAYS}
    for turn in range(0, count, PORTION):
        order = list(WAYS) if turn // PORTION % 2 == 0 else list(WAYS)[::-1]
        for name in order:
            found, clock, processor = taken(running[name], min(PORTION, count - turn))
            results[name] += found
            seconds[name][0] += clock
            seconds[name][1] += processor
    alone = [
        next(streamed(model, iter([wave])))
        for i, wave in enumerate(recordings(count, lengths))
        if i % ALONE == 0
    ]
    differs = [
        (a - b).abs().max().item() for a, b in zip(results["features"][::ALONE], alone, strict=True)
    ]
    both = zip(results["features"], results["by hand"], strict=True)
    return {
        "recordings": count,
        "features_s": seconds["features"],
        "by_hand_s": seconds["by hand"],
        "rate": [b / a for a, b in zip(seconds["features"], seconds["by hand"], strict=True)],
        "differs_from_alone": max(differs),
        "differs_from_by_hand": max((a - b).abs().max().item() for a, b in both),
    }


def cold(path: Path, tries: int = 3) -> dict[str, float]:
    """Least seconds until `import d2v` and until the first features, in new processes."""
    rows = [
        subprocess.check_output([sys.executable, "-c", COLD, str(path)], text=True).split()
        for _ in range(tries)
    ]
    imported, first = zip(*((float(a), float(b)) for a, b in rows), strict=True)
    return {"import_s": min(imported), "first_features_s": min(first)}


def memory(way: str, path: Path, count: int, lengths: tuple[int, int]) -> dict[str, float]:
    """MB of this process after the first fifth of the recordings, and the most after any."""
    results = WAYS[way](load(path, "cpu"), recordings(count, lengths))
    seen = []
    for _ in range(0, count, PORTION):
        taken(results, PORTION)
        seen.append(_resident())
    return {"fifth_mb": seen[(len(seen) - 1) // 5], "most_mb": max(seen)}


def apart(way: str, path: Path, count: int, name: str) -> dict[str, float]:
    """The same, of a new process."""
    words = [sys.executable, __file__, "--recordings", str(count), "--memory", way, name, str(path)]
    found: dict[str, float] = json.loads(subprocess.check_output(words, text=True))
    return found


def _resident() -> float:
    """Memory of this process in MB, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    """Measure, print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--recordings", type=int, default=2000)
    parser.add_argument("--no-cold", action="store_true", help="leave out the cold starts")
    parser.add_argument("-o", "--out", type=reports.out, help="also write the figures to this file")
    parser.add_argument("--memory", nargs=3, metavar=("WAY", "SET", "CHECKPOINT"))
    a = parser.parse_args()
    if a.memory:
        way, name, path = a.memory
        print(json.dumps(memory(way, Path(path), a.recordings, SETS[name])))
        return
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        path = checkpoint(Path(folder))
        if not a.no_cold:
            found["cold"] = cold(path)
            print(json.dumps(found["cold"]), flush=True)
        model = load(path, "cpu")
        for name, lengths in SETS.items():
            found[name] = compared(model, a.recordings, lengths)
            found[name]["memory"] = {way: apart(way, path, a.recordings, name) for way in WAYS}
            print(json.dumps({name: found[name]}, indent=1), flush=True)
    if a.out:
        reports.write(a.out, found)


if __name__ == "__main__":
    main()

"""One side of gpu.py's comparisons: built, warmed up and timed; or why its figures are missing."""

import argparse
import gc
import time
from typing import Any

import batches
import torch
from steps import Stepper, Theirs, Trained
from torch._dynamo.utils import counters

from d2v import params
from d2v.jobs import flops

# micro-batches of the recipes (speech: 3.8M samples), and how many times as much is tried
BATCHES = {
    1: {"speech": 24, "vision": 128, "text": 16},
    2: {"speech": 6, "vision": 16, "text": 4},  # examples, of which each has many copies
}
WARM_UP = 6  # steps that compile, capture and fill the allocator
OURS = {"ours": "mixed", "ours bfloat16": "bfloat16"}  # their train.precision
PEERS = {"peer eager": None, "peer compiled": "default", "peer reduce-overhead": "reduce-overhead"}
Row = dict[str, Any]
MISSING = {"missing": "no time was left"}


def timed(name: str, kind: str, examples: int, a: argparse.Namespace) -> Row:
    """Seconds, rates and memory of one side; or why they are missing."""
    try:
        found = side(name, kind, examples, a)
    except Exception as error:
        found = failed(error)
    if "seconds" in found:
        rate = gflop(kind, examples, a) / found["seconds"]
        found |= {"gflops": rate, "fraction_of_gemm": rate / a.product}
        found |= {"utilisation": rate / a.peak} if a.peak else {}
    print(f"version {a.version}, {kind} x {examples}, {name}: {said(found)}", flush=True)
    return found


def failed(error: Exception) -> Row:
    """Why a figure is missing; too little memory is no failure."""
    if isinstance(error, torch.OutOfMemoryError):
        return {"missing": "out of memory"}
    first = (str(error).splitlines() or [""])[0]
    return {"missing": f"{type(error).__name__}: {first[:200]}", "failed": True}


def side(name: str, kind: str, examples: int, a: argparse.Namespace) -> Row:
    """Seconds of a step (best of two rounds) and peak memory of one side."""
    p, gpu = batches.recipe(kind, a.tiny, a.version), a.device.type == "cuda"
    freed()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    counters.clear()
    stepper = build(name, p, a)
    drawn = [on_device(kind, examples, a, step, p) for step in range(2)]
    began = time.perf_counter()
    for step in range(WARM_UP):
        stepper.step(drawn[step % 2])
    _wait(a)
    compiling = time.perf_counter() - began
    graphs = counters["stats"]["unique_graphs"]
    seconds = min(_round(stepper, drawn, a) for _ in range(2))
    found: Row = {"seconds": seconds, "examples_per_s": examples / seconds}
    found |= {"warm_up_s": compiling, "graphs": graphs}
    found["breaks"] = sum(counters["graph_break"].values())
    found["compiled_later"] = counters["stats"]["unique_graphs"] - graphs
    if isinstance(stepper, Trained):
        found |= {"replays": stepper.replays, "not_captured": stepper.said}
    if gpu:
        found["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def freed() -> None:
    """Give back the memory of what was measured before, graphs included."""
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()  # without a GPU, does nothing


def build(name: str, p: params.Pretrain, a: argparse.Namespace) -> Stepper:
    """One side, ready for its first step."""
    gpu = a.device.type == "cuda"
    if name in OURS:
        # autocast on a CPU is slow, and the trainer does not use it there
        precision = "float32" if OURS[name] == "mixed" and not gpu else OURS[name]
        return Trained(p, a.device, precision, a.backend)
    mode = PEERS[name]
    if mode is not None and a.backend != "inductor":
        mode = a.backend
    return Theirs(p, a.device, mixed=gpu, mode=mode)


def _round(stepper: Stepper, drawn: list[Any], a: argparse.Namespace) -> float:
    """Seconds of a step, on average over a round; on a GPU by its own clock."""
    if a.device.type != "cuda":
        began = time.perf_counter()
        for step in range(a.steps):
            stepper.step(drawn[step % 2])
        return (time.perf_counter() - began) / a.steps
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for step in range(a.steps):
        stepper.step(drawn[step % 2])
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3 / a.steps


def _wait(a: argparse.Namespace) -> None:
    if a.device.type == "cuda":
        torch.cuda.synchronize()


def gflop(kind: str, examples: int, a: argparse.Namespace) -> float:
    p = batches.recipe(kind, a.tiny, a.version)
    return examples * flops.pretraining(p, size_of(kind, a)) / 1e9


def examples_of(kind: str, a: argparse.Namespace) -> int:
    """Examples of a micro-batch."""
    return 2 if a.tiny else BATCHES[a.version][kind]


def said(found: Row) -> str:
    """One side's figures as text."""
    if "missing" in found:
        return f"missing: {found['missing']}"
    text = f"{1e3 * found['seconds']:.1f} ms, {found['fraction_of_gemm']:.0%} of matrix products"
    text += f", MFU {found['utilisation']:.0%}" if "utilisation" in found else ""
    text += f", {found['peak_mib']:.0f} MiB" if "peak_mib" in found else ""
    return text + f", first steps {found['warm_up_s']:.0f} s"


def size_of(kind: str, a: argparse.Namespace) -> int:
    """Samples, pixels per side or tokens of an example."""
    return (batches.TINY_SIZES if a.tiny else batches.SIZES)[kind]


def on_device(kind: str, examples: int, a: argparse.Namespace, step: int, p: Any) -> Any:
    """A batch where the model is."""
    drawn = batches.batch(p, size_of(kind, a), examples, step)
    return {name: value.to(a.device) for name, value in drawn.items()}

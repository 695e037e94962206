"""What a GPU makes of the step: equality first, then speed over batch sizes (gpu.sh starts this).

equality   A few steps of the recipes without chance, from the same weights and batches: float32
           eager is the reference; with its parts compiled float32 may differ by
           LOSS_FLOAT32, bfloat16 (eager and compiled) by LOSS_MIXED, relative, in every step's
           loss. One that differs more: exit code 1. It takes at most half of the time.
speed      Seconds of a step at several batch sizes: ours compiled and eager, the peer eager, all
           under bfloat16 autocast on a GPU. Utilisation is the step's operations over its time and
           over the rate of a bfloat16 matrix product in the same run, and over the device's peak.

Every side of the speed part runs in its turn, best of two rounds of several steps each. What does
not fit into memory, or into the time that is left (--minutes), is said to be missing, not guessed.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import batches
import torch
from steps import Clock, Ours, Stepper, Theirs, gemm_gflops
from torch._dynamo.utils import counters

from d2v.jobs import flops

LOSS_FLOAT32, LOSS_MIXED = 1e-4, 2e-2
STEPS = 3
# dense bfloat16, NVIDIA's data sheets; H200 has the arithmetic of H100
PEAK_GFLOPS = {"H100": 989_000, "H200": 989_000}
# examples of a step: up to the recipe's batch of a GPU (speech: 3.8M samples)
BATCHES = {"speech": (6, 12, 24), "vision": (32, 64, 128), "text": (4, 8, 16)}
FASTER = {"ours compiled": (True, True), "ours eager": (True, False)}  # mixed, compiled
MARGIN_S = 45.0  # kept for writing, and for a compilation that has begun
Row = dict[str, Any]


def loss_of_steps(kind: str, a: argparse.Namespace, mixed: bool, compiled: bool) -> list[float]:
    """Losses of STEPS steps from the same weights on the same batches, without chance."""
    torch.manual_seed(0)
    p = batches.without_chance(batches.recipe(kind, a.tiny))
    stepper = Ours(p, a.device, mixed=mixed, backend=a.backend if compiled else "")
    losses = []
    for step in range(STEPS):
        losses.append(float(stepper.step(on_device(kind, 2, a, step, p))))
    return losses


def equality(kind: str, a: argparse.Namespace) -> Row:
    """Largest relative difference of each faster way's losses from those of float32 eager."""
    reference = loss_of_steps(kind, a, mixed=False, compiled=False)
    found: Row = {"losses": reference}
    ways = {
        "bfloat16 compiled": (True, True, LOSS_MIXED),
        "bfloat16 eager": (True, False, LOSS_MIXED),
        "float32 compiled": (False, True, LOSS_FLOAT32),
    }
    for name, (mixed, compiled, allowed) in ways.items():
        if time.monotonic() > a.half:
            found[name] = {"missing": "no time was left"}
            continue
        losses = loss_of_steps(kind, a, mixed, compiled)
        differs = max(abs(x - y) / abs(y) for x, y in zip(losses, reference, strict=True))
        found[name] = {"differs": differs, "allowed": allowed, "equal": differs <= allowed}
        print(f"equality, {kind}, {name}: {differs:.1e} (at most {allowed:.0e})", flush=True)
    return found


def speed(kind: str, examples: int, a: argparse.Namespace, product: float) -> Row:
    """Seconds, utilisation and memory of every side at one batch size."""
    p = batches.recipe(kind, a.tiny)
    operations = examples * flops.pretraining(p, size_of(kind, a)) / 1e9
    row: Row = {"kind": kind, "examples": examples, "gflop": operations}
    for name in (*FASTER, "peer eager"):
        if time.monotonic() > a.until:
            row[name] = {"missing": "no time was left"}
            continue
        try:
            row[name] = side(name, kind, examples, a)
        except torch.OutOfMemoryError:
            row[name] = {"missing": "out of memory"}
        except ImportError as error:
            row[name] = {"missing": str(error)}
        else:
            rate = operations / row[name]["seconds"]
            row[name] |= {"gflops": rate, "fraction_of_gemm": rate / product}
            row[name] |= {"utilisation": rate / a.peak} if a.peak else {}
        print(f"speed, {kind} x {examples}, {name}: {said(row[name])}", flush=True)
    ours, peer = row["ours compiled"].get("seconds"), row["peer eager"].get("seconds")
    return row | ({"ratio": peer / ours} if ours and peer else {})


def side(name: str, kind: str, examples: int, a: argparse.Namespace) -> Row:
    """Seconds of a step (best of two rounds) and peak memory of one side."""
    p, mixed = batches.recipe(kind, a.tiny), a.device.type == "cuda"
    gpu = a.device.type == "cuda"
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    stepper: Stepper
    if name in FASTER:
        stepper = Ours(p, a.device, mixed=mixed, backend=a.backend if FASTER[name][1] else "")
    else:
        stepper = Theirs(p, a.device, mixed=mixed)
    drawn = [on_device(kind, examples, a, step, p) for step in range(2)]
    counters.clear()
    for step in range(4):  # compiles, and fills the allocator
        stepper.step(drawn[step % 2])
    graphs = counters["stats"]["unique_graphs"]
    clock, rounds = Clock(a.device), []
    for _ in range(2):
        with clock.part("round"):
            for step in range(a.steps):
                stepper.step(drawn[step % 2])
        rounds.append(clock.seconds.pop("round") / a.steps)
    found: Row = {"seconds": min(rounds), "examples_per_s": examples / min(rounds)}
    if FASTER.get(name, (False, False))[1]:
        found |= {"graphs": graphs, "breaks": sum(counters["graph_break"].values())}
        found["compiled_later"] = counters["stats"]["unique_graphs"] - graphs
    if gpu:
        found["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def said(found: Row) -> str:
    """One side's figures in words."""
    if "missing" in found:
        return f"missing: {found['missing']}"
    words = f"{1e3 * found['seconds']:.1f} ms, {found['fraction_of_gemm']:.0%} of matrix products"
    return words + (f", MFU {found['utilisation']:.0%}" if "utilisation" in found else "")


def size_of(kind: str, a: argparse.Namespace) -> int:
    """Samples, pixels a side or tokens of an example."""
    return (batches.TINY_SIZES if a.tiny else batches.SIZES)[kind]


def on_device(kind: str, examples: int, a: argparse.Namespace, step: int, p: Any) -> Any:
    """A batch where the model is."""
    drawn = batches.batch(p, size_of(kind, a), examples, step)
    return {name: value.to(a.device) for name, value in drawn.items()}


def measure(a: argparse.Namespace) -> Row:
    """Equality of all modalities, then speed, the largest batches first."""
    gpu = a.device.type == "cuda"
    name = torch.cuda.get_device_name() if gpu else "cpu"
    a.peak = next((rate for word, rate in PEAK_GFLOPS.items() if word in name), None)
    kind_of_number = torch.bfloat16 if gpu else torch.float32
    product = gemm_gflops(a.device, kind_of_number, 8192 if gpu else 512)
    found: Row = {"device": name, "torch": torch.__version__, "gemm_gflops": product}
    found["equality"] = {kind: equality(kind, a) for kind in a.kinds}
    found["speed"] = []
    sizes = dict.fromkeys(batches.KINDS, (2,)) if a.tiny else BATCHES
    for place in (-1, 0, 1) if not a.tiny else (0,):
        for kind in a.kinds:
            found["speed"].append(speed(kind, sizes[kind][place], a, product))
            found["step"] = summary(found["speed"], product)
            write(found, a)
    return found


def summary(rows: list[Row], product: float) -> dict[str, Row]:
    """Of each modality the largest batch that ran compiled, in the words of step.py's files."""
    found: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row["examples"]):
        ours, peer = row["ours compiled"], row["peer eager"]
        if "missing" in ours:
            continue
        kept = {"examples": row["examples"], "gflop": row["gflop"], "gemm_gflops": product}
        kept |= {k: v for k, v in ours.items() if k in ("seconds", "fraction_of_gemm", "peak_mib")}
        kept |= {"utilisation": ours["utilisation"]} if "utilisation" in ours else {}
        if "missing" not in peer:
            kept |= {"peer_seconds": peer["seconds"], "ratio": row["ratio"]}
            kept |= {"peer_peak_mib": peer["peak_mib"]} if "peak_mib" in peer else {}
        found[row["kind"]] = kept
    return found


def write(found: Row, a: argparse.Namespace) -> None:
    """The figures so far: a run that is cut off keeps what it measured."""
    a.out.mkdir(parents=True, exist_ok=True)
    name = "-".join(found["device"].lower().split())
    (a.out / f"gpu-{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def main() -> int:
    """Measure and write; 1 if a faster way does not give equal losses."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--tiny", action="store_true", help="small sizes: for tests")
    parser.add_argument("--kinds", nargs="+", choices=batches.KINDS, default=list(batches.KINDS))
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--steps", type=int, default=8, help="steps a round")
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).parent / "results")
    a = parser.parse_args()
    if a.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here; --device cpu --tiny tries the command out")
    a.until = time.monotonic() + 60 * a.minutes - MARGIN_S
    a.half = time.monotonic() + 30 * a.minutes
    found = measure(a)
    ways = [way for row in found["equality"].values() for way in row.values()]
    wrong = [way for way in ways if isinstance(way, dict) and not way.get("equal", True)]
    print(f"{len(wrong)} of the faster ways differ by more than allowed" if wrong else "all equal")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

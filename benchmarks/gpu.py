"""What a GPU makes of the step and of the trainer (gpu.sh starts this).

In this order, each figure written as soon as it is known:

equality   Three steps of the recipes without chance, two blocks deep: float32 eager is the
           reference; compiled float32 may differ by LOSS_FLOAT32, bfloat16 by LOSS_MIXED, relative,
           in every step's loss. More is exit code 1. At most EQUALITY_S seconds.
recipes    The three recipes at their micro-batch: ours compiled, as the trainer computes it (CUDA
           graphs), then the peer eager, compiled, and compiled with mode reduce-overhead. Under
           bfloat16 autocast on a GPU. This is the end of the essential part: what has not begun
           after ESSENTIAL_S seconds is measured at the end, if there is time.
trainer    A pre-training through d2v.training.trainer.fit, with compilation and graphs, undisturbed
           and killed by SIGKILL in the middle and resumed. The losses have to be equal (otherwise
           exit code 1), and the rate is compared with that of the step.
batches    Ours with twice and four times the micro-batch: the best batch.
kernels    Milliseconds of a step by group of kernels.
second     data2vec 2.0, as for version 1: equality, then the compiled step at the recipes'
           micro-batch; masked copies per second, beside the examples per second of version 1.

Nothing waits for the GPU inside a step: CUDA events stand around several steps. What does not fit
into memory or into the time that is left (--minutes), or fails, is missing, with the reason.
All parts should fit into --minutes 20. What is compiled is kept in a new folder, so that the first
compilation of a part is a cold one, and the trainer's is not.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import batches
import kernels
import through
import torch
from gpu_sides import (
    MISSING,
    PEERS,
    WARM_UP,
    Row,
    build,
    examples_of,
    failed,
    gflop,
    on_device,
    timed,
)  # fmt: skip
from steps import Ours, gemm_gflops

from d2v import params

LOSS_FLOAT32, LOSS_MIXED = 1e-4, 2e-2
STEPS = 3
EQUALITY_S, ESSENTIAL_S = 40.0, 230.0
# dense bfloat16, NVIDIA's data sheets; H200 has the arithmetic of H100
PEAK_GFLOPS = {"A100": 312_000, "H100": 989_000, "H200": 989_000}
LARGER = (4, 2)
MARGIN_S = 30.0  # kept for writing, and for a compilation that has begun


def shallow(p: params.Pretrain) -> params.Pretrain:
    """The recipe with two blocks that make targets, and without chance."""
    changes = {"backbone": {"depth": p.backbone.prenet_depth + 2}, "target": {"top_k": 2}}
    return batches.without_chance(
        params.Pretrain.model_validate(batches.over(p.model_dump(), changes))
    )


def loss_of_steps(kind: str, a: argparse.Namespace, mixed: bool, compiled: bool) -> list[float]:
    """Losses of STEPS steps from the same weights on the same batches, without chance."""
    torch.manual_seed(0)
    p = shallow(batches.recipe(kind, a.tiny, a.version))
    stepper = Ours(p, a.device, mixed=mixed, backend=a.backend if compiled else "")
    return [float(stepper.step(on_device(kind, 2, a, step, p))) for step in range(STEPS)]


def equality(kind: str, a: argparse.Namespace, until: float) -> Row:
    """Largest relative difference of each faster way's losses from those of float32 eager."""
    reference = loss_of_steps(kind, a, mixed=False, compiled=False)
    found: Row = {"losses": reference}
    ways = {
        "bfloat16 compiled": (True, True, LOSS_MIXED),
        "bfloat16 eager": (True, False, LOSS_MIXED),
        "float32 compiled": (False, True, LOSS_FLOAT32),
    }
    for name, (mixed, compiled, allowed) in ways.items():
        if time.monotonic() > until:
            found[name] = MISSING
            continue
        try:
            losses = loss_of_steps(kind, a, mixed, compiled)
        except Exception as error:  # of a compiler, for example: the other figures still count
            found[name] = {**failed(error), "equal": False}
            print(f"equality, version {a.version}, {kind}, {name}: {found[name]}", flush=True)
            continue
        differs = max(abs(x - y) / abs(y) for x, y in zip(losses, reference, strict=True))
        found[name] = {"differs": differs, "allowed": allowed, "equal": differs <= allowed}
        side = f"version {a.version}, {kind}, {name}"
        print(f"equality, {side}: {differs:.1e} (at most {allowed:.0e})", flush=True)
    return found


def recipes(found: Row, a: argparse.Namespace, until: float) -> None:
    """Measure what is missing of ours and the peers at the recipes' micro-batches, ours first."""
    rows = found["recipes"]
    for name in ("ours", *PEERS):
        for kind, row in zip(a.kinds, rows, strict=True):
            if row.get(name, MISSING) == MISSING:
                row[name] = timed(name, kind, row["examples"], a, until)
                row |= _ratio(row)
            found["step"] = summary(rows, a.product)
            write(found, a)


def _ratio(row: Row) -> Row:
    """The best peer's seconds over ours, as far as they are known."""
    ours = row.get("ours", MISSING).get("seconds")
    peers = [row[name]["seconds"] for name in PEERS if "seconds" in row.get(name, MISSING)]
    return {"ratio": min(peers) / ours} if ours and peers else {}


def second(kind: str, first: Row, a: argparse.Namespace) -> Row:
    """Version 2, and its rate and memory per masked copy over version 1's, whose figures are given.

    An example of version 1 is one masked copy.
    """
    b = argparse.Namespace(**{**vars(a), "version": 2})
    examples, copies = examples_of(kind, b), batches.recipe(kind, a.tiny, 2).copies
    row: Row = {"examples": examples, "copies": copies, "gflop": gflop(kind, examples, b)}
    row["equality"] = equality(kind, b, min(time.monotonic() + EQUALITY_S / 2, a.until))
    row["ours"] = timed("ours", kind, examples, b)
    if "seconds" in row["ours"] and "seconds" in first:
        row["copies_per_s"] = copies * row["ours"]["examples_per_s"]
        row["ratio"] = row["copies_per_s"] / first["examples_per_s"]
    if "peak_mib" in row["ours"] and "peak_mib" in first:
        each = row["ours"]["peak_mib"] / (examples * copies)
        row["ratio_mib"] = each / (first["peak_mib"] / examples_of(kind, a))
    print(f"{kind}, copies per second over version 1: {row.get('ratio')}", flush=True)
    return row


def measure(a: argparse.Namespace) -> Row:
    """All parts, in order; the file is written after each figure."""
    gpu = a.device.type == "cuda"
    name = torch.cuda.get_device_name() if gpu else "cpu"
    a.peak = next((rate for word, rate in PEAK_GFLOPS.items() if word in name), None)
    a.product = gemm_gflops(
        a.device, torch.bfloat16 if gpu else torch.float32, 8192 if gpu else 512
    )
    found: Row = {"device": name, "torch": torch.__version__}
    found |= {"date": datetime.now(UTC).date().isoformat(), "gemm_gflops": a.product}
    for part in ("equality", "step", "trainer", "larger", "kernels", "second"):
        found[part] = {}
    found["recipes"] = [_row(kind, a) for kind in a.kinds]
    essential = min(time.monotonic() + ESSENTIAL_S, a.until)
    equal_until = min(time.monotonic() + EQUALITY_S, a.until)
    for kind in a.kinds:
        found["equality"][kind] = equality(kind, a, equal_until)
        write(found, a)
    recipes(found, a, essential)
    for kind in a.kinds:
        step = found["step"].get(kind, {}).get("seconds")
        found["trainer"][kind] = through.measured(kind, step, a) if _left(a) else MISSING
        print(f"trainer, {kind}: {found['trainer'][kind]}", flush=True)
        write(found, a)
    for kind in a.kinds:
        sizes = [4] if a.tiny else [times * examples_of(kind, a) for times in LARGER]
        found["larger"][kind] = {size: timed("ours", kind, size, a) for size in sizes}
        write(found, a)
    for kind in a.kinds:
        found["kernels"][kind] = _kernels(kind, a) if _left(a) else MISSING
        write(found, a)
    recipes(found, a, a.until)
    for kind, row in zip(a.kinds, found["recipes"], strict=True):
        found["second"][kind] = second(kind, row["ours"], a) if _left(a) else MISSING
        write(found, a)
    return found


def _row(kind: str, a: argparse.Namespace) -> Row:
    examples = examples_of(kind, a)
    return {"kind": kind, "examples": examples, "gflop": gflop(kind, examples, a)}


def _kernels(kind: str, a: argparse.Namespace) -> Row:
    p = batches.recipe(kind, a.tiny, a.version)
    try:
        stepper = build("ours", p, a)
        batch = on_device(kind, examples_of(kind, a), a, 0, p)
        for _ in range(WARM_UP):
            stepper.step(batch)
        return kernels.by_group(lambda: stepper.step(batch), a.device)
    except Exception as error:
        return failed(error)


def _left(a: argparse.Namespace) -> bool:
    return time.monotonic() < a.until


def summary(rows: list[Row], product: float) -> dict[str, Row]:
    """The recipes that ran, as step.py and `d2v plan --measured` name figures."""
    found: dict[str, Row] = {}
    for row in rows:
        ours, peer = row.get("ours", MISSING), row.get("peer eager", MISSING)
        if "missing" in ours:
            continue
        kept = {"examples": row["examples"], "gflop": row["gflop"], "gemm_gflops": product}
        names = ("seconds", "fraction_of_gemm", "peak_mib", "utilisation")
        kept |= {name: ours[name] for name in names if name in ours}
        if "missing" not in peer:
            kept |= {"peer_seconds": peer["seconds"]}
            kept |= {"peer_peak_mib": peer["peak_mib"]} if "peak_mib" in peer else {}
        found[row["kind"]] = kept | ({"ratio": row["ratio"]} if "ratio" in row else {})
    return found


def write(found: Row, a: argparse.Namespace) -> None:
    """The figures so far: a run that is cut off keeps what it measured."""
    a.out.mkdir(parents=True, exist_ok=True)
    name = "-".join(found["device"].lower().split())
    (a.out / f"gpu-{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def main() -> int:
    """Measure and write; 1 if a faster way or a resumed run does not give equal losses."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--tiny", action="store_true", help="small sizes: for tests")
    parser.add_argument("--kinds", nargs="+", choices=batches.KINDS, default=list(batches.KINDS))
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--steps", type=int, default=12, help="steps per round")
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).parent / "results")
    a = parser.parse_args()
    if a.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here; --device cpu --tiny tries the command out")
    a.until = time.monotonic() + 60 * a.minutes - MARGIN_S
    a.version = 1
    with tempfile.TemporaryDirectory(prefix="d2v-compiled-") as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        found = measure(a)
    compared = [*found["equality"].values()]
    compared += [row.get("equality", {}) for row in found["second"].values()]
    ways = [way for row in compared for way in row.values()]
    wrong = [way for way in ways if isinstance(way, dict) and not way.get("equal", True)]
    wrong += [row for row in found["trainer"].values() if not row.get("equal", True)]
    print(f"{len(wrong)} results differ by more than allowed" if wrong else "all equal")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

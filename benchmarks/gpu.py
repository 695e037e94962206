"""What a GPU makes of the step and of the trainer (gpu.sh starts this).

In this order, each figure written as soon as it is known; in brackets, when a part has to have
ended, in seconds after the start (PLAN):

equality   [40] Eight steps replayed from CUDA graphs give the losses of eight that are not, with
           the recipe's dropout and skipped blocks. Three steps without chance, two blocks deep,
           give those of float32 eager: with `precision: bfloat16`, with autocast and compiled, in
           float32 and compiled, with both. More than `allowed`, relative, is exit code 1.
recipes    [240] The three recipes at their micro-batch: ours compiled, as the trainer computes it
           (CUDA graphs), then the peer eager, compiled, and compiled with mode reduce-overhead.
           Under bfloat16 autocast on a GPU. This is the end of the essential part.
trainer    [370] `d2v run` of a pre-training (through.py) with compilation and graphs; its rate is
           compared with that of the step. One kind is also killed by SIGKILL in the middle and
           resumed: the losses have to be equal (otherwise exit code 1).
kernels    [400] Milliseconds of a step by group of kernels.
batches    [430] Ours with four times the micro-batch, and with twice: the best batch.
bfloat16   [460] Ours with `precision: bfloat16` at the recipes' micro-batch.
auto       What `micro_batch: auto` finds.
second     data2vec 2.0, as for version 1: equality, then the compiled step at the recipes'
           micro-batch; masked copies per second, beside the examples per second of version 1.

A figure is begun only if it is expected (EXPECTED_S) to be known before its part has to end. What
was left out is measured at the end, in the same order, as far as --minutes allow. With the default
of 8, expect to miss some of the compiled peers, of the larger batches and of bfloat16, and all of
auto and second; --minutes 20 is for all of them. What is missing says why.

Nothing waits for the GPU inside a step: CUDA events stand around several steps. What is compiled is
kept in a new folder, so that the first compilation of a part is a cold one, and the trainer's is
not. A part that fails is missing, costs no other figure, and is exit code 1, unless it is a peer's.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import batches
import found_micro_batch
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
    freed,
    gflop,
    on_device,
    timed,
)  # fmt: skip
from steps import Trained, gemm_gflops

from d2v import params

LOSS_FLOAT32, LOSS_MIXED = 1e-4, 2e-2
LOSS_CAPTURED = 1e-3  # the same operations, but for the order of atomic additions
STEPS = 3
CAPTURED_STEPS = 8  # on two batches in turn: the first four are never replayed
# dense bfloat16, NVIDIA's data sheets; H200 has the arithmetic of H100
PEAK_GFLOPS = {"A100": 312_000, "H100": 989_000, "H200": 989_000}
LOW = "reduce-overhead"  # a mode of inductor only
LARGER = (4, 2)
MARGIN_S = 20.0  # kept for imports before the clock starts, and for what takes longer than expected
# seconds that a figure takes on a machine with 16 cores; to compile takes nearly all of it
EXPECTED_S = {
    "eager": 4, "compiled": 12, "ours": 25, "ours bfloat16": 25, "peer eager": 8,
    "peer compiled": 60, "peer reduce-overhead": 60, "run": 25, "kernels": 12, "auto": 15,
}  # fmt: skip
Measure = Callable[[], Row]


class Way(NamedTuple):
    """A faster way to compute losses, and how far they may be from those of the reference."""

    precision: str
    compiled: bool
    allowed: float
    chance: bool = False  # then the reference is the same without captured graphs


WAYS = {
    "captured": Way("mixed", False, LOSS_CAPTURED, chance=True),
    "precision bfloat16": Way("bfloat16", False, LOSS_MIXED),
    "bfloat16 compiled": Way("mixed", True, LOSS_MIXED),
    "float32 compiled": Way("float32", True, LOSS_FLOAT32),
    "precision bfloat16 compiled": Way("bfloat16", True, LOSS_MIXED),
}


class Run:
    """The figures so far, and the time that is left for one part."""

    def __init__(self, a: argparse.Namespace, found: Row) -> None:
        self.a, self.found = a, found
        self.until = a.until

    def fill(self, place: Row, name: Any, expected: str, measure: Measure, times: int = 1) -> None:
        """Measure what is missing at a place, if it can be expected to be known in time."""
        if place.get(name, MISSING) != MISSING:
            return
        seconds = 0 if self.a.tiny else times * EXPECTED_S[expected]
        if time.monotonic() + seconds > self.until:
            place[name] = MISSING
        else:
            try:
                place[name] = measure()
            except Exception as error:  # of a compiler, for example: the other figures still count
                place[name] = failed(error)
                print(f"{name}: {place[name]['missing']}", flush=True)
        write(self.found, self.a)


# --- equality -------------------------------------------------------------------------------------


def shallow(p: params.Pretrain, chance: bool) -> params.Pretrain:
    """The recipe with two blocks that make targets, with or without chance."""
    changes = {"backbone": {"depth": p.backbone.prenet_depth + 2}, "target": {"top_k": 2}}
    p = params.Pretrain.model_validate(batches.over(p.model_dump(), changes))
    return p if chance else batches.without_chance(p)


def losses(
    kind: str, a: argparse.Namespace, way: Way, captured: bool = True
) -> tuple[list[float], int]:
    """Losses of a few steps from the same weights, and how many of them were replayed."""
    torch.manual_seed(0)
    p = shallow(batches.recipe(kind, a.tiny, a.version), way.chance)
    backend = a.backend if way.compiled else ""
    stepper = Trained(p, a.device, way.precision, backend, captured)
    # two batches in turn: each may have a shape of its own, which has to recur to be captured
    numbers = [n % 2 for n in range(CAPTURED_STEPS)] if way.chance else list(range(STEPS))
    found = [float(stepper.step(on_device(kind, 2, a, n, p))) for n in numbers]
    return found, min(stepper.replays)


def compared(kind: str, a: argparse.Namespace, name: str, known: Row) -> Row:
    """Largest relative difference of a way's losses from those of its reference."""
    way = WAYS[name]
    if way.chance:
        reference, _ = losses(kind, a, way, captured=False)
    else:
        if "losses" not in known:
            known["losses"], _ = losses(kind, a, Way("float32", False, 0.0), captured=False)
        reference = known["losses"]
    values, replays = losses(kind, a, way)
    differs = max(abs(x - y) / abs(y) for x, y in zip(values, reference, strict=True))
    found: Row = {"differs": differs, "allowed": way.allowed, "equal": differs <= way.allowed}
    if way.chance:
        found["replays"] = replays
        # without a replay, nothing has been compared
        found["equal"] &= replays > 0 or a.device.type != "cuda"
    side = f"version {a.version}, {kind}, {name}"
    print(f"equality, {side}: {differs:.1e} (at most {way.allowed:.0e})", flush=True)
    return found


def equality(run: Run) -> None:
    """All ways of version 1, the first ways of all kinds first."""
    for name, way in WAYS.items():
        for kind in run.a.kinds:
            _way(run, run.found["equality"].setdefault(kind, {}), kind, name, way, run.a)


def _way(run: Run, place: Row, kind: str, name: str, way: Way, a: argparse.Namespace) -> None:
    expected = "compiled" if way.compiled else "eager"
    run.fill(place, name, expected, lambda: compared(kind, a, name, place))


# --- the other parts ------------------------------------------------------------------------------


def recipes(run: Run) -> None:
    """Ours and the peers at the recipes' micro-batches, ours first."""
    peers = [name for name, mode in PEERS.items() if run.a.backend == "inductor" or mode != LOW]
    for name in ("ours", *peers):
        _sides(run, name)


def bfloat16(run: Run) -> None:
    """Ours with `precision: bfloat16`."""
    _sides(run, "ours bfloat16")


def _sides(run: Run, name: str) -> None:
    a, rows = run.a, run.found["recipes"]
    for kind, row in zip(a.kinds, rows, strict=True):
        examples = row["examples"]
        run.fill(row, name, name, lambda k=kind, n=examples: timed(name, k, n, a))
        row |= ratios(row)
    run.found["step"] = summary(rows, a.product)
    write(run.found, a)


def ratios(row: Row) -> Row:
    """The seconds of each peer that is known over ours."""
    ours = row.get("ours", MISSING).get("seconds")
    peers = {name: row[name]["seconds"] for name in PEERS if "seconds" in row.get(name, MISSING)}
    return {"ratios": {name: s / ours for name, s in peers.items()}} if ours and peers else {}


def trainer(run: Run) -> None:
    """`d2v run` of all kinds; the last of them is killed and resumed, too."""
    a = run.a
    for kind in (a.kinds[-1], *a.kinds[:-1]):
        killed = kind == a.kinds[-1]

        def measure(kind: str = kind, killed: bool = killed) -> Row:
            freed()
            found = through.measured(kind, a, run.until, killed)
            print(f"trainer, {kind}: {found}", flush=True)
            return found

        run.fill(run.found["trainer"], kind, "run", measure, times=3 if killed else 1)
        row, step = run.found["trainer"][kind], run.found["step"].get(kind)
        if step and "steps_per_s" in row:
            row["of_the_step"] = row["steps_per_s"] * step["seconds"]
    write(run.found, a)


def larger(run: Run) -> None:
    """Ours with larger micro-batches, the largest of all kinds first."""
    a = run.a
    for times in LARGER[:1] if a.tiny else LARGER:
        for kind in a.kinds:
            size = times * examples_of(kind, a)
            place = run.found["larger"].setdefault(kind, {})
            run.fill(place, size, "ours", lambda k=kind, n=size: timed("ours", k, n, a))


def by_kernel(run: Run) -> None:
    """Milliseconds of a step of all kinds by group of kernels."""
    for kind in run.a.kinds:
        measure = lambda kind=kind: _kernels(kind, run.a)  # noqa: E731
        run.fill(run.found["kernels"], kind, "kernels", measure)


def _kernels(kind: str, a: argparse.Namespace) -> Row:
    p = batches.recipe(kind, a.tiny, a.version)
    freed()
    stepper = build("ours", p, a)
    batch = on_device(kind, examples_of(kind, a), a, 0, p)
    for _ in range(WARM_UP):
        stepper.step(batch)
    return kernels.by_group(lambda: stepper.step(batch), a.device)


def auto(run: Run) -> None:
    """The micro-batch that the trainer finds for all kinds."""
    for kind in run.a.kinds:
        measure = lambda kind=kind: found_micro_batch.measured(kind, run.a)  # noqa: E731
        run.fill(run.found["auto"], kind, "auto", measure)


def second(run: Run) -> None:
    """Version 2 of all kinds, and its rate and memory per masked copy over version 1's.

    An example of version 1 is one masked copy.
    """
    a = argparse.Namespace(**{**vars(run.a), "version": 2})
    for kind, one in zip(a.kinds, run.found["recipes"], strict=True):
        examples, copies = examples_of(kind, a), batches.recipe(kind, a.tiny, 2).copies
        row = run.found["second"].setdefault(kind, {"examples": examples, "copies": copies})
        row |= {"gflop": gflop(kind, examples, a), "equality": row.get("equality", {})}
        for name, way in WAYS.items():
            _way(run, row["equality"], kind, name, way, a)
        run.fill(row, "ours", "ours", lambda k=kind, n=examples: timed("ours", k, n, a))
        row |= _per_copy(row, one)
        print(f"{kind}, copies per second over version 1: {row.get('ratio')}", flush=True)
    write(run.found, run.a)


def _per_copy(row: Row, one: Row) -> Row:
    ours, first, found = row["ours"], one.get("ours", MISSING), {}
    if "seconds" in ours and "seconds" in first:
        found["copies_per_s"] = row["copies"] * ours["examples_per_s"]
        found["ratio"] = found["copies_per_s"] / first["examples_per_s"]
    if "peak_mib" in ours and "peak_mib" in first:
        each = ours["peak_mib"] / (row["examples"] * row["copies"])
        found["ratio_mib"] = each / (first["peak_mib"] / one["examples"])
    return found


# --- all parts ------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Run], None]] = {
    "equality": equality, "recipes": recipes, "trainer": trainer, "kernels": by_kernel,
    "batches": larger, "bfloat16": bfloat16, "auto": auto, "second": second,
}  # fmt: skip
# when parts have to have ended, in seconds after the start (docstring); others come at the end
PLAN = {
    "equality": 40, "recipes": 240, "trainer": 370, "kernels": 400, "batches": 430, "bfloat16": 460,
}  # fmt: skip


def measure(a: argparse.Namespace) -> Row:
    """All parts, as planned, then what was left out; the file is written after each figure."""
    gpu = a.device.type == "cuda"
    name = torch.cuda.get_device_name() if gpu else "cpu"
    a.peak = next((rate for word, rate in PEAK_GFLOPS.items() if word in name), None)
    a.product = gemm_gflops(
        a.device, torch.bfloat16 if gpu else torch.float32, 8192 if gpu else 512
    )
    found: Row = {"device": name, "torch": torch.__version__}
    found |= {"date": datetime.now(UTC).date().isoformat(), "gemm_gflops": a.product}
    for part in ("equality", "step", "trainer", "kernels", "larger", "auto", "second"):
        found[part] = {}
    found["recipes"] = [_row(kind, a) for kind in a.kinds]
    run = Run(a, found)
    for part in (part for part in PLAN if part in a.parts):
        run.until = min(a.began + PLAN[part], a.until)
        PARTS[part](run)
    run.until = a.until
    for part in (part for part in PARTS if part in a.parts):
        PARTS[part](run)
    return found


def _row(kind: str, a: argparse.Namespace) -> Row:
    examples = examples_of(kind, a)
    return {"kind": kind, "examples": examples, "gflop": gflop(kind, examples, a)}


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
        found[row["kind"]] = kept | ({"ratios": row["ratios"]} if "ratios" in row else {})
    return found


def write(found: Row, a: argparse.Namespace) -> None:
    """The figures so far: a run that is cut off keeps what it measured."""
    a.out.mkdir(parents=True, exist_ok=True)
    name = "-".join(found["device"].lower().split())
    (a.out / f"gpu-{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def groups(found: Any, place: str = "") -> Iterator[tuple[str, Row]]:
    """All groups of figures, and where they are."""
    pairs = enumerate(found) if isinstance(found, list) else found.items()
    for key, value in pairs:
        if isinstance(value, dict | list):
            here = f"{place}, {key}" if place else str(key)
            if isinstance(value, dict):
                yield here, value
            yield from groups(value, here)


def wrong(found: Row) -> list[str]:
    """Where results are not equal, or could not be made; a peer's own failures do not count."""
    return [
        place
        for place, row in groups(found)
        if not row.get("equal", True) or (row.get("failed") and "peer" not in place)
    ]


def verdict(found: Row) -> tuple[str, int]:
    """What the comparisons have shown, and the exit code."""
    if bad := wrong(found):
        return f"not equal, or failed: {'; '.join(bad)}", 1
    count = sum("equal" in row for _, row in groups(found))
    if not count:
        return "nothing was compared", 1
    return f"all {count} comparisons equal", 0


def main() -> int:
    """Measure and write; 1 if a faster way or a resumed run does not give equal losses."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--tiny", action="store_true", help="small sizes: for tests")
    parser.add_argument("--kinds", nargs="+", choices=batches.KINDS, default=list(batches.KINDS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--steps", type=int, default=12, help="steps per round")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).parent / "results")
    a = parser.parse_args()
    if a.device.type == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here; --device cpu --tiny tries the command out")
    a.began, a.version = time.monotonic(), 1
    a.until = a.began + 60 * a.minutes - MARGIN_S
    with tempfile.TemporaryDirectory(prefix="d2v-compiled-") as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        found = measure(a)
    said, code = verdict(found)
    print(said)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""The benchmark of a GPU: it runs through on a CPU, waits for nothing, and says what it lacks."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from gpu_twin import call, resumed
from recording import Recordings, Watched, without_cpu_code
from torch import Tensor

from d2v import params
from d2v.training import graphs

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
sys.path.insert(0, str(ROOT / "benchmarks"))

import batches  # noqa: E402
import gpu  # noqa: E402
import gpu_sides  # noqa: E402
import kernels  # noqa: E402
import random_sets  # noqa: E402
import steps  # noqa: E402
import through  # noqa: E402

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_the_gpu_command_runs_through_on_a_cpu(tmp_path: Path) -> None:
    found = call(tmp_path, "--kinds", "vision", "--backend", "eager")
    assert all(found["equality"]["vision"][way]["equal"] for way in gpu.WAYS)
    (row,) = found["recipes"]
    seconds = {name: row[name]["seconds"] for name in row["ratios"]}
    assert seconds.keys() == {"peer eager", "peer compiled"}
    assert row["ratios"] == {n: s / row["ours"]["seconds"] for n, s in seconds.items()}
    assert row["ours"]["breaks"] == row["ours"]["compiled_later"] == 0
    assert row["ours"]["replays"] == [0, 0]
    assert row["ours bfloat16"]["seconds"] > 0
    assert found["step"]["vision"]["seconds"] == row["ours"]["seconds"]
    second = found["second"]["vision"]
    assert second["equality"]["bfloat16 compiled"]["equal"]
    rates = second["copies"] * second["ours"]["examples_per_s"], row["ours"]["examples_per_s"]
    assert second["ratio"] == pytest.approx(rates[0] / rates[1])
    assert second["ours"]["breaks"] == 0
    assert resumed(found, "vision")
    assert found["larger"]["vision"]["8"]["seconds"] > 0
    assert found["auto"]["vision"]["micro_batch"] == 16
    assert sum(found["kernels"]["vision"]["ms"].values()) > 0


# --- waiting --------------------------------------------------------------------------------------


class Event:
    """An event of a GPU that is not there; notes what happens."""

    noted: ClassVar[list[str]] = []

    def __init__(self, **options: Any) -> None:
        pass

    def record(self) -> None:
        """Beside the steps."""
        self.noted.append("event")

    def synchronize(self) -> None:
        """As torch.cuda.synchronize."""
        self.noted.append("wait")

    def elapsed_time(self, other: "Event") -> float:
        """Milliseconds."""
        return 1.0


SIDES: dict[str, Callable[[params.Pretrain], steps.Stepper]] = {
    "ours": lambda p: steps.Trained(p, CPU, "float32"),
    "uncaptured": lambda p: steps.Ours(p, CPU),
    "peer": lambda p: steps.Theirs(p, CPU),
}


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a GPU's host would do."""
    monkeypatch.setattr(Event, "noted", [])
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: Event.noted.append("wait"))
    return Event.noted


@pytest.mark.parametrize("name", SIDES)
def test_no_side_waits_for_the_gpu_within_a_round(name: str, noted: list[str]) -> None:
    p = batches.recipe("vision", tiny=True)
    stepper = SIDES[name](p)
    stepper.clock.device = GPU
    drawn = [batches.batch(p, batches.TINY_SIZES["vision"], 2)] * 2
    gpu_sides._round(stepper, drawn, argparse.Namespace(device=GPU, steps=3))
    assert noted == ["event", "event", "wait"]


def test_parts_are_measured_with_waits_if_asked_for(noted: list[str]) -> None:
    p = batches.recipe("vision", tiny=True)
    stepper = steps.Theirs(p, CPU, split=True)
    stepper.clock.device = GPU
    stepper.step(batches.batch(p, batches.TINY_SIZES["vision"], 2))
    assert noted.count("wait") >= 8
    assert stepper.clock.read()["backward"] > 0


class Refusing(Watched):
    """Refuses, too, to index with a mask, whose length the host would have to know."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.index.Tensor:
            assert not any(i is not None and i.dtype == torch.bool for i in args[1])
        return super().__torch_dispatch__(func, types, args, kwargs)


@pytest.mark.parametrize("kind", ["speech", "vision"])
def test_the_peer_reads_no_number_of_the_device(kind: str) -> None:
    p = batches.without_chance(batches.recipe(kind, tiny=True))  # skipped blocks: on the host
    peer = steps.Theirs(p, CPU)
    drawn = batches.batch(p, batches.TINY_SIZES[kind], 2)
    with Refusing():
        loss, count = peer.loss(drawn)
        peer.backward(loss, count)


# --- equality -------------------------------------------------------------------------------------


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the code that is for CPUs only, which works on the host."""
    without_cpu_code(monkeypatch)


def arguments(**changes: Any) -> argparse.Namespace:
    """As main makes them."""
    given = {"device": CPU, "tiny": True, "version": 1, "backend": "eager", "kinds": ["vision"]}
    return argparse.Namespace(**given | changes)


def captured_by(capture: Any, monkeypatch: pytest.MonkeyPatch) -> gpu.Row:
    """The row of captured against uncaptured steps."""
    whole = graphs.build

    def build(wanted: Any, *words: Any) -> Any:
        return whole(wanted, *words, capture=capture)

    monkeypatch.setattr(graphs, "build", build)
    # autocast keeps no state between operators here, which a recording could not repeat
    monkeypatch.setitem(gpu.WAYS, "captured", gpu.WAYS["captured"]._replace(precision="float32"))
    return gpu.compared("vision", arguments(), "captured", {})


@pytest.mark.usefixtures("as_on_a_gpu")
def test_captured_losses_are_compared_with_uncaptured_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    row = captured_by(Recordings(), monkeypatch)
    assert row["equal"]
    assert row["replays"] >= 4  # of eight; of both halves


def test_on_a_gpu_nothing_is_equal_that_was_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "losses", lambda *_, **__: ([1.0], 0))
    assert gpu.compared("vision", arguments(), "captured", {})["equal"]
    assert not gpu.compared("vision", arguments(device=GPU), "captured", {})["equal"]


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_graph_that_computes_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stale(Recordings):
        def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
            return function(), lambda: None

    assert not captured_by(Stale(), monkeypatch)["equal"]


# --- what counts as wrong -------------------------------------------------------------------------


def figures(**changes: Any) -> dict[str, Any]:
    """A few figures of a good run."""
    equal = {"vision": {"losses": [1.0], "captured": {"differs": 0.0, "equal": True}}}
    return {"equality": equal, "recipes": [], "trainer": {}, **changes}


def test_a_run_that_crashes_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(through, "_run", lambda *_: (1, "Traceback"))
    row = through.measured("vision", arguments(), time.monotonic() + 9, killed=True)
    assert row["missing"] == "whole: exit code 1"
    assert gpu.verdict(figures(trainer={"vision": row})) == (
        "not equal, or failed: trainer, vision",
        1,
    )


def test_a_run_that_time_cuts_off_is_not_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: Any) -> None:
        raise subprocess.TimeoutExpired("d2v", 1.0)

    monkeypatch.setattr(through, "_run", late)
    row = through.measured("vision", arguments(), time.monotonic() + 9, killed=True)
    assert row == gpu_sides.MISSING
    assert gpu.verdict(figures(trainer={"vision": row}))[1] == 0


def test_a_run_that_was_not_killed_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [{"step": n, "steps_per_s": 1.0, "loss": 1.0} for n in (1, 2)]
    monkeypatch.setattr(through, "_run", lambda *_: (0, ""))
    monkeypatch.setattr(through, "_lines", lambda *_: lines)
    row = through.measured("vision", arguments(), time.monotonic() + 9, killed=True)
    assert (row["steps_per_s"], row["missing"]) == (1.0, "killed: exit code 0")
    assert gpu.verdict(figures(trainer={"vision": row}))[1] == 1


@pytest.mark.parametrize(("side", "code"), [("ours", 1), ("ours bfloat16", 1), ("peer eager", 0)])
def test_only_our_own_failures_are_wrong(side: str, code: int) -> None:
    failed = gpu_sides.failed(RuntimeError("no kernel"))
    assert gpu.verdict(figures(recipes=[{side: failed}]))[1] == code
    memory = gpu_sides.failed(torch.OutOfMemoryError("140 GB"))
    assert gpu.verdict(figures(recipes=[{side: memory}]))[1] == 0


def test_what_was_compared_is_counted() -> None:
    assert gpu.verdict(figures()) == ("all 1 comparisons equal", 0)
    assert gpu.verdict(figures(equality={})) == ("nothing was compared", 1)


def test_a_ratio_names_its_peer() -> None:
    row = {"ours": {"seconds": 2.0}, "peer eager": {"seconds": 3.0}, "peer compiled": gpu.MISSING}
    assert gpu.ratios(row) == {"ratios": {"peer eager": 1.5}}
    assert gpu.ratios({"ours": gpu.MISSING, "peer eager": {"seconds": 3.0}}) == {}


# --- the plan of time -----------------------------------------------------------------------------


def test_the_plan_fits_into_eight_minutes() -> None:
    assert gpu.PLAN["equality"] <= 40
    assert gpu.PLAN["recipes"] <= 240
    assert list(gpu.PLAN.values()) == sorted(gpu.PLAN.values())
    assert max(gpu.PLAN.values()) <= 8 * 60 - gpu.MARGIN_S
    assert all(f"{part:<11}" in (gpu.__doc__ or "") for part in gpu.PARTS)
    assert all(f"{part:<10} [{end}]" in (gpu.__doc__ or "") for part, end in gpu.PLAN.items())


def test_nothing_is_begun_that_would_end_too_late(tmp_path: Path) -> None:
    a = arguments(tiny=False, until=time.monotonic() + 10, out=tmp_path)
    place: gpu.Row = {}
    run = gpu.Run(a, {"device": "cpu", "place": place})

    def measure() -> gpu.Row:
        return {"seconds": 1.0}

    run.fill(place, "peer compiled", "peer compiled", measure)
    run.fill(place, "peer eager", "peer eager", measure)
    assert place == {"peer compiled": gpu.MISSING, "peer eager": {"seconds": 1.0}}
    run.until += 600
    run.fill(place, "peer compiled", "peer compiled", measure)
    written = json.loads((tmp_path / "gpu-cpu.json").read_text())["place"]
    assert written == {"peer compiled": {"seconds": 1.0}, "peer eager": {"seconds": 1.0}}


# --- other ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", batches.KINDS)
def test_d2v_run_takes_the_recipes_at_full_size(kind: str, tmp_path: Path) -> None:
    words = {"tiny": False, "name": through.KILLED, "backend": "inductor"}
    a = argparse.Namespace(**words, examples=through.EXAMPLES[kind])
    p = batches.recipe(kind)
    file = tmp_path / "killed.yaml"
    changed = through.settings(a, p.train.model_dump())
    file.write_text(random_sets.experiment("killed", kind, p, changed))
    made = params.load(file).pretrain[kind]
    assert made.backbone == p.backbone
    assert made.encoder == p.encoder
    assert (made.train.steps, made.train.micro_batch) == (through.STEPS, through.EXAMPLES[kind])
    assert made.train.compile is True
    assert made.train.cuda_graph == "auto"
    assert made.train.checkpoint_every < through.KILLED_IN < through.STEPS


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("fmha_cutlassB_bf16_aligned_64x64_k64_dropout_sm80", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "attention"),
        ("nvjet_sm90_tst_192x192_64x4_2x1_v_bz_coopB_bias_TNN", "products"),
        ("triton_poi_fused_gelu_view_8", "fused elementwise"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel", "optimiser and EMA"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16", "products"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("void at::native::reduce_kernel<128, 4>", "other"),
    ],
)
def test_kernels_are_grouped_by_their_names(name: str, group: str) -> None:
    assert kernels.group(name) == group


def test_the_gpu_command_says_that_there_is_no_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    command = [str(ROOT / "benchmarks" / "gpu.sh"), "--tiny", "-o", str(tmp_path)]
    env = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 2
    assert "sees no GPU" in done.stderr

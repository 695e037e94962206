"""The benchmarks run through in small, and their peer computes what this project computes."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
sys.path.insert(0, str(ROOT / "benchmarks"))

import batches  # noqa: E402
import features  # noqa: E402
import loaders  # noqa: E402
import overhead  # noqa: E402
import peer  # noqa: E402
import regressions  # noqa: E402
import step  # noqa: E402
import steps  # noqa: E402
import versions  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", batches.KINDS)
def test_the_peer_learns_what_this_project_learns(kind: str) -> None:
    p = batches.without_chance(batches.recipe(kind, tiny=True))
    # the peer has AdamW as it comes: it decays every parameter, and adds epsilon in the end
    plain = {"weight_decay": 0.0, "eps_before_correction": False}
    p = p.model_copy(update={"optimiser": p.optimiser.model_copy(update=plain)})
    ours, theirs = steps.Ours(p, CPU), steps.Theirs(p, CPU)
    peer.take_over(theirs.peer, ours.task.model.state_dict())
    size = batches.TINY_SIZES[kind]
    for n in range(3):
        drawn = batches.batch(p, size, 2, n)
        torch.testing.assert_close(ours.step(drawn), theirs.step(drawn), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", batches.KINDS)
def test_synthetic_batches_have_the_masks_of_real_ones(kind: str) -> None:
    drawn = batches.batch(batches.recipe(kind, tiny=True), batches.TINY_SIZES[kind], 2)
    assert torch.equal(drawn["masked"], drawn["mask"].flatten().nonzero()[:, 0])


def test_base_sizes_are_those_of_the_recipes() -> None:
    for kind in batches.KINDS:
        p = batches.recipe(kind)
        assert (p.backbone.dim, p.backbone.depth, p.encoder.kind) == (768, 12, kind)


@pytest.fixture(scope="module")
def benched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where `bench.py` wrote the steps of all kinds, and what it said of an impossible baseline."""
    folder = tmp_path_factory.mktemp("bench")
    before: Any = copy.deepcopy(FOUND)
    before["step"]["text"] = {"fraction_of_gemm": 1e9}
    (folder / "before").write_text(json.dumps(before))
    words = ["--tiny", "--threads", "1", "--parts", "step", "-o", str(folder)]
    done = call("bench.py", *words, "--baseline", str(folder / "before"))
    assert done.returncode == 1, done.stderr
    return folder, done.stdout


@pytest.mark.parametrize("kind", batches.KINDS)
def test_a_step_is_measured_beside_its_peer(kind: str, benched: tuple[Path, str]) -> None:
    (written,) = benched[0].glob("*cpu.json")
    row = json.loads(written.read_text())["step"][kind]
    assert row["ratio"] == pytest.approx(row["peer_seconds"] / row["seconds"])
    assert row["kept_ratio"] == pytest.approx(row["peer_kept_seconds"] / row["seconds"])
    assert 0 < row["fraction_of_gemm"] < 1
    inside = sum(row["split"][part] for part in steps.PARTS)
    assert 0 < inside < 2 * row["seconds"]
    assert row["split"]["backward"] > 0
    assert row["split"]["teacher"] > 0
    assert 0 < row["peak_mib"] < 300
    assert step.table({kind: row}).count("\n") == 2


def test_a_side_that_dies_ends_the_benchmark() -> None:
    a = step.arguments(["--tiny", "--kinds", "text"])
    side = step.start("ours", "text", a)
    with pytest.raises(SystemExit, match="a side of the benchmark ended with code"):
        side._answer("no number\n")


def test_the_second_version_is_measured_beside_the_first() -> None:
    words = ["--tiny", "--kinds", "vision", "--threads", "1", "--repeat", "2", "--warm-up", "1"]
    found = versions.measure("vision", versions.arguments([*words, "--examples", "2"]))
    one, two = found["v1"], found["v2"]
    copies = batches.recipe("vision", tiny=True, version=2).copies
    assert (one["copies"], two["copies"]) == (2, 2 * copies)
    assert two["targets"] > one["targets"] > 0
    assert found["ratio"]["step_time"] == pytest.approx(two["seconds"] / one["seconds"])
    assert 0 < one["mib_per_copy"] < 300
    said = versions.table({"vision": found})
    assert f"| vision, version 2, {2 * copies} copies | " in said


FOUND = {
    "gemm_gflops": 100.0,
    "step": {"text": {"fraction_of_gemm": 0.5, "spread": 0.05, "peak_mib": 1000.0}},
    "loaders": {"vision": {"per_s_and_core": 100.0, "spread": 0.02}},
    "start": {"d2v --help": 0.2},
    "decoding": {"rows": [{"beam": 50, "cpu": 0.1}]},
}


def test_a_run_is_not_worse_than_itself_or_within_noise() -> None:
    after = copy.deepcopy(FOUND)
    after["step"]["text"]["fraction_of_gemm"] = 0.45
    assert not regressions.worse(FOUND, FOUND)
    assert not regressions.worse(FOUND, after)


@pytest.mark.parametrize(
    ("place", "value", "word"),
    [
        (("step", "text", "fraction_of_gemm"), 0.4, "step, text, fraction"),
        (("step", "text", "peak_mib"), 1100.0, "step, text, MiB"),
        (("loaders", "vision", "per_s_and_core"), 50.0, "loader, vision"),
        (("start", "d2v --help"), 0.4, "d2v --help"),
    ],
)
def test_what_got_worse_is_named(place: tuple[str, ...], value: float, word: str) -> None:
    after: Any = copy.deepcopy(FOUND)
    part = after
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    (change,) = regressions.worse(FOUND, after)
    assert str(change).startswith(word)
    assert not regressions.worse(after, FOUND)


def test_a_slower_machine_is_not_slower_code() -> None:
    after: Any = copy.deepcopy(FOUND)
    after["gemm_gflops"] = 50.0
    after["loaders"]["vision"]["per_s_and_core"] = 50.0
    after["start"]["d2v --help"] = 0.4
    after["decoding"]["rows"][0]["cpu"] = 0.2
    assert not regressions.worse(FOUND, after)


def test_every_command_and_base_model_is_started_against_a_bar() -> None:
    from d2v.cli import commands as cli

    helps = {f"d2v {name} --help" for name in cli.COMMANDS} | {"d2v --help"}
    assert helps < overhead.STARTS.keys()
    assert all(overhead.BARS[name] == 0.5 for name in helps)
    assert overhead.BARS["a run of speech-base"] == overhead.BARS["d2v check"] == 3.0
    assert overhead.BARS.keys() < overhead.STARTS.keys()


def test_starts_are_measured_by_both_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    commands = {"d2v --help": busy, "d2v check": "import time; time.sleep(0.2)"}
    starts = {name: [sys.executable, "-c", code] for name, code in commands.items()}
    monkeypatch.setattr(overhead, "STARTS", starts)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # which it sets
    found = overhead.run(["--repeat", "1", "--no-dag"])
    assert found.keys() == {"start", "start_cpu"}
    assert min(found["start"].values()) > 0.2
    assert found["start_cpu"]["d2v --help"] > 0.2
    assert found["start_cpu"]["d2v check"] < found["start"]["d2v check"]
    assert "| d2v check | " in overhead.table(found)
    monkeypatch.setattr(overhead, "STARTS", {"broken": [sys.executable, "-c", "1 / 0"]})
    with pytest.raises(SystemExit, match="ZeroDivisionError"):
        overhead.run(["--repeat", "1", "--no-dag"])


def test_a_bar_may_be_met_by_cpu_time_only() -> None:
    found = {
        "start": {"import torch": 2.0, "d2v --help": 0.4, "d2v check": 4.0, "d2v plan": 4.0},
        "start_cpu": {"import torch": 2.0, "d2v --help": 0.4, "d2v check": 2.9, "d2v plan": 3.1},
        "dag": {"tables, small": 1.0},
        "dag_cpu": {"tables, small": 0.9},
    }
    assert overhead.table(found).splitlines()[2:] == [
        "| import torch | 2.00 | 2.00 |  |  |",
        "| d2v --help | 0.40 | 0.40 | 0.5 | yes |",
        "| d2v check | 4.00 | 2.90 | 3.0 | by CPU time only |",
        "| d2v plan | 4.00 | 3.10 | 3.0 | no |",
        "| tables, small | 1.00 | 0.90 |  |  |",
    ]


def call(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "benchmarks" / script), *words]
    command = command if script.endswith(".sh") else [sys.executable, *command]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=900)


def test_streamed_features_equal_those_of_the_loop_by_hand(tmp_path: Path) -> None:
    made = features.checkpoint(tmp_path)
    for lengths in features.SETS.values():
        row = features.compared(features.load(made, "cpu"), 20, lengths)
        assert max(row["differs_from_alone"], row["differs_from_by_hand"]) < 1e-4
        assert min(row["rate"]) > 0
    row = features.apart("features", made, 20, "1 s")
    assert 0 < row["fifth_mb"] <= row["most_mb"]


def test_loaders_are_measured_beside_loose_files() -> None:
    words = ["--images", "6", "--utterances", "6", "--sentences", "1500", "--repeat", "1"]
    found = loaders.run(words)
    assert found.keys() == loaders.UNITS.keys()
    assert all(row["per_s_and_core"] > 0 for row in found.values())
    for kind in ("vision", "speech"):
        works = {(row["work"], row["cache"]) for row in found[kind]["files"]}
        assert {("bytes, shuffled", "warm"), ("bytes, shuffled", "cold")} <= works
    text = loaders.table(found)
    assert "| speech: decoded, shuffled | warm | " in text
    assert "images/s" in text


def test_the_loader_is_the_bottleneck_or_not() -> None:
    slow, fast = ({"per_s_and_core": n, "covers": n / 175} for n in (100.0, 350.0))
    assert "is the bottleneck: 16 such cores load 1,600 images/s, 57%" in loaders.verdict(slow)
    assert "28 cores would do" in loaders.verdict(slow)
    assert "is not the bottleneck: 16 such cores load 5,600" in loaders.verdict(fast)
    assert "2.00 times the 2,800" in loaders.verdict(fast)


def test_bench_says_what_got_slower(benched: tuple[Path, str]) -> None:
    folder, said = benched
    assert "step, text, fraction of matrix products: 1e+09 -> " in said
    (found,) = [json.loads(p.read_text()) for p in folder.glob("*cpu.json")]
    assert found["step"]["speech"].keys() >= {"ratio", "peer_seconds", "split"}
    (plot,) = folder.glob("*.svg")
    assert "front end" in plot.read_text()

"""The benchmarks run through in small, and their peer computes what this project computes."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import batches  # noqa: E402
import peer  # noqa: E402
import step  # noqa: E402
import steps  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", batches.KINDS)
def test_the_peer_learns_what_this_project_learns(kind: str) -> None:
    p = batches.without_chance(batches.recipe(kind, tiny=True))
    # the peer decays every parameter, as AdamW does as it comes
    p = p.model_copy(update={"optimiser": p.optimiser.model_copy(update={"weight_decay": 0.0})})
    ours, theirs = steps.Ours(p, CPU), steps.Theirs(p, CPU)
    peer.take_over(theirs.peer, ours.task.model.state_dict())
    size = batches.TINY_SIZES[kind]
    for n in range(3):
        drawn = batches.batch(p, size, 2, n)
        torch.testing.assert_close(ours.step(drawn), theirs.step(drawn), rtol=1e-4, atol=1e-5)


def test_base_sizes_are_those_of_the_recipes() -> None:
    for kind in batches.KINDS:
        p = batches.recipe(kind)
        assert (p.backbone.dim, p.backbone.depth, p.encoder.kind) == (768, 12, kind)


@pytest.mark.parametrize("kind", batches.KINDS)
def test_a_step_is_measured_beside_its_peer(kind: str) -> None:
    words = ["--tiny", "--threads", "1", "--repeat", "2", "--no-memory", "--kinds", kind]
    row = step.run(words)["step"][kind]
    assert row["ratio"] == pytest.approx(row["peer_seconds"] / row["seconds"])
    assert 0 < row["fraction_of_gemm"] < 1
    inside = sum(row["split"][part] for part in steps.PARTS)
    assert 0 < inside < 2 * row["seconds"]
    assert row["split"]["backward"] > 0
    assert row["split"]["teacher"] > 0


def test_memory_is_that_of_a_process_of_its_own() -> None:
    words = ["--tiny", "--threads", "1", "--repeat", "1", "--kinds", "text", "--sides", "ours"]
    row = step.run(words)["step"]["text"]
    assert 0 < row["peak_mib"] < 300
    assert "ratio" not in row

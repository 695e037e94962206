"""Several processes compute what one computes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Tiny, equal

from d2v.training import checkpoint, distributed, log

TINY = Path(__file__).parents[1] / "helpers" / "tiny.py"
PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]


def run(work: Path, processes: int, *options: str, **train: Any) -> str:
    launcher = [sys.executable] if processes == 1 else [*PROCESSES, str(processes)]
    command = [*launcher, str(TINY), str(work), "--train", json.dumps(train), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout


def losses(work: Path) -> list[float]:
    lines = log.read(work / "log.jsonl")
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SUBMITIT_EXECUTOR"):
        monkeypatch.delenv(name, raising=False)
    world = distributed.join()
    assert (world.rank, world.size, world.main) == (0, 1, True)
    x = torch.ones(2)
    assert distributed.add_up(x) is x
    assert distributed.from_main({"a": 1}) == {"a": 1}
    model = torch.nn.Linear(1, 1)
    assert distributed.wrap(model, world) is model
    with distributed.exchange(model, now=False):
        pass
    distributed.leave()


@pytest.mark.slow
def test_two_processes_equal_one_with_accumulation(tmp_path: Path) -> None:
    # dropout and skipped blocks included: they depend on the micro-batch, not on the process
    options = ("--dropout", "0.2", "--skip", "0.4")
    portions = {"steps": 24, "batch": 8, "micro_batch": 2}
    said = run(tmp_path / "two", 2, *options, **portions)
    assert said.count("batch 8 = 2 (micro) x 2 (accumulation) x 2 (processes)") == 1
    run(tmp_path / "one", 1, *options, **portions)
    assert len(losses(tmp_path / "one")) == 24
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)
    assert said.count("finished 24") == 2
    # a finished run is seen as finished by every process
    assert run(tmp_path / "two", 2, *options, **portions).count("finished 24") == 2


@pytest.mark.slow
def test_two_processes_with_bfloat16_weights_stay_together(tmp_path: Path) -> None:
    """Gradients are exchanged in bfloat16, once per update; the weights stay float32."""
    portions = {"steps": 8, "batch": 8, "micro_batch": 2, "precision": "bfloat16"}
    said = run(tmp_path / "two", 2, **portions)
    assert "bfloat16 with float32 weights" in said
    run(tmp_path / "one", 1, **portions)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=3e-2)


@pytest.mark.slow
def test_two_processes_equal_one_in_batches_by_length(tmp_path: Path) -> None:
    options = ("--dropout", "0.2", "--skip", "0.4")
    settings = {"steps": 20, "sized": {"size": 12, "micro_batches": 4}}
    said = run(tmp_path / "two", 2, *options, **settings)
    assert "x 2 (accumulation) x 2 (processes)" in said
    run(tmp_path / "one", 1, *options, **settings)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimiser",
    ["{}", '{"missing_gradients": "zero", "eps_before_correction": true}'],
    ids=["torch", "fairseq"],
)
def test_sharded_moments_change_nothing_and_are_whole_in_the_checkpoint(
    tmp_path: Path, optimiser: str
) -> None:
    options = ("--dropout", "0.2", "--skip", "0.4", "--optimiser", optimiser)
    half = {"steps": 24, "batch": 8, "micro_batch": 2, "checkpoint_every": 10}
    run(tmp_path / "whole", 2, *options, **half)
    run(tmp_path / "shared", 2, *options, **half, shard=True)
    assert losses(tmp_path / "shared") == losses(tmp_path / "whole")
    for step in (20, 24):
        a, b = (
            checkpoint.load(tmp_path / work / "checkpoints" / f"step-{step}")
            for work in ("whole", "shared")
        )
        assert equal(a.model, b.model)
        moments = [
            {k: v for k, v in c.training.items() if k.startswith("optimiser.")} for c in (a, b)
        ]
        assert equal(*moments)
        assert len(moments[0]) == 3 * len(list(Tiny().parameters()))

    # goes on with shares, without, and in one process
    shutil.rmtree(tmp_path / "shared" / "checkpoints" / "step-24")
    for processes, shard in ((2, True), (2, False), (1, True)):
        work = tmp_path / f"{processes}-{shard}"
        shutil.copytree(tmp_path / "shared", work)
        said = run(work, processes, *options, **half, shard=shard)
        assert "resuming after step 20 of 24" in said
        assert losses(work) == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)


@pytest.mark.slow
def test_one_process_that_is_told_to_end_makes_all_save(tmp_path: Path) -> None:
    """The one that was told is not the one that writes; a handler lets it live, as submitit's."""
    portions = {"steps": 300, "batch": 8, "micro_batch": 2, "checkpoint_every": 1000, "shard": True}
    said = run(tmp_path / "told", 2, "--told", "13", **portions)
    assert "stopping: checkpoint saved after step 13" in said
    run(tmp_path / "left", 2, **portions)
    assert losses(tmp_path / "told") == losses(tmp_path / "left")


@pytest.mark.slow
def test_submitit_tasks_find_each_other(tmp_path: Path) -> None:
    submitit = pytest.importorskip("submitit")
    executor = submitit.AutoExecutor(tmp_path / "logs", cluster="local")
    executor.update_parameters(tasks_per_node=2, timeout_min=2)

    def sum_of_ranks() -> tuple[int, int, float]:
        world = distributed.join()
        return world.rank, world.size, distributed.add_up(torch.tensor(float(world.rank))).item()

    job = executor.submit(sum_of_ranks)
    assert job.results() == [(0, 2, 1.0), (1, 2, 1.0)]

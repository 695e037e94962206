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
from tiny import OPTIMISER, Tiny, equal, train

from d2v.training import checkpoint, distributed, log

TINY = Path(__file__).parents[1] / "helpers" / "tiny.py"
DROPS = ("--dropout", "0.2", "--skip", "0.4")
PROCESSES = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
PORTIONS = {"steps": 24, "batch": 8, "micro_batch": 2}
BY_LENGTH = {"steps": 20, "sized": {"size": 12, "micro_batches": 4}}
BFLOAT16 = {"steps": 8, "batch": 16, "micro_batch": 4, "precision": "bfloat16"}


def two(works: dict[Path, dict[str, Any]], *options: str) -> str:
    """Train in these folders with these settings, in two processes; what they said.

    One launch serves all of them, because it takes much longer than their steps.
    """
    command = [*PROCESSES, str(TINY), *map(str, works), *options]
    for settings in works.values():
        command += ["--train", json.dumps(settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout


def dropping() -> Tiny:
    """The task of DROPS."""
    return Tiny(dropout=0.2, skip=0.4)


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


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of trainings of two processes, and what they said."""
    root = tmp_path_factory.mktemp("two")
    trainings = {"portions": PORTIONS, "length": BY_LENGTH, "bfloat16": BFLOAT16}
    return root, two({root / name: settings for name, settings in trainings.items()}, *DROPS)


@pytest.mark.slow
def test_two_processes_equal_one_with_accumulation(done: tuple[Path, str], tmp_path: Path) -> None:
    # dropout and skipped blocks included: they depend on the micro-batch, not on the process
    root, said = done
    assert said.count("batch 8 = 2 (micro) x 2 (accumulation) x 2 (processes)") == 1
    train(tmp_path / "one", dropping(), **PORTIONS)
    assert len(losses(tmp_path / "one")) == 24
    assert losses(root / "portions") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)
    assert said.count("finished 24") == 2
    # a finished run is seen as finished by every process
    assert two({root / "portions": PORTIONS}, *DROPS).count("finished 24") == 2


@pytest.mark.slow
def test_two_processes_with_bfloat16_weights_stay_together(
    done: tuple[Path, str], tmp_path: Path
) -> None:
    """Gradients are exchanged in bfloat16, once per update; the weights stay float32."""
    root, said = done
    assert "bfloat16 with float32 weights" in said
    train(tmp_path / "one", dropping(), **BFLOAT16)
    assert losses(root / "bfloat16") == pytest.approx(losses(tmp_path / "one"), rel=3e-2)


@pytest.mark.slow
def test_two_processes_equal_one_in_batches_by_length(
    done: tuple[Path, str], tmp_path: Path
) -> None:
    root, said = done
    assert "at most 12 samples or tokens (micro) x 2 (accumulation) x 2 (processes)" in said
    train(tmp_path / "one", dropping(), **BY_LENGTH)
    assert losses(root / "length") == pytest.approx(losses(tmp_path / "one"), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [{}, {"missing_gradients": "zero", "eps_before_correction": True}],
    ids=["torch", "fairseq"],
)
def test_sharded_moments_change_nothing_and_are_whole_in_the_checkpoint(
    tmp_path: Path, changed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    options = (*DROPS, "--optimiser", json.dumps(changed))
    half = {"steps": 24, "batch": 8, "micro_batch": 2, "checkpoint_every": 10, "shard": False}
    two({tmp_path / "whole": half, tmp_path / "shared": {**half, "shard": True}}, *options)
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
    works = {name: tmp_path / name for name in ("shares", "without", "one")}
    for work in works.values():
        shutil.copytree(tmp_path / "shared", work)
    further = {works["shares"]: {**half, "shard": True}, works["without"]: half}
    assert two(further, *options).count("resuming after step 20 of 24") == 2
    capsys.readouterr()
    optimiser = OPTIMISER.model_copy(update=changed)
    train(works["one"], dropping(), optimiser=optimiser, **{**half, "shard": True})
    assert "resuming after step 20 of 24" in capsys.readouterr().out
    for work in works.values():
        assert losses(work) == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)


@pytest.mark.slow
def test_one_process_that_is_told_to_end_makes_all_save(tmp_path: Path) -> None:
    """The one that was told is not the one that writes; a handler lets it live, as submitit's."""
    portions = {"steps": 300, "batch": 8, "micro_batch": 2, "checkpoint_every": 1000, "shard": True}
    said = two({tmp_path / "left": portions, tmp_path / "told": portions}, "--told", "13")
    assert "stopping: checkpoint saved after step 13" in said
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

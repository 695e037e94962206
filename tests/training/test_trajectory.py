"""The same seed gives the same bits, also through a kill; in every modality, on real data sets."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import trajectory

from d2v.training import checkpoint, log


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the killed process has: the order of a sum depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


CLOCK = ("examples_per_s", "steps_per_s")


def record(work: Path) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """The log without what the clock says, and the last weights, teacher included."""
    lines = [{k: v for k, v in x.items() if k not in CLOCK} for x in log.read(work)]
    folder = checkpoint.latest(work.parent / "checkpoints")
    assert folder is not None
    return lines, checkpoint.load_weights(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", trajectory.KINDS)
def test_fifty_steps_are_the_same_bits(
    kind: str, small_prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, again, killed = (tmp_path / name for name in ("whole", "again", "killed"))
    trajectory.train(small_prepared, whole, kind)
    trajectory.train(small_prepared, again, kind)

    command = [sys.executable, trajectory.__file__, str(small_prepared), str(killed), kind]
    if not torch.backends.mkldnn.enabled:  # pytest --no-onednn: there as here
        command.append(trajectory.NO_ONEDNN)
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == -signal.SIGKILL
    assert [f.name for f in (killed / "checkpoints").iterdir()] == ["step-23"]
    capsys.readouterr()
    trajectory.train(small_prepared, killed, kind)
    assert "resuming after step 23 of 50" in capsys.readouterr().out

    lines, weights = record(whole / "log.jsonl")
    losses = [line["loss"] for line in lines]
    assert [line["step"] for line in lines] == list(range(1, 51))
    assert len(set(losses)) == 50
    for other in (again, killed):
        other_lines, other_weights = record(other / "log.jsonl")
        assert [line["loss"] for line in other_lines] == losses
        assert other_lines == lines
        assert other_weights.keys() == weights.keys()
        assert all(torch.equal(other_weights[name], weights[name]) for name in weights)

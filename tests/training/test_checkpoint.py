"""Checkpoints are whole or absent, and a damaged one is never used."""

import errno
import itertools
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from tiny import OPTIMISER, Tiny
from torch import Tensor

from d2v.training import checkpoint, optim
from d2v.util.errors import UserError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.weight": torch.tensor(3)}


def write(root: Path, step: int, **meta: object) -> Path:
    return checkpoint.save(root, step, TENSORS, {"x": torch.zeros(2)}, meta)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    folder = write(tmp_path, 7, params={"lr": 0.1})
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step-7"]
    found = checkpoint.load(folder)
    assert (found.step, found.meta["params"]) == (7, {"lr": 0.1})
    assert found.meta["schema_version"] == checkpoint.SCHEMA_VERSION
    for name, tensor in TENSORS.items():
        assert torch.equal(found.model[name], tensor)
    assert set(checkpoint.load_weights(folder, "a.")) == {"weight"}


def test_tied_and_strided_tensors_can_be_saved(tmp_path: Path) -> None:
    x = torch.arange(6.0).reshape(2, 3)
    model = {"x": x, "tied": x, "transposed": x.T, "empty": torch.empty(0)}
    found = checkpoint.load(checkpoint.save(tmp_path, 1, model, {}, {})).model
    assert all(torch.equal(found[name], tensor) for name, tensor in model.items())


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *itertools.product([checkpoint.MODEL, checkpoint.TRAINING], ["flipped", "cut", "gone"]),
        *itertools.product([checkpoint.META], ["cut", "gone"]),
    ],
)
def test_the_one_before_a_damaged_one_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, fault: str
) -> None:
    write(tmp_path, 90)
    older, newest = write(tmp_path, 100), write(tmp_path, 200)
    if fault == "flipped":
        flip_a_byte(newest / name)
    elif fault == "cut":
        (newest / name).write_bytes((newest / name).read_bytes()[:20])
    else:
        (newest / name).unlink()
    with pytest.raises(checkpoint.Damaged, match=f"step-200/{name}"):
        checkpoint.load(newest)
    assert checkpoint.latest(tmp_path) == older
    said = capsys.readouterr().out
    assert f"step-200/{name}" in said
    assert "the previous checkpoint is used" in said
    assert not newest.exists()
    write(tmp_path, 200)
    checkpoint.prune(tmp_path, 2)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step-100", "step-200"]


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_one_that_cannot_be_read_now_is_left_as_it_is(tmp_path, monkeypatch, capsys, number):
    """A stale file handle passes: the checkpoint is neither set aside nor removed."""
    older, newest = write(tmp_path, 100), write(tmp_path, 200)
    whole = checkpoint.sha256

    def stale(path: Path) -> str:
        if newest in path.parents:
            raise OSError(number, os.strerror(number))
        return whole(path)

    monkeypatch.setattr(checkpoint, "sha256", stale)
    assert checkpoint.latest(tmp_path) == older
    assert "left in place, and the previous checkpoint is used" in capsys.readouterr().out
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path) == newest


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    older = write(tmp_path, 100)
    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, 200)
    assert list(tmp_path.iterdir()) == [older]


def full_disk(*_: object) -> None:
    raise SafetensorError("I/O error: No space left on device (os error 28)")


def test_nothing_usable(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "absent") is None
    (write(tmp_path, 1) / checkpoint.MODEL).unlink()
    assert checkpoint.latest(tmp_path) is None


def test_a_kill_while_writing_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = write(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "sha256", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path) == older
    write(tmp_path, 2)
    checkpoint.prune(tmp_path, 2)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step-1", "step-2"]


def test_another_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = write(tmp_path, 1)
    meta = json.loads((folder / checkpoint.META).read_text())
    (folder / checkpoint.META).write_text(json.dumps({**meta, "schema_version": 99}))
    with pytest.raises(UserError, match="schema version 99"):
        checkpoint.latest(tmp_path)
    assert folder.exists()


def test_the_last_two_and_their_best_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        write(tmp_path, step, best=None if step < 20 else {"step": 20})
    write(tmp_path, 50, best={"step": 50})
    checkpoint.prune(tmp_path, 2)  # 40 still needs 20, should 50 be damaged
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step-20", "step-40", "step-50"]
    write(tmp_path, 60, best={"step": 50})
    checkpoint.prune(tmp_path, 2)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["step-50", "step-60"]


# --- what a user has put among them -----------------------------------------------------------


def mine(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("mine")
    return folder / "thesis.tex"


NAMES = (
    "step-4-for-the-paper",
    "step-notes",
    "step-2.part.mine",
    "step-3",
    "step-99",
    "step-5.part",
    "best",
)


def test_pruning_leaves_what_a_user_added(tmp_path: Path) -> None:
    files = [mine(tmp_path / name) for name in NAMES]
    for step in (10, 20, 30):
        write(tmp_path, step)
    (tmp_path / "step-10/thesis.tex").write_text("mine")
    (tmp_path / "step-6.part").mkdir()
    for draft in (".tmpAb12xY", ".model.safetensors.mode.77", checkpoint.MODEL):
        (tmp_path / "step-6.part" / draft).touch()  # of a process that was killed
    checkpoint.prune(tmp_path, 1)
    assert all(path.read_text() == "mine" for path in files)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*NAMES, "step-10", "step-30"}


@pytest.mark.parametrize("name", ["step-7", "step-7.part"])
def test_saving_replaces_nothing_of_a_user(tmp_path: Path, name: str) -> None:
    file = mine(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: contains thesis.tex, which d2v did not write"):
        write(tmp_path, 7)
    assert file.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["step-7", "step-7.damaged"])
def test_setting_aside_moves_and_replaces_nothing_of_a_user(tmp_path: Path, name: str) -> None:
    write(tmp_path, 6)
    if name == "step-7.damaged":
        flip_a_byte(write(tmp_path, 7) / checkpoint.MODEL)
    file = mine(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: contains thesis.tex.*move the folder away"):
        checkpoint.latest(tmp_path)
    assert file.read_text() == "mine"


def test_a_removal_that_is_cut_off_leaves_a_checkpoint_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, 1)
    write(tmp_path, 2)
    monkeypatch.setattr(checkpoint.layout, "remove_folder", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpoint.prune(tmp_path, 1)
    monkeypatch.undo()
    assert [path.name for path in folder.iterdir()] == [checkpoint.META]
    checkpoint.prune(tmp_path, 1)
    assert not folder.exists()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Checkpoints, those set aside earlier, and files of a user among both."""
    root, aside = tmp_path / "checkpoints", tmp_path / checkpoint.OTHERS
    for folder in (root / "best", root / "step-4-for-the-paper", aside / "step-8", aside / "best"):
        mine(folder)
    for step in (10, 20):
        write(root, step)
    (root / "step-10/notes").write_text("mine")
    write(aside, 5)
    return tmp_path


def test_only_checkpoints_move_when_the_parameters_change(work: Path) -> None:
    said: list[str] = []
    aside = checkpoint.set_aside(work / "checkpoints", said.append)
    assert {path.name for path in (work / "checkpoints").iterdir()} == {
        "best",
        "step-4-for-the-paper",
    }
    assert {path.name for path in aside.iterdir()} == {"best", "step-8", "step-10", "step-20"}
    assert (aside / "step-10/notes").read_text() == "mine"
    assert len(list(work.rglob("thesis.tex"))) == 4
    [line] = said
    assert line.startswith(f"{aside}: contains ")
    assert line.endswith(", which d2v did not write; it stays there")


def test_moving_refuses_before_it_changes_anything(work: Path) -> None:
    write(work / "checkpoints", 8)
    before = sorted(work.rglob("*"))
    with pytest.raises(UserError, match=r"parameters/step-8: contains thesis\.tex"):
        checkpoint.set_aside(work / "checkpoints")
    (work / "checkpoints").rename(work / "elsewhere")
    (work / "checkpoints").symlink_to("elsewhere")
    with pytest.raises(UserError, match=r"checkpoints: is a symbolic link.*; move it away"):
        checkpoint.set_aside(work / "checkpoints")
    (work / "checkpoints").unlink()
    (work / "elsewhere").rename(work / "checkpoints")
    assert sorted(work.rglob("*")) == before


# --- optimiser and random generators ----------------------------------------------------------


def moved(task: Tiny, optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """Parameters after two steps with fixed gradients; the head's bias gets none."""
    for step in range(2):
        for k, p in enumerate(task.parameters()):
            p.grad = torch.full_like(p, 0.1 * (k + step)) if p.shape != (1,) else None
        optimiser.step()
    return [p.detach().clone() for p in task.parameters()]


def test_the_optimiser_continues_also_with_other_groups(tmp_path: Path) -> None:
    task = Tiny()
    optimiser = optim.build(task, OPTIMISER)
    moved(task, optimiser)
    state = checkpoint.optimiser_state(optimiser)
    assert "optimiser.head.weight/exp_avg_sq" in state
    assert not any("head.bias" in name for name in state)
    folder = checkpoint.save(tmp_path, 2, task.state_dict(), state, {})
    expected = moved(task, optimiser)

    other = Tiny()
    reordered = optim.build(other, OPTIMISER)
    for key in ("params", "names"):
        reordered.param_groups[0][key].reverse()
    found = checkpoint.load(folder)
    other.load_state_dict(found.model)
    checkpoint.restore_optimiser(reordered, found.training)
    assert all(map(torch.equal, moved(other, reordered), expected))


def draws() -> list[float]:
    return [
        random.random(), random.gauss(0, 1),
        float(np.random.rand()), float(np.random.standard_normal()),  # noqa: NPY002
        float(torch.rand(())), float(torch.randn(())),
    ]  # fmt: skip


def test_random_generators_continue(tmp_path: Path) -> None:
    draws()  # gauss() and standard_normal() now hold back a number each
    folder = checkpoint.save(tmp_path, 1, {}, checkpoint.random_state(), {})
    expected = draws()
    draws()
    checkpoint.restore_random(checkpoint.load(folder).training)
    assert draws() == expected

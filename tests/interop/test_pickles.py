"""Nothing that a pickle asks for is ever executed; a file that is not whole is refused."""

import argparse
import io
import os
import pickle
import subprocess
import zipfile
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest
import torch

from d2v.cli import commands as cli
from d2v.interop import pickles
from d2v.interop.convert import convert
from d2v.interop.loading import load
from d2v.util.errors import UserError


class Call:
    """An object whose unpickling calls something."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Late:
    """Calls something when its state is set, by way of a class that is allowed."""

    def __init__(self, function, *arguments):
        self.state = Call(function, *arguments)

    def __reduce__(self):
        return argparse.Namespace, (), {"x": self.state}


ATTACKS = {
    "os.system": lambda mark: Call(os.system, f"touch {mark}"),
    "eval": lambda mark: Call(eval, f"open({str(mark)!r}, 'w')"),
    "exec": lambda mark: Call(exec, f"open({str(mark)!r}, 'w')"),
    "open": lambda mark: Call(open, str(mark), "w"),
    "getattr": lambda mark: Call(getattr, Path(mark), "touch"),
    "subprocess": lambda mark: Call(subprocess.Popen, ["touch", str(mark)]),
    "partial": lambda mark: Call(partial, os.system, f"touch {mark}"),
    "in a state": lambda mark: Late(os.system, f"touch {mark}"),
    "hub": lambda mark: Call(torch.hub.load, str(mark), "x"),
    "load": lambda mark: Call(torch.load, str(mark)),
}


def save(value, path, form):
    if form == "pickle":
        path.write_bytes(pickle.dumps(value))
    else:
        protocol = 4 if form == "protocol 4" else 2
        torch.save(
            value,
            path,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=form != "legacy",
        )


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("form", ["zip", "legacy", "protocol 4", "pickle"])
def test_what_wants_to_be_executed_is_refused_by_name(tmp_path, capsys, attack, form):
    mark, path = tmp_path / "executed", tmp_path / "evil.pt"
    tensors = {"model": {"encoder.sentence_encoder.x": torch.zeros(2)}}
    save({**tensors, "cfg": ATTACKS[attack](mark)}, path, form)
    with pytest.raises(UserError) as error:
        load(path)
    said = str(error.value)
    assert "\n" not in said
    assert "nothing was executed" in said
    wanted = {"os.system": "system", "in a state": "system", "hub": "torch.hub", "load": "load"}
    assert wanted.get(attack, attack) in said
    assert cli.main(["convert", str(path), "--to", "d2v", "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: refused")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pt"]


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, form, share):
    path = tmp_path / "cut.pt"
    save({"model": {"a": torch.randn(50, 50)}, "args": argparse.Namespace(a=1)}, path, form)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError) as error:
        convert(path, "d2v", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert "not a complete torch.save file" in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.pt"]


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match=r"not a complete torch\.save file"):
        load(path)
    path.write_text("not a checkpoint")
    with pytest.raises(UserError, match=r"not a complete torch\.save file"):
        load(path)
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"not a data2vec checkpoint \(it holds weights\)"):
        load(path)
    torch.save(torch.zeros(1), path)
    with pytest.raises(UserError, match="it holds a Tensor"):
        load(path)
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither checkpoint.json nor config.json"):
        load(tmp_path / "empty")


def test_configuration_is_plain_data(tmp_path):
    made = argparse.Namespace(lr=[0.1], path=Path("/x"), inner=argparse.Namespace(a=1), none=None)
    torch.save({"args": made, "model": {"a": torch.arange(3)}}, tmp_path / "a.pt")
    found = pickles.read(tmp_path / "a.pt")
    assert isinstance(found["args"], pickles.Inert)
    assert not isinstance(found["args"], argparse.Namespace)
    plain = pickles.plain(found["args"])
    assert plain["lr"] == [0.1]
    assert plain["inner"] == {"a": 1}
    assert plain["none"] is None
    assert torch.equal(found["model"]["a"], torch.arange(3))


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_default_dictionaries_are_read_with_their_content(tmp_path, form):
    """fairseq keeps its optimiser's history in them."""
    full = defaultdict(list, {"updates": [1, 2], 3: {"x": 0.5}})
    nested = defaultdict(dict, {"inner": defaultdict(int, {"a": 7})})
    state = {"args": {"full": full, "empty": defaultdict(int), "nested": nested}}
    save({**state, "model": {"a": torch.arange(3)}}, tmp_path / "a.pt", form)
    found = pickles.read(tmp_path / "a.pt")
    assert not isinstance(found["args"]["full"], defaultdict)
    assert torch.equal(found["model"]["a"], torch.arange(3))
    assert pickles.plain(found["args"]) == {
        "full": {"updates": [1, 2], "3": {"x": 0.5}},
        "empty": {},
        "nested": {"inner": {"a": 7}},
    }


def test_what_makes_a_default_is_not_called(tmp_path):
    mark, path = tmp_path / "executed", tmp_path / "evil.pt"
    made = defaultdict(partial(os.system, f"touch {mark}"), {"a": 1})
    torch.save({"model": {}, "cfg": made}, path)
    with pytest.raises(UserError, match=r"nothing was executed.*functools.partial"):
        pickles.read(path)
    assert not mark.exists()


def test_stand_ins_are_forgotten_afterwards(tmp_path):
    """What was allowed for one file is not allowed for PyTorch's own reader."""
    torch.save(argparse.Namespace(a=1), tmp_path / "a.pt")
    pickles.read(tmp_path / "a.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pt", weights_only=True)


def test_names_of_python_2_are_understood():
    stream = io.BytesIO(pickle.dumps(Call(eval, "1"), protocol=2))
    assert b"__builtin__" in stream.getvalue()
    assert list(pickles._pickle_names(stream)) == ["builtins.eval"]

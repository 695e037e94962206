"""push and pull against a stand-in of the hub: whole or nothing, and no pickles in either way."""

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import hub as stand_in
import pytest
import torch
from own_builds import folder, waves

import d2v
from d2v.cli import commands as cli
from d2v.util.errors import UserError

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("own") / "speech", "speech")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[stand_in.Hub]:
    """The stand-in, in place of the hub that HF_ENDPOINT names, with an empty cache."""
    with stand_in.serving() as found:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
        monkeypatch.chdir(tmp_path)
        yield found


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return dict(d2v.load(path).state_dict())


def test_what_was_pushed_is_pulled_bit_for_bit(
    hub: stand_in.Hub, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["push", str(own), "lab/speech"]) == 0
    assert hub.private == {"lab/speech": True}
    there = hub.files["lab/speech"]
    assert there.keys() == {"model.safetensors", "checkpoint.json", "README.md"}
    assert b"library_name: d2v" in there["README.md"]
    assert cli.main(["pull", "lab/speech", "-o", "here"]) == 0
    assert f"here: lab/speech at {stand_in.SHA}" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "here").iterdir()}
    assert names == there.keys()
    for name in names:
        assert (tmp_path / "here" / name).read_bytes() == there[name]
    first, second = tensors(own), tensors(tmp_path / "here")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert cli.main(["pull", "lab/speech", "-o", "here"]) == 2
    assert "here: already exists" in capsys.readouterr().err


def test_a_folder_of_hugging_face_keeps_its_card_and_loads_by_name(
    hub: stand_in.Hub, own: Path, tmp_path: Path
) -> None:
    exported = d2v.convert(own, "hf", tmp_path / "hf")
    assert d2v.push(exported, "lab/hf", private=False).endswith("/lab/hf")
    assert hub.private == {"lab/hf": False}
    card = (exported / "README.md").read_bytes()
    assert hub.files["lab/hf"]["README.md"] == card
    assert b"library_name: transformers" in card
    hub.files["lab/hf"] |= {"pytorch_model.bin": b"no", "more/config.json": b"no", "a.py": b"no"}
    model = d2v.load("lab/hf")
    assert not {"pytorch_model.bin", "more/config.json", "a.py"} & set(hub.fetched)
    recordings = waves(tmp_path)[:2]
    ours = list(d2v.load(exported).features(recordings, layers=-1))
    theirs = list(model.features(recordings, layers=-1))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.states, b.states)
    count = len(hub.fetched)
    d2v.load("lab/hf")  # from the cache
    assert len(hub.fetched) == count


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_pickles_are_neither_pulled_nor_run(hub: stand_in.Hub, tmp_path: Path) -> None:
    trap = pickle.dumps(Touch(tmp_path / "sprung"))
    hub.files["lab/old"] = {"pytorch_model.bin": trap, "config.json": b"{}"}
    for call in (d2v.pull, d2v.load):
        with pytest.raises(UserError, match=r"lab/old: no weights as safetensors.*config\.json"):
            call("lab/old")
    hub.files["lab/odd"] = {"model.safetensors": trap, "config.json": b'{"model_type": "bert"}'}
    with pytest.raises(UserError, match=r"^lab/odd"):
        d2v.pull("lab/odd")
    assert "pytorch_model.bin" not in hub.fetched
    assert not (tmp_path / "sprung").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


def test_half_a_download_leaves_nothing(hub: stand_in.Hub, own: Path, tmp_path: Path) -> None:
    d2v.push(own, "lab/speech")
    hub.torn = "model.safetensors"
    with pytest.raises(UserError, match=r"^lab/speech: "):
        d2v.pull("lab/speech")
    assert not [path for path in tmp_path.iterdir() if path.name != "cache"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pull", "lab/none"], "lab/none: not on the hub, or private; check the name"),
        (["pull", "none"], "none: not a name on the hub; give organisation/name"),
        (["pull", "lab/speech", "--revision", "v9"], "lab/speech: it has no such revision"),
        (["push", "nowhere", "lab/new"], "nowhere: not a folder; write one with `d2v convert`"),
    ],
)
def test_mistakes_are_one_sentence(
    hub: stand_in.Hub, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.files["lab/speech"] = {}
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error


def test_what_is_no_checkpoint_is_not_pushed(hub: stand_in.Hub, own: Path, tmp_path: Path) -> None:
    made = d2v.convert(own, "d2v", tmp_path / "made")
    (made / "optimiser.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"optimiser\.pt: not pushed, because only safetensors"):
        d2v.push(made, "lab/speech")
    assert hub.files == {}
    hub.refuses = True
    with pytest.raises(UserError, match="lab/speech: the hub refuses it: log in"):
        d2v.push(own, "lab/speech")


def test_without_the_extra_it_is_named(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (lambda: d2v.load("lab/none"), lambda: d2v.push(own, "lab/x")):
        with pytest.raises(UserError, match=r'pip install "d2v\[hf\]"'):
            call()


def test_a_path_that_is_missing_is_no_name(tmp_path: Path) -> None:
    for path in ("a/b/c", "./a/b", tmp_path / "a" / "b", Path("lab/none")):
        with pytest.raises(UserError, match="no such file or folder"):
            d2v.load(path)

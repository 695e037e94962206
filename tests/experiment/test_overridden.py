"""The file of an experiment with overrides: complete, unchanged by YAML, and d2v's own."""

from pathlib import Path

import pytest
from workspace import ROOT

from d2v import params
from d2v.experiment import overridden
from d2v.params import overrides
from d2v.params.reading import read_params
from d2v.util.errors import UserError

TINY = ROOT / "tests/params/tiny.yaml"
WORDS = ["pretrain.vision.optimiser.lr=1e-3", "title='1e-3 and: [more]'"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_file_gives_the_same_experiment() -> None:
    path = overridden.write(TINY, WORDS)
    ours = overrides.load_overridden(TINY, WORDS)
    assert path == Path("results") / ours.name / "params.yaml"
    assert params.load(path) == ours
    assert ours.title == "1e-3 and: [more]"
    before = path.stat().st_mtime_ns
    assert overridden.write(TINY, WORDS) == path
    assert path.stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted((ROOT / "params").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_file_of_the_project_survives(file: Path) -> None:
    if file.stem == "cluster":
        return
    path = overridden.write(file, ["title=x"])
    assert read_params(path) == overrides.values(file, ["title=x"])


def test_without_overrides_it_is_the_file() -> None:
    assert overridden.write(TINY, []) == TINY
    assert not Path("results").exists()


def test_the_users_file_is_left_alone() -> None:
    name = overrides.load_overridden(TINY, WORDS).name
    mine = Path("results") / name / "params.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        overridden.write(TINY, WORDS)
    assert mine.read_text() == "mine"


def test_a_wrong_override_writes_nothing() -> None:
    with pytest.raises(params.ParamsError):
        overridden.write(TINY, ["title=1"])
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, []),
        ("a.b=1", ["a.b=1"]),
        (["a=1", "b=2"], ["a=1", "b=2"]),
        ({"a.b": "1e-3", "c": None, "d": [1]}, ["a.b=1e-3", "c=null", "d=[1]"]),
    ],
)
def test_snakemakes_values_are_words(given: object, words: list[str]) -> None:
    assert overridden.words_of(given) == words


def test_other_values_are_refused() -> None:
    with pytest.raises(params.ParamsError, match="expected KEY=VALUE"):
        overridden.words_of(3)

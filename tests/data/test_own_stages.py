"""DVC stages of data sets of one's own: written from the template, and only for them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from d2v import params
from d2v.data.own_stages import write_stages
from d2v.util.errors import UserError

ROOT = Path(__file__).parents[2]
SETS = """
recordings:
  kind: audio_folder
  source: "my recordings"
  manifest: metadata.csv
  splits: {fractions: {train: 0.9, dev: 0.05, test: 0.05}}
  ngram: 3
photos: {kind: image_folder, source: p, splits: {folders: {train: a}}, classes: 2}
texts: {kind: text_folder, source: t, splits: {fractions: {train: 1.0}}, block: 9, vocab_size: 9}
reviews:
  {kind: labelled_text, source: r, file: a.csv, texts: [a], splits: {fractions: {train: 1.0}}}
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "workflow").mkdir()
    (tmp_path / "workflow/own").mkdir()
    (tmp_path / "workflow/own/template.yaml").write_bytes(
        (ROOT / "workflow/own/template.yaml").read_bytes()
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, **values: Any) -> Path:
    head = {"name": "mine", "title": "x", "scale": "own", "prepared": "prepared/mine"}
    runs: dict[str, Any] = {"pretrain": {}, "finetune": {}}
    given = {**({} if "base" in values else {**head, **runs}), **values}
    path.write_text(yaml.safe_dump(given, sort_keys=False))
    return Path(path.name)


def stages(path: Path) -> dict[str, Any]:
    made = write_stages(path, params.load(path))
    assert made == Path("workflow/own/mine/dvc.yaml")
    found: dict[str, Any] = yaml.safe_load(made.read_text())["stages"]
    return found


def test_every_set_has_a_stage_that_names_its_group(root: Path) -> None:
    found = stages(write(root / "my file.yaml", data=yaml.safe_load(SETS)))
    assert list(found) == ["recordings", "recordings_lm", "photos", "tokenizer", "texts", "reviews"]
    speech = found["recordings"]
    assert speech["cmd"] == (
        "d2v prepare audio-folder 'my file.yaml' recordings -o prepared/mine/recordings"
    )
    assert speech["params"] == [{"my file.yaml": ["data.recordings"]}]
    assert [next(iter(out)) for out in speech["outs"]] == ["prepared/mine/recordings"]
    assert "src/d2v/data/readers/own_audio.py" in speech["deps"]
    assert found["recordings_lm"]["deps"][0] == "prepared/mine/recordings"
    assert found["reviews"]["deps"][0] == "prepared/mine/tokenizer"
    assert found["tokenizer"]["params"] == [{"my file.yaml": ["data.texts"]}]


def test_a_stage_depends_on_base_files_too(root: Path) -> None:
    write(root / "base.yaml", data=yaml.safe_load(SETS))
    change = {"recordings": {"resample": True}, "photos": None}
    found = stages(write(root / "own.yaml", base="base.yaml", data=change))
    assert found["recordings"]["params"] == [
        {"own.yaml": ["data.recordings"]},
        {"base.yaml": ["data.recordings"]},
    ]
    assert found["texts"]["params"] == [{"base.yaml": ["data.texts"]}]
    assert "photos" not in found


def test_a_file_that_is_up_to_date_is_not_written_again(root: Path) -> None:
    path = write(root / "own.yaml", data=yaml.safe_load(SETS))
    made = root / str(write_stages(path, params.load(path)))
    before = made.stat().st_mtime_ns
    write_stages(path, params.load(path))
    assert made.stat().st_mtime_ns == before


def test_what_someone_wrote_by_hand_stays(root: Path) -> None:
    path = write(root / "own.yaml", data=yaml.safe_load(SETS))
    made = root / "workflow/own/mine/dvc.yaml"
    made.parent.mkdir()
    for text in ("stages: {}  # mine\n", "# Written by me\n", ""):
        made.write_text(text)
        with pytest.raises(UserError, match=r"mine/dvc\.yaml: not written by d2v.*move it away"):
            write_stages(path, params.load(path))
        assert made.read_text() == text
    made.write_text("# Written by d2v from an earlier template\nstages: {}\n")
    assert "recordings" in stages(path)


def test_nothing_is_written_for_other_experiments(root: Path) -> None:
    mini = ROOT / "params/mini.yaml"
    assert write_stages(mini, params.load(mini)) is None
    path = write(root / "own.yaml", data=yaml.safe_load(SETS), stages="elsewhere/dvc.yaml")
    assert write_stages(path, params.load(path)) is None


@pytest.mark.parametrize("text", ["", "stages: {}", "stages: [a]", "{", "[[", "stages: {lm: {}}"])
def test_a_damaged_template_is_one_sentence(root: Path, text: str) -> None:
    path = write(root / "own.yaml", data=yaml.safe_load(SETS))
    (root / "workflow/own/template.yaml").write_text(text)
    with pytest.raises(UserError, match=r"^workflow/own/template\.yaml: [^\n]*$"):
        write_stages(path, params.load(path))


@pytest.mark.parametrize("stage", [{}, {"cmd": 3}, {"cmd": None}])
def test_a_stage_of_the_template_without_a_command_is_named(root: Path, stage: Any) -> None:
    path = write(root / "own.yaml", data=yaml.safe_load(SETS))
    text = yaml.safe_dump({"stages": {"audio_folder": stage}})
    (root / "workflow/own/template.yaml").write_text(text)
    with pytest.raises(UserError, match="it has no stage audio_folder with a cmd"):
        write_stages(path, params.load(path))

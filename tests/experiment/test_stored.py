"""A metrics.json that is damaged, or that of another run, is no result anywhere."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from d2v import params
from d2v.cli import commands
from d2v.experiment import finished, grid_choice, purged, retention, runs, stored
from d2v.jobs import status
from d2v.params import Experiment
from d2v.util.errors import UserError

RUN, OTHER = "finetune/cola/scratch/seed0", "finetune/cola/scratch/seed1"
GOOD: dict[str, Any] = {
    "run": RUN,
    "kind": "finetune",
    "name": "cola",
    "seed": 0,
    "setting": {"lr": 1e-3, "steps": 4},
    "metrics": {"test": {"matthews": math.nan, "accuracy": 1}},
    "train_s": 0.5,
    "provenance": {"params_sha256": "0", "device": None, "wall_s": 1.0, "code_versions": []},
}
# metrics.json, each with a part of what is said about it
DAMAGED = [
    ('{"run": "finetune/co', "cannot be read"),
    ("", "cannot be read"),
    ("\xff", "cannot be read"),
    ("[" * 100_000, "cannot be read"),
    ("[]", "valid dictionary"),
    ("{}", "metrics: Field required"),
    ({"metrics": None}, "metrics: "),
    ({"metrics": {"test": []}}, "metrics.test: "),
    ({"metrics": {"test": {"accuracy": True}}}, "metrics.test.accuracy: "),
    ({"metrics": {"test": {"accuracy": "0.5"}}}, "metrics.test.accuracy: "),
    ({"train_s": "long"}, "train_s: "),
    ({"examples_per_s": {}}, "examples_per_s: "),
    ({"checkpoint": 5}, "checkpoint: "),
    ({"setting": "x"}, "setting: "),
    ({"setting": {"lr": "high", "steps": 4}}, "setting.lr: "),
    ({"provenance": []}, "provenance: "),
    ({"provenance": {"finished": 5}}, "provenance.finished: "),
    ({"provenance": {"code_versions": [5]}}, "provenance.code_versions.0: "),
    ({"run": OTHER}, f"is that of {OTHER}"),
    ({"run": None, "seed": 1}, "is that of seed 1"),
]


def text_of(given: str | dict[str, Any]) -> str:
    return given if isinstance(given, str) else json.dumps({**GOOD, **given})


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    found = params.load(Path("tests/params/tiny.yaml").resolve())
    monkeypatch.chdir(tmp_path)
    return found


def store(experiment: Experiment, run_id: str, text: str) -> Path:
    run = runs.parse(experiment, run_id)
    run.metrics_path.parent.mkdir(parents=True, exist_ok=True)
    run.metrics_path.write_text(text, encoding="latin-1")
    for split in ("dev", "test"):
        run.predictions(split).touch()
    return run.metrics_path


def test_a_sound_file_is_read(experiment: Experiment) -> None:
    path = store(experiment, RUN, json.dumps(GOOD))
    assert stored.intact(runs.parse(experiment, RUN)) == stored.read(path) != None  # noqa: E711
    assert stored.read(path.with_name("none.json"), RUN) is None
    assert purged.lost(experiment) == {}


@pytest.mark.parametrize(("content", "words"), DAMAGED)
def test_a_damaged_file_is_told_and_its_run_is_lost(
    experiment: Experiment, content: str | dict[str, Any], words: str
) -> None:
    path = store(experiment, RUN, text_of(content))
    run = runs.parse(experiment, RUN)
    with pytest.raises(stored.Damaged) as error:
        stored.read(path, RUN)
    assert words in str(error.value)
    assert str(error.value).startswith(f"{path} is damaged (")
    assert "\n" not in str(error.value)
    assert stored.intact(run) is None
    assert not finished.up_to_date(run)
    assert retention.find(experiment, lambda _: "none").spare == []

    lost = purged.lost(experiment)
    assert list(lost) == [RUN]
    assert purged.sentence(lost).startswith(
        "1 finished run has lost or damaged files that are still needed, and will run again:"
        f" {RUN} ({path} is damaged: "
    )
    states = {facts.run: facts.state for facts in status.all_facts(experiment)}
    assert (states[RUN], states[OTHER]) == ("damaged", "missing")


def test_metrics_without_provenance_are_damaged(experiment: Experiment) -> None:
    store(experiment, RUN, text_of({"provenance": None}))
    assert purged.lost(experiment)[RUN].fault == "no provenance"


@pytest.mark.parametrize("text", ["{}", '{"metrics": {}}', '{"metrics": {"dev": 5}}', "{"])
def test_no_setting_is_chosen_from_a_damaged_point(
    experiment: Experiment, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in runs.grid_runs(experiment, "digits"):
        store(experiment, run.id, '{"metrics": {"dev": {"accuracy": 0.5}}}')
    path = store(experiment, run.id, text)
    with pytest.raises(UserError, match=r"is damaged .*; `d2v reproduce` runs what is damaged"):
        grid_choice.choose(experiment, "digits")
    tiny = Path(__file__).parents[1] / "params/tiny.yaml"
    assert commands.main(["select", "digits", "--params", str(tiny)]) == 2
    assert f"{path} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "run"),
    [
        ("results/tiny/runs/finetune/cola/scratch/seed0", RUN),
        ("results/tiny/runs/finetune/cola/scratch/seed0/../seed1", OTHER),
        ("runs/results/tiny/runs/finetune/cola/scratch/seed0", RUN),
        ("runs/mine/seed0", None),
        ("mine/seed0", None),
    ],
)
def test_the_place_of_a_folder_names_its_run(folder: str, run: str | None) -> None:
    assert stored.place(Path(folder)) == run


def test_a_file_that_cannot_be_read_now_is_not_damaged(tmp_path: Path) -> None:
    """A stale handle of a network file system is no reason to repeat a week of training."""
    path = tmp_path / "metrics.json"
    path.mkdir()
    with pytest.raises(UserError, match="cannot be read at the moment") as error:
        stored.read(path)
    assert not isinstance(error.value, stored.Damaged)

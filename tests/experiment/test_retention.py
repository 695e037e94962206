"""What `d2v clean` may remove, and what it never touches."""

import json
from pathlib import Path

import pytest

from d2v import params
from d2v.cli import choice, clean
from d2v.experiment import purged, retention, runs
from d2v.experiment.run import Run
from d2v.params import Experiment
from d2v.training.layout import FILES, META, MODEL, OTHERS, REMOVED, TRAINING
from d2v.util import locks

SOURCE = "pretrain/text/seed0"
TASK = "finetune/cola/data2vec/seed0"


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """The tiny experiment, of which a pre-training and a fine-tuning have finished."""
    found = params.load(Path("tests/params/tiny.yaml").resolve())
    monkeypatch.chdir(tmp_path)
    for name, kept in ((SOURCE, 6), (TASK, 2)):
        run = runs.parse(found, name)
        for step in (2, 4, 6):
            checkpoint(run.work / f"checkpoints/step-{step}")
        finish(run, kept)
    return found


def checkpoint(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in (MODEL, TRAINING):
        (folder / name).write_bytes(b"0" * 1000)
    (folder / META).write_text(json.dumps({"schema_version": 2, "best": None}))


def finish(run: Run, kept: int) -> None:
    run.metrics_path.parent.mkdir(parents=True, exist_ok=True)
    content = {"checkpoint": str(run.work / f"checkpoints/step-{kept}"), "metrics": {}}
    content["provenance"] = {"params_sha256": run.fingerprint()}
    run.metrics_path.write_text(json.dumps(content))


def finish_all(experiment: Experiment) -> None:
    """Nothing has yet to start from the pre-training."""
    for other in runs.all_runs(experiment):
        if other.previous == runs.parse(experiment, SOURCE) and other.id != TASK:
            finish(other, 6)


def removed(experiment: Experiment, rule: retention.Rule) -> tuple[dict[str, set[str]], list[str]]:
    """Names that go, by folder, and the notes; then they are gone."""
    found = retention.find(experiment, lambda _: rule)
    names = {}
    for spare in found.spare:
        work = runs.parse(experiment, spare.run).work
        names[str(spare.folder.relative_to("work/tiny"))] = set(spare.names)
        assert retention.remove(spare, work) == spare.size
        assert not any((spare.folder / name).exists() for name in spare.names)
        assert spare.folder.exists() != spare.whole
    return names, found.notes


@pytest.mark.parametrize(
    ("rule", "source", "task"),
    [
        ("all", {}, {}),
        ("last", {2: set(FILES), 4: set(FILES)}, {2: {TRAINING}, 4: set(FILES)}),
        (
            "best",
            {2: set(FILES), 4: set(FILES), 6: {TRAINING}},
            {2: {TRAINING}, 4: set(FILES), 6: {MODEL, TRAINING}},
        ),
        (
            "none",
            {2: set(FILES), 4: set(FILES), 6: {MODEL, TRAINING}},
            {2: {MODEL, TRAINING}, 4: set(FILES), 6: {MODEL, TRAINING}},
        ),
    ],
)
def test_each_rule_leaves_what_it_says(
    experiment: Experiment,
    rule: retention.Rule,
    source: dict[int, set[str]],
    task: dict[int, set[str]],
) -> None:
    finish_all(experiment)
    names, notes = removed(experiment, rule)
    expected = {f"{SOURCE}/checkpoints/step-{step}": files for step, files in source.items()}
    expected |= {f"{TASK}/checkpoints/step-{step}": files for step, files in task.items()}
    assert (names, notes) == (expected, [])
    assert removed(experiment, rule) == ({}, [])  # again: nothing is left to do
    assert purged.lost(experiment) == {}


def test_weights_that_a_run_starts_from_stay(experiment: Experiment) -> None:
    names, notes = removed(experiment, "none")
    assert names[f"{SOURCE}/checkpoints/step-6"] == {TRAINING}
    assert notes == [f"{SOURCE}: finetune/cola/data2vec/seed1 starts from its weights; they stay"]
    meta = json.loads(Path("work/tiny", SOURCE, "checkpoints/step-6", META).read_text())
    assert meta[REMOVED] == [TRAINING]


@pytest.mark.parametrize("name", ["notes.txt", "link", "folder", "no meta"])
def test_what_the_project_did_not_write_stays(experiment: Experiment, name: str) -> None:
    folder = Path("work/tiny", SOURCE, "checkpoints/step-2")
    if name == "link":
        Path("elsewhere").write_text("mine")
        (folder / MODEL).unlink()
        (folder / MODEL).symlink_to(Path("elsewhere").resolve())
    elif name == "folder":
        (folder / "folder").mkdir()
    elif name == "no meta":
        (folder / META).unlink()
    else:
        (folder / name).write_text("mine")
    before = sorted(folder.iterdir())
    names, notes = removed(experiment, "none")
    assert f"{SOURCE}/checkpoints/step-2" not in names
    assert any(f"{folder}: contains" in note and "it stays" in note for note in notes)
    assert sorted(folder.iterdir()) == before


def test_links_running_and_changed_runs_are_left_alone(experiment: Experiment) -> None:
    source, task = (runs.parse(experiment, name) for name in (SOURCE, TASK))
    (source.work / "checkpoints").rename("elsewhere")
    (source.work / "checkpoints").symlink_to(Path("elsewhere").resolve())
    with locks.held(task.work / "lock"):
        names, notes = removed(experiment, "none")
    assert names == {}
    assert notes == [
        f"{source.work}/checkpoints: is a symbolic link; its content stays",
        f"{TASK}: is running; its checkpoints stay",
    ]
    metrics = json.loads(task.metrics_path.read_text())
    metrics["provenance"]["params_sha256"] = "other"
    task.metrics_path.write_text(json.dumps(metrics))
    assert removed(experiment, "none")[1][-1] == (
        f"{TASK}: its parameters have changed; its checkpoints stay"
    )


def test_a_run_that_starts_after_the_listing_keeps_its_files(experiment: Experiment) -> None:
    [spare, *_] = retention.find(experiment, lambda _: "best").spare
    work = runs.parse(experiment, spare.run).work
    with locks.held(work / "lock"):
        assert retention.remove(spare, work) == 0
    assert all((spare.folder / name).exists() for name in spare.names)


def test_what_was_set_aside_goes_too(experiment: Experiment) -> None:
    work = runs.parse(experiment, SOURCE).work
    for folder in (work / OTHERS / "step-2", work / "checkpoints/step-2.damaged"):
        checkpoint(folder)
    (work / "checkpoints/step-2.damaged" / META).unlink()
    names, _ = removed(experiment, "last")
    assert names[f"{SOURCE}/{OTHERS}/step-2"] == set(FILES)
    assert names[f"{SOURCE}/checkpoints/step-2.damaged"] == {MODEL, TRAINING}
    assert not (work / OTHERS).exists()


def test_what_a_killed_save_left_goes_whole(experiment: Experiment) -> None:
    root = runs.parse(experiment, SOURCE).work / "checkpoints"
    for name in ("step-8.part", "step-9-mine.part"):
        (root / name).mkdir()
        (root / name / MODEL).touch()
    (root / "step-8.part/.model.safetensors.mode.77").touch()
    names, _ = removed(experiment, "last")
    assert names[f"{SOURCE}/checkpoints/step-8.part"] == {MODEL}
    assert (root / "step-9-mine.part").exists()


def test_the_command_removes_nothing_without_yes(
    experiment: Experiment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice.Chosen, "load", lambda _: experiment)
    Path("params").mkdir()
    Path("params/cluster.yaml").write_text(
        "disk: {checkpoints: all, overrides: {finetune/*: last}}"
    )
    before = sorted(Path("work").rglob("*"))
    clean.main([])
    said = capsys.readouterr().out
    assert f"    0.0 MB  {Path('work/tiny', TASK)}/checkpoints/step-4: {', '.join(FILES)}" in said
    assert SOURCE not in said
    assert said.endswith("can be removed: run the command again with --yes\n")
    assert sorted(Path("work").rglob("*")) == before
    clean.main(["--yes"])
    assert len(list(Path("work").rglob(MODEL))) == 5
    clean.main(["--checkpoints", "none", "--yes"])
    assert len(list(Path("work").rglob(MODEL))) == 1  # has yet to be started from

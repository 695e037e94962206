"""Which runs an experiment has, and what defines each."""

import json
import shutil
from pathlib import Path

import pytest
from workspace import ROOT

from d2v import params
from d2v.experiment import folders, grid_choice, runs
from d2v.experiment.run import PretrainRun
from d2v.experiment.task_runs import FinetuneRun
from d2v.params import Setting
from d2v.util.errors import UserError

TINY = ROOT / "tests/params/tiny.yaml"


@pytest.fixture(scope="module")
def tiny() -> params.Experiment:
    return params.load(TINY)


def edited(tmp_path: Path, old: str, new: str, count: int = 1) -> params.Experiment:
    text = TINY.read_text()
    assert old in text
    (tmp_path / "edited.yaml").write_text(text.replace(old, new, count))
    return params.load(tmp_path / "edited.yaml")


def changed(before: params.Experiment, after: params.Experiment) -> set[str]:
    then, now = runs.by_id(before), runs.by_id(after)
    return {id for id in then if then[id].defining() != now[id].defining()}


def test_all_runs_are_unique_and_found_by_their_id(tiny: params.Experiment) -> None:
    found = runs.all_runs(tiny)
    assert len({run.id for run in found}) == len(found) == 4 + 4 + 12
    assert [runs.parse(tiny, run.id) for run in found] == found
    assert "select/digits/data2vec/lr0.001-steps6/seed10" in {run.id for run in found}


def test_an_unknown_run_names_the_nearest(tiny: params.Experiment) -> None:
    with pytest.raises(UserError, match=r"did you mean finetune/cola/scratch/seed1\?"):
        runs.parse(tiny, "finetune/cola/scratched/seed1")


def test_pretraining_seeds_take_turns(tiny: params.Experiment) -> None:
    starts = {run.id: run.source for run in runs.finetune_runs(tiny) if run.seed == 1}
    assert starts["finetune/digits/data2vec/seed1"] == PretrainRun(tiny, "vision", 1)
    assert starts["finetune/cola/data2vec/seed1"] == PretrainRun(tiny, "text", 0)
    assert starts["finetune/digits/scratch/seed1"] is None


def test_an_edited_rate_concerns_its_run_only(tiny: params.Experiment, tmp_path: Path) -> None:
    old = "data2vec: {lr: 1e-3, steps: 4}"
    found = changed(tiny, edited(tmp_path, old, "data2vec: {lr: 2e-3, steps: 4}"))
    assert found == {  # the two tasks that share these settings
        f"finetune/{task}/data2vec/seed{seed}"
        for task in ("spoken-digits", "cola")
        for seed in (0, 1)
    }


def test_what_shows_or_carries_out_a_run_changes_nothing(
    tiny: params.Experiment, tmp_path: Path
) -> None:
    for old, new in (
        ("column: CoLA", "column: other"),
        ("seeds: [0, 1]\n    grid", "seeds: [0, 1, 2]\n    grid"),
        ("log_every: 2", "log_every: 1, workers: 1"),
        ("checkpoint_every: 2", "checkpoint_every: 3"),
    ):
        assert changed(tiny, edited(tmp_path, old, new)) == set(), new


def test_model_of_a_pretraining_concerns_its_finetunings(
    tiny: params.Experiment, tmp_path: Path
) -> None:
    found = changed(tiny, edited(tmp_path, "patch_size: 6", "patch_size: 4"))
    assert {run.split("/")[1] for run in found} == {"vision", "digits"}


def test_own_dropout_takes_the_place_of_the_backbones(tiny: params.Experiment) -> None:
    run = FinetuneRun(tiny, "cola", 0, "data2vec")
    assert run.model.backbone.dropout == 0.1
    assert tiny.pretrain["text"].backbone.dropout == 0.0
    assert run.defining()["backbone"]["dropout"] == 0.1


def test_points_of_the_grid_never_see_the_reported_split(tiny: params.Experiment) -> None:
    point = runs.parse(tiny, "select/digits/scratch/lr0.001-steps2/seed10").defining()
    assert "test_split" not in point
    assert point["setting"] == {"lr": 1e-3, "steps": 2, "freeze": False}


def test_sets_that_a_run_reads(tiny: params.Experiment) -> None:
    assert FinetuneRun(tiny, "spoken-digits", 0, "scratch").datasets == ["spoken_digits", "lm"]
    assert list(runs.all_datasets(tiny)) == ["digits", "spoken_digits", "corpus", "lm", "cola"]


# --- choosing on the grid -----------------------------------------------------------------------


def point(lr: float, steps: int, score: float) -> grid_choice.Point:
    return grid_choice.Point(Setting(lr=lr, steps=steps), {"accuracy": score}, score)


def test_the_best_mean_wins_and_ties_go_to_the_cheaper() -> None:
    points = [point(1e-3, 900, 0.8), point(4e-3, 300, 0.8), point(2e-3, 300, 0.8)]
    assert grid_choice.best(points, "accuracy").setting == Setting(lr=2e-3, steps=300)
    assert grid_choice.best([*points, point(9.0, 9000, 0.81)], "accuracy").setting.lr == 9.0


def test_error_rates_are_better_when_lower() -> None:
    assert grid_choice.best([point(1.0, 1, 0.5), point(1.0, 9, 0.4)], "wer").setting.steps == 9


def test_a_point_that_failed_is_never_chosen() -> None:
    nan = float("nan")
    assert grid_choice.best([point(1.0, 1, nan), point(1.0, 9, 0.1)], "matthews").setting.steps == 9


def test_choice_is_the_mean_over_the_grids_seeds_for_each_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = edited(tmp_path, "seeds: [10]", "seeds: [10, 11]")
    accuracy = {("scratch", 2): (0.1, 0.9), ("scratch", 6): (0.6, 0.6)}
    for run in runs.grid_runs(experiment, "digits"):
        steps = run.setting().steps
        value = accuracy.get((str(run.arm), steps), (0.7, 0.7))[run.seed - 10]
        path = run.metrics_path
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"metrics": {"dev": {"accuracy": value}}}))
    target = FinetuneRun(experiment, "digits", 0, "scratch")
    with pytest.raises(UserError, match=r"chosen\.json is missing"):
        target.setting()

    grid_choice.choose(experiment, "digits")
    chosen = json.loads(folders.chosen_path(experiment, "digits").read_text())
    assert chosen["scratch"]["steps"] == 6
    assert chosen["data2vec"]["steps"] == 2  # equal: the cheaper
    assert chosen["scratch"]["dev"] == {"accuracy": 0.6}
    assert len(chosen["scratch"]["tried"]) == 2
    assert target.setting() == Setting(lr=1e-3, steps=6)

    gone = runs.grid_runs(experiment, "digits")[-1]
    shutil.rmtree(gone.results)
    with pytest.raises(UserError, match="is missing"):
        grid_choice.choose(experiment, "digits")


def test_one_rate_for_all_tasks_of_a_row(tiny, tmp_path, monkeypatch):
    """The best mean over tasks, although each task alone prefers another rate."""
    monkeypatch.chdir(tmp_path)
    grid = params.Grid(lr=[1e-5, 2e-5, 3e-5], steps=[10], seeds=[100], best_over="table")
    task = tiny.finetune["digits"].model_copy(
        update={"grid": grid, "settings": None, "arms": ["data2vec"], "table": "glue"}
    )
    other = task.model_copy(update={"grid": grid.model_copy(update={"steps": [20]})})
    apart = task.model_copy(update={"row": "another row"})
    tasks = {"a": task, "b": other, "c": apart}
    both = tiny.model_copy(update={"finetune": tasks})
    scores = {"a": [0.9, 0.8, 0.1], "b": [0.1, 0.8, 0.9], "c": [0.0, 0.0, 0.9]}
    for name in tasks:
        for run, score in zip(runs.grid_runs(both, name), scores[name], strict=True):
            path = run.metrics_path
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"metrics": {"dev": {"accuracy": score}}}))
    for name in tasks:
        grid_choice.choose(both, name)
    chosen = {n: json.loads(folders.chosen_path(both, n).read_text())["data2vec"] for n in tasks}
    assert [(c["lr"], c["steps"]) for c in chosen.values()] == [(2e-5, 10), (2e-5, 20), (3e-5, 10)]

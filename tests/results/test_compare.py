"""`d2v compare`: which run is better is said only where the examples decide it."""

import json
import math
import shutil
from pathlib import Path

import pytest
from scipy import stats

from d2v.cli import commands
from d2v.results import compare
from d2v.util.errors import UserError

SCORES = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 2.5, 1.5]
GOOD = [0.1, 1.2, 2.1, 2.9, 4.2, 4.8, 2.4, 1.4]


def write_run(folder: Path, metric: str, references: list, predictions: list) -> Path:
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"metrics": {"test": {metric: 0.0}}}))
    rows = zip(references, predictions, strict=True)
    text = "".join(f"test-{i}\t{r}\t{p}\n" for i, (r, p) in enumerate(rows))
    (folder / "predictions-test.tsv").write_text("id\treference\tprediction\n" + text)
    return folder


def said(a: Path, b: Path, **how: str) -> str:
    return "\n".join(compare.lines(a, b, **how))


def test_a_collapsed_run_never_wins(tmp_path: Path) -> None:
    """The correlation of constant predictions is undefined: no winner and no p."""
    collapsed = write_run(tmp_path / "collapsed", "pearson", SCORES, [2.5] * 8)
    good = write_run(tmp_path / "good", "pearson", SCORES, GOOD)
    for pair, sign in (((collapsed, good), "A"), ((good, collapsed), "B")):
        text = said(*pair)
        assert f"is undefined for {sign} " in text
        assert "better" not in text
        assert "p =" not in text
        assert "nan" not in text
    assert "is undefined for A and B" in said(collapsed, collapsed)


def test_a_word_error_rate_without_words_is_undefined(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", "wer", ["", ""], ["ONE", ""])
    b = write_run(tmp_path / "b", "wer", ["", ""], ["", ""])
    text = said(a, b)
    assert "is undefined for A and B" in text
    assert "better" not in text


def test_equal_runs_have_no_winner(tmp_path: Path) -> None:
    good = write_run(tmp_path / "good", "pearson", SCORES, GOOD)
    assert "no winner (the interval includes zero)" in said(good, good)


def test_a_clear_difference_has_a_winner(tmp_path: Path) -> None:
    references = [0, 1] * 100
    wrong = [r if i % 4 else 2 for i, r in enumerate(references)]
    a = write_run(tmp_path / "a", "accuracy", references, wrong)
    b = write_run(tmp_path / "b", "accuracy", references, references)
    assert "B is better" in said(a, b)
    assert "A is better" in said(b, a)


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "words"),
    [
        (-0.024, 0.031, True, "no winner (the interval includes zero)"),
        (0.0, 0.031, True, "no winner (the interval includes zero)"),
        (0.001, 0.031, True, "B is better"),
        (0.001, 0.031, False, "A is better"),
        (-0.02, -0.01, False, "B is better"),
        (math.nan, math.nan, True, "no winner (the interval is undefined)"),
    ],
)
def test_the_interval_decides(low: float, high: float, higher_is_better: bool, words: str) -> None:
    assert compare.verdict(low, high, higher_is_better) == words


def arm_of(folder: Path, values: list[float], starts: list[str | None]) -> Path:
    for seed, (value, start) in enumerate(zip(values, starts, strict=True)):
        run = folder / f"seed{seed}"
        run.mkdir(parents=True)
        content = {"metrics": {"test": {"accuracy": value}}, "pretrain_run": start}
        (run / "metrics.json").write_text(json.dumps(content))
    return folder


def test_arms_are_compared_over_their_seeds(tmp_path: Path) -> None:
    a = arm_of(tmp_path / "scratch", [0.60, 0.62, 0.61], [None] * 3)
    b = arm_of(tmp_path / "data2vec", [0.70, 0.71, 0.73], ["pretrain/x/seed0"] * 3)
    told = "\n".join(compare.arms(a, b))
    p = stats.ttest_ind([0.70, 0.71, 0.73], [0.60, 0.62, 0.61], equal_var=False).pvalue
    assert f"p = {p:.2g} (Welch's t" in told
    assert "B is better" in told
    assert "all seeds of B start from one pre-training" in told


def test_a_pre_training_of_an_arm_counts_once(tmp_path: Path) -> None:
    a = arm_of(tmp_path / "scratch", [0.60, 0.62, 0.61], [None] * 3)
    starts = [f"pretrain/x/seed{k}" for k in (0, 1, 0, 1)]
    b = arm_of(tmp_path / "data2vec", [0.70, 0.61, 0.72, 0.63], starts)
    told = "\n".join(compare.arms(a, b))
    p = stats.ttest_ind([0.71, 0.62], [0.60, 0.62, 0.61], equal_var=False).pvalue
    assert f"p = {p:.2g} (Welch's t" in told
    assert "one pre-training" not in told


def test_an_arm_with_an_undefined_seed_is_not_compared(tmp_path: Path) -> None:
    a = arm_of(tmp_path / "scratch", [0.60, math.nan], [None] * 2)
    with pytest.raises(UserError, match=r"scratch/seed1.*accuracy of split test is undefined"):
        list(compare.arms(a, a))


def test_a_metric_that_does_not_fit_is_named(tmp_path: Path) -> None:
    good = write_run(tmp_path / "good", "pearson", SCORES, GOOD)
    with pytest.raises(UserError, match="metric accuracy does not fit this run"):
        said(good, good, name="accuracy")


def of_task(folder: Path, name: str, examples: int) -> Path:
    """An arm of a task, with predictions of so many examples."""
    arm = arm_of(folder, [0.5, 0.6], [None] * 2)
    rows = "".join(f"{name}-{i}\t1\t1\n" for i in range(examples))
    for run in arm.iterdir():
        content = json.loads((run / "metrics.json").read_text())
        content |= {"name": name, "seed": int(run.name.removeprefix("seed"))}
        content |= {"run": f"finetune/{name}/{arm.name}/{run.name}"}
        (run / "metrics.json").write_text(json.dumps(content))
        (run / "predictions-test.tsv").write_text("id\treference\tprediction\n" + rows)
    return arm


def test_arms_of_two_tasks_are_refused(tmp_path: Path) -> None:
    a, b = of_task(tmp_path / "a/scratch", "cola", 4), of_task(tmp_path / "b/data2vec", "digits", 4)
    with pytest.raises(UserError, match=r"were evaluated on other examples .*cannot be compared"):
        compare.compare_arms(a, b)
    (b / "seed0/predictions-test.tsv").unlink()
    with pytest.raises(UserError, match=r"are of different tasks \(cola and digits\)"):
        compare.compare_arms(a, b)


@pytest.mark.parametrize("copy", ["seed1 (copy)", "seed1.bak", "seed01", "seed1~"])
def test_a_copy_is_no_further_seed(tmp_path: Path, copy: str) -> None:
    arm = of_task(tmp_path / "scratch", "cola", 4)
    compare.compare_arms(arm, arm)
    shutil.copytree(arm / "seed1", arm / copy)
    with pytest.raises(UserError, match=r"not the name of a run's folder .*move it out") as error:
        compare.compare_arms(arm, arm)
    assert copy in str(error.value)


def test_a_seed_under_the_name_of_another_is_refused(tmp_path: Path) -> None:
    arm = of_task(tmp_path / "scratch", "cola", 4)
    shutil.copytree(arm / "seed1", arm / "seed0", dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"seed1: is of the same seed as .*seed0"):
        compare.compare_arms(arm, arm)


def test_a_folder_with_the_metrics_of_another_run_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "results/tiny/runs/finetune/cola/scratch"
    arm = of_task(place, "cola", 4)
    compare.compare_arms(arm, arm)
    compare.compare_runs(arm / "seed0", arm / "seed1")
    shutil.copytree(arm / "seed1", arm / "seed0", dirs_exist_ok=True)
    with pytest.raises(UserError, match="is that of finetune/cola/scratch/seed1"):
        compare.compare_runs(arm / "seed0", arm / "seed1")
    shutil.copytree(arm / "seed1", tmp_path / "copied")  # elsewhere, copies may have any name
    compare.compare_runs(tmp_path / "copied", arm / "seed1")


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        '{"metrics": {"test": 5}}',
        '{"metrics": {"test": {"pearson": true}}}',
        '{"metrics": {"test": {}}, "provenance": 5}',
        '{"metrics": {"test": {}}, "pretrain_run": []}',
    ],
)
def test_damaged_metrics_are_one_sentence(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write_run(tmp_path / "seed0", "pearson", SCORES, GOOD)
    (a / "metrics.json").write_text(content)
    for folder in (a, tmp_path):
        assert commands.main(["compare", str(folder), str(folder)]) == 2
        assert f"{a}/metrics.json is damaged (" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["test-0\t0.0\t0.1", "test-3\t9\t9"])
def test_a_repeated_prediction_is_refused(tmp_path: Path, line: str) -> None:
    a = write_run(tmp_path / "a", "pearson", SCORES, GOOD)
    b = write_run(tmp_path / "b", "pearson", SCORES, GOOD)
    with (b / "predictions-test.tsv").open("a") as file:
        file.write(line + "\n")
    id_, number = line.split("\t")[0], int(line[5]) + 2
    said_ = f"predictions-test.tsv:10: example {id_} is already in line {number}"
    for pair in ((a, b), (b, a), (b, b)):
        with pytest.raises(UserError, match=said_):
            said(*pair)

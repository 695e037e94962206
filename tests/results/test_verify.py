"""Numbers recomputed from predictions, intervals over examples, and two runs compared."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from d2v import params
from d2v.cli import commands as cli
from d2v.evaluation.predictions import Prediction, score, write_predictions
from d2v.experiment import runs
from d2v.results import collect, compare, layout, rows, statistics, tables, verify
from d2v.util.errors import UserError

ROOT = Path(__file__).parents[2]
REPORTED = ROOT / "params" / "reported.csv"


def classes(count: int, accuracy: float, seed: int) -> list[Prediction]:
    random = np.random.default_rng(seed)
    truth = np.random.default_rng(0).integers(2, size=count)
    wrong = random.random(count) > accuracy
    return [
        Prediction(f"e{i}", int(t), int(t ^ w))
        for i, (t, w) in enumerate(zip(truth, wrong, strict=True))
    ]


def spoken(count: int, seed: int, errors: float) -> list[Prediction]:
    random, words = np.random.default_rng(seed), ["ONE", "TWO", "SIX"]
    rows = []
    for i in range(count):
        said = list(np.random.default_rng(i).choice(words, 4))
        heard = [w if random.random() > errors else "NIL" for w in said]
        rows.append(Prediction(f"u{i}", " ".join(said), " ".join(heard), " ".join(heard)))
    return rows


@pytest.fixture(scope="module")
def experiment() -> params.Experiment:
    mini = params.load(ROOT / "params" / "mini.yaml")
    one = {k: v.model_copy(update={"seeds": v.seeds[:1]}) for k, v in mini.finetune.items()}
    return mini.model_copy(update={"finetune": one})


@pytest.fixture(scope="module")
def built(experiment: params.Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with predictions, and their tables."""
    results = tmp_path_factory.mktemp("verified") / "mini"
    for number, run in enumerate(runs.finetune_runs(experiment)):
        task = experiment.finetune[run.name]
        rows = spoken(40, number, 0.2) if task.task.kind == "ctc" else classes(200, 0.8, number)
        folder = results / "runs" / run.id
        write_predictions(folder / "predictions-test.tsv", rows)
        found = score(folder / "predictions-test.tsv", task.metrics)
        content = {"metrics": {"test": found}, "setting": {"lr": 1e-3, "steps": 5}, "arm": run.arm}
        (folder / "metrics.json").write_text(json.dumps(content))
    tables.build(experiment, results, REPORTED)
    return results


@pytest.fixture
def results(built: Path, tmp_path: Path) -> Path:
    """A copy of these that a test may change."""
    return shutil.copytree(built, tmp_path / "mini")


def test_what_is_stored_is_what_the_predictions_give(
    experiment: params.Experiment, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    report = verify.verify(experiment, results)
    assert not report.faults
    assert report.runs == len(runs.finetune_runs(experiment))
    assert report.numbers == sum(len(t.metrics) * len(t.arms) for t in experiment.finetune.values())
    assert report.cells > 100


def test_every_number_that_was_touched_is_named(
    experiment: params.Experiment, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    touched, lost, torn, flipped = (
        results / "runs" / run.id for run in runs.finetune_runs(experiment)[:4]
    )
    content = json.loads((touched / "metrics.json").read_text())
    name = next(iter(content["metrics"]["test"]))
    content["metrics"]["test"][name] += 0.001
    (touched / "metrics.json").write_text(json.dumps(content))
    (lost / "predictions-test.tsv").unlink()
    (torn / "metrics.json").write_text("{")
    lines = (flipped / "predictions-test.tsv").read_text().split("\n")
    (flipped / "predictions-test.tsv").write_text("\n".join([lines[0], *lines[2:]]))
    cells = results / "tables" / "imagenet.csv"
    cells.write_text(cells.read_text().replace("84.2", "94.2"))
    faults = verify.verify(experiment, results).faults
    assert any(f"{touched}/metrics.json: test {name} is" in fault for fault in faults)
    assert any(f"{lost}/predictions-test.tsv: cannot read" in fault for fault in faults)
    assert any(f"{torn}/metrics.json: cannot be read" in fault for fault in faults)
    assert any(f"{flipped}/metrics.json: test" in fault for fault in faults)
    assert any("value is 94.2, the runs give 84.2" in fault for fault in faults)


def test_copies_and_metrics_of_another_run_are_named(
    experiment: params.Experiment, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    arm = results / "runs/finetune/digits/scratch"
    path = arm / "seed0/metrics.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"run": "finetune/digits/scratch/seed0", "seed": 0}))
    assert not verify.verify(experiment, results).faults
    shutil.copytree(arm / "seed0", arm / "seed0 (copy)")
    shutil.copytree(arm / "seed0", arm.with_name("data2vec") / "seed0", dirs_exist_ok=True)
    faults = verify.verify(experiment, results).faults
    for place in (arm / "seed0 (copy)", arm.with_name("data2vec") / "seed0"):
        said = f"{place}/metrics.json: is that of finetune/digits/scratch/seed0; remove a copy"
        assert any(fault.startswith(said) for fault in faults)
    assert any("/ data2vec" in f or "data2vec (this run)" in f for f in faults)  # its cell, too


def test_what_is_no_number_is_no_metric(
    experiment: params.Experiment, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    path = results / "runs/finetune/digits/scratch/seed0/metrics.json"
    content = json.loads(path.read_text())
    content["metrics"]["test"]["accuracy"] = True
    path.write_text(json.dumps(content))
    faults = verify.verify(experiment, results).faults
    assert any(fault.startswith(f"{path}: metrics.test.accuracy: ") for fault in faults)


def test_the_command_says_what_it_checked(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    path = next((results / "runs").rglob("metrics.json"))
    path.write_text("{")
    assert cli.main(["verify", str(results)]) == 2
    said = capsys.readouterr()
    assert f"{path}: cannot be read" in said.out
    assert "errors (above)" in said.err
    assert cli.main(["verify", str(results / "runs" / "none"), "--params", "params/mini.yaml"]) == 2
    assert "nothing to verify" in capsys.readouterr().err


def test_a_cell_of_one_run_has_an_interval_over_examples(
    experiment: params.Experiment, results: Path
) -> None:
    images = next(t for t in collect.collect(experiment, results, REPORTED) if t.name == "imagenet")
    grid = rows.measured(images, rows.scores(images))
    assert "[" in grid.rows[0].entries[0].text
    assert "(n=1)" in grid.rows[0].entries[0].text
    assert "95 % interval over the examples" in layout.document(images).sections[0].paragraphs[0]


def test_the_interval_covers_as_it_says() -> None:
    hits = 0
    for seed in range(60):
        low, high = statistics.interval(classes(300, 0.8, seed + 1), "accuracy")
        hits += low <= 0.8 <= high
        assert 0.06 < high - low < 0.12  # 2 x 1.96 x sqrt(.8 x .2 / 300) = .09
    assert hits >= 51  # 57 are expected
    assert statistics.interval(classes(300, 0.8, 1), "accuracy") == statistics.interval(
        classes(300, 0.8, 1), "accuracy"
    )


def test_error_rates_are_sums_over_sums() -> None:
    rows = [
        Prediction("a", "ONE TWO SIX", "ONE SIX SIX SIX", "ONE"),
        Prediction("b", "TWO", "", "TWO"),
        Prediction("c", "SIX SIX", "SIX SIX", "SIX SIX"),
    ]
    parts = statistics.fractions(rows, "wer")
    assert parts is not None
    errors, words = parts
    assert errors.tolist() == [2, 1, 0]
    assert words.tolist() == [3, 1, 2]
    greedy = statistics.fractions(rows, "greedy_wer")
    assert greedy is not None
    assert greedy[0].tolist() == [2, 0, 0]
    letters = statistics.fractions(rows, "cer")
    assert letters is not None
    assert letters[1].tolist() == [11, 3, 7]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accuracy", "f1", "matthews"])
def test_equal_runs_are_not_told_apart_and_unequal_ones_are(name: str) -> None:
    same = statistics.compare(classes(200, 0.8, 1), classes(200, 0.8, 2), name)
    assert same.low < 0 < same.high
    assert same.p > 0.05
    better = statistics.compare(classes(200, 0.6, 1), classes(200, 0.9, 2), name)
    assert 0 < better.low < better.difference < better.high
    assert better.p < 0.01


def test_mcnemar_is_that_of_the_discordant_examples() -> None:
    a = [Prediction(str(i), 1, int(i < 5)) for i in range(20)]
    b = [Prediction(str(i), 1, int(i >= 3)) for i in range(20)]
    found = statistics.compare(a, b, "accuracy")
    assert "15 examples only B has right, 3 only A" in found.test
    assert found.p == pytest.approx(0.00754, abs=1e-4)  # 2 x sum of Binomial(18, .5) up to 3


def test_two_runs_are_compared_on_the_same_examples(results: Path) -> None:
    a, b = (results / "runs/finetune/digits" / arm / "seed0" for arm in ("scratch", "data2vec"))
    said = [*compare.lines(a, b)]
    assert said[0].startswith(f"A  {a}: accuracy ")
    assert "B − A: " in said[2]
    assert "200 examples of split test" in said[3]
    assert "  arm: scratch -> data2vec" in said
    spoken_runs = results / "runs/finetune/spoken-digits"
    said = [*compare.lines(spoken_runs / "scratch/seed0", spoken_runs / "data2vec/seed0")]
    assert "random exchanges" in said[2]


def test_what_cannot_be_compared_is_refused(results: Path, tmp_path: Path) -> None:
    a, b = (results / "runs/finetune/digits" / arm / "seed0" for arm in ("scratch", "data2vec"))

    def refused(match: str, **options: Any) -> None:
        with pytest.raises(UserError, match=match):
            list(compare.lines(a, b, **options))

    refused("no metrics of split dev", split="dev")
    refused("no metric nonsense", name="nonsense")
    refused("no column greedy", name="greedy_wer")
    write_predictions(b / "predictions-test.tsv", classes(199, 0.8, 1))
    refused(r"other examples \(200 and 199; only one of them has e199\)")
    other = [Prediction(row.id, 1 - row.reference, 1) for row in classes(200, 0.8, 1)]
    write_predictions(b / "predictions-test.tsv", other)
    refused("example e0 has another reference")
    with pytest.raises(UserError, match="no finished run"):
        list(compare.lines(tmp_path, b))

"""The paper's recipes, small, from official layouts through the workflow to the tables' cells.

Fine-tunings on images and on clips run for 200 steps, most others for 12: what is tested is that
every recipe goes all the way. Numbers of the tables are
computed again here, from the stored predictions.

Most runs are carried out in this process, as their jobs would (a job takes longer to start than to
train); the workflow plans all of them, and does at least one of every rule itself, from what it
finds.
"""

import contextlib
import io
import json
import shutil
import warnings
from collections import Counter
from pathlib import Path

import jiwer
import numpy as np
import official_sets
import pandas as pd
import pytest
import workspace
from scipy import stats
from sklearn import metrics as sklearn

from d2v import params
from d2v.cli import prepare
from d2v.experiment import folders, runs

pytestmark = pytest.mark.slow
NAME = "small-paper"
PAIRS = (("accuracy", "f1"), ("pearson", "spearman"))


# left to the workflow: runs whose names begin so
BY_WORKFLOW = (
    "pretrain/text-spans",
    "select/cola-spans",
    "finetune/cola-spans/data2vec/seed1",
    "decode/librispeech-large-1h",
)
RULES = {"pretrain": "pretrain", "select": "grid_point", "finetune": "finetune", "decode": "decode"}


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A folder in which everything was prepared and run."""
    folder = tmp_path_factory.mktemp("paper")
    for name in workspace.PARTS:
        source = workspace.ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    shutil.copy(workspace.ROOT / "tests" / "params" / f"{NAME}.yaml", folder / "params")
    out = folder / "prepared" / NAME
    for name, words in official_sets.make(folder / "sets").items():
        needs = words[0] in ("corpus", "glue")
        tokens = ["--tokenizer", str(out / "tokenizer")] if needs else []
        prepare.main([*words, *tokens, "-o", str(out / name)])
    path = Path("params") / f"{NAME}.yaml"
    with contextlib.chdir(folder):
        experiment = params.load(path)
    assert workspace.jobs(workflow(folder, "-n")) == expected(experiment)
    workspace.carry_out(folder, str(path), ("pretrain", "select"), BY_WORKFLOW)
    chosen = [folders.chosen_path(experiment, name) for name in searched(experiment)]
    workflow(folder, *map(str, chosen))
    workspace.carry_out(folder, str(path), ("finetune", "decode"), BY_WORKFLOW)
    workflow(folder)
    return folder


def workflow(folder: Path, *words: str) -> str:
    ran = workspace.snakemake(folder, *words, file=f"params/{NAME}.yaml")
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-6000:]
    return ran.stdout + ran.stderr


def expected(experiment: params.Experiment) -> dict[str, int]:
    counts = Counter(RULES[run.kind] for run in runs.all_runs(experiment))
    return {**counts, "choose": len(searched(experiment)), "tables": 1}


def searched(experiment: params.Experiment) -> list[str]:
    return [name for name, task in experiment.finetune.items() if task.grid]


@pytest.fixture(scope="module")
def experiment(done) -> params.Experiment:
    return params.load(done / "params" / f"{NAME}.yaml")


def table(done: Path, name: str) -> pd.DataFrame:
    text = (done / "results" / NAME / "tables" / f"{name}.csv").read_text()
    frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    return frame[frame["kind"] == "reproduced"]


def predictions(done: Path, run: str, split: str) -> pd.DataFrame:
    path = done / "results" / NAME / "runs" / run / f"predictions-{split}.tsv"
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=3)


@pytest.mark.parametrize("name", ["imagenet", "librispeech", "audioset", "glue"])
def test_every_planned_cell_has_a_number_and_stands_under_the_reported_row(done, name):
    frame = table(done, name)
    assert len(frame)
    assert (frame["value"] != "").all(), frame[frame["value"] == ""]
    page = (done / "results" / NAME / "tables" / f"{name}.md").read_text()
    assert "## Missing runs" not in page
    lines = page.split("\n")
    for row in frame["row"].unique():
        method = row.removesuffix(" (this run)")
        at = next(i for i, line in enumerate(lines) if line.startswith(f"| {method} |"))
        assert lines[at + 1].startswith(f"| **{row}")
        assert lines[at + 2].startswith("| gap to the reported |")


def again(frame: pd.DataFrame, metric: str) -> float:
    """A metric of a prediction file by other code than the project's."""
    said, true = frame["prediction"].tolist(), frame["reference"].tolist()
    if metric in ("wer", "greedy_wer", "cer", "greedy_cer"):
        heard = frame["greedy"].tolist() if metric.startswith("greedy") else said
        errors = jiwer.process_words if metric.endswith("wer") else jiwer.process_characters
        found = errors(true, heard)
        return found.wer if metric.endswith("wer") else found.cer
    if metric == "map":
        scores = np.array([[float(v) for v in row.split()] for row in said])
        labels = np.array([[str(c) in t.split(",") for c in range(scores.shape[1])] for t in true])
        present = labels.any(0)
        return sklearn.average_precision_score(labels[:, present], scores[:, present])
    if metric in ("pearson", "spearman", "squared_error"):
        x, y = np.array(true, float), np.array(said, float)
        if metric == "squared_error":
            return float(((x - y) ** 2).mean())
        ranks = (stats.rankdata(x), stats.rankdata(y)) if metric == "spearman" else (x, y)
        return float(np.corrcoef(*ranks)[0, 1])
    labels, classes = np.array(true, int), np.array(said, int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "accuracy": lambda: float((labels == classes).mean()),
            "f1": lambda: sklearn.f1_score(labels, classes, zero_division=0.0),
            "matthews": lambda: sklearn.matthews_corrcoef(labels, classes),
        }[metric]()


def test_the_tables_numbers_follow_from_the_stored_predictions(done, experiment):
    checked = 0
    for name, task in experiment.finetune.items():
        frame = table(done, task.table)
        row = f"{task.row or 'data2vec'} (this run)"
        reported = runs.reported_runs(experiment, name)
        for column, split in {task.column: "test", **task.more}.items():
            files = [predictions(done, run.id, split) for run in reported]
            values = {m: np.mean([again(f, m) for f in files]) for m in task.metrics}
            pairs = [p for p in PAIRS if set(p) <= set(values)]
            for metric, value in values.items():
                mine = frame[(frame["row"] == row) & (frame["column"] == column)]
                found = mine[mine["metric"].str.fullmatch(rf"{metric}_(pct|x100)")]
                assert len(found) == 1, (name, column, metric)
                assert float(found["value"].item()) == pytest.approx(100 * value, abs=1e-3)
                checked += 1
            for p in pairs:
                found = mine[mine["metric"].str.startswith("mean_of")]
                mean = 100 * np.mean([values[m] for m in p])
                assert float(found["value"].item()) == pytest.approx(mean, abs=1e-3)
    assert checked > 60


def test_glue_chose_one_rate_for_the_row(done, experiment):
    chosen = {
        name: json.loads((done / folders.chosen_path(experiment, name)).read_text())["data2vec"][
            "lr"
        ]
        for name in runs.chosen_together(experiment, "cola")
    }
    assert len(chosen) == 8
    assert len(set(chosen.values())) == 1


def test_decoding_weights_were_searched_on_the_development_split(done, experiment):
    for run in runs.decode_runs(experiment):
        found = json.loads((done / run.metrics_path).read_text())
        assert found["weights"]
        assert set(found["metrics"]) >= {"dev", "test", "test-clean", "dev-clean"}
        lines = (done / run.work / "trials.jsonl").read_text().splitlines()
        trials = [line for line in lines if "number" in json.loads(line)]
        assert len(trials) == experiment.finetune[run.name].decode.search.trials


def test_the_second_stage_starts_from_the_first_and_marked_rows_say_so(done):
    path = done / "results" / NAME / "runs" / "pretrain"
    found = json.loads((path / "vision-large-stage2" / "seed0" / "metrics.json").read_text())
    assert found["pretrain_run"] == "pretrain/vision-large-stage1/seed0"
    page = (done / "results" / NAME / "tables" / "librispeech.md").read_text()
    assert "- † data2vec Large: nobody published this recipe" in page


def test_200_steps_of_colours_and_tones_are_enough_to_learn_something(done):
    """Held-out images of three colours, and clips of three sounds: well above chance."""
    assert float(value(done, "imagenet", "ViT-B", "accuracy_pct")) > 60
    assert float(value(done, "audioset", "balanced", "map_pct")) > 60


def value(done: Path, name: str, column: str, metric: str) -> str:
    frame = table(done, name)
    return frame[(frame["column"] == column) & (frame["metric"] == metric)]["value"].item()


def test_a_second_run_does_nothing(done):
    assert "Nothing to be done" in workflow(done)

"""Charts of what a score takes: by the number of labels, and by the cost of training."""

import json
import re
from pathlib import Path

import mock_paper
import pytest

from d2v import params
from d2v.experiment.folders import meta_path
from d2v.results import tables
from d2v.results.page import build, cost, effort, records
from d2v.util.files import write_json

ROOT = Path(__file__).parents[2]
REPORTED = ROOT / "params" / "reported.csv"
TASKS = ("SST-2", "CoLA", "RTE")
# accuracy in % of each row and seed
LABELLED = {30: (40, 50, 60), 100: (70, 80, 90), 300: (80, 85, 90), 1000: (94, 95, 96)}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[params.Experiment, Path]:
    """Finished runs of mini-full.yaml, digits with the scores above, the seeds in turn."""
    folder = tmp_path_factory.mktemp("full")
    experiment = mock_paper.fill("mini-full", folder)
    experiment = experiment.model_copy(update={"prepared": str(folder / "prepared")})
    for name in ("sst2", "cola", "rte"):
        write_json(meta_path(experiment, name), {"splits": {"train": {"examples": 1000}}})
    for path in folder.glob("runs/finetune/digits*/*/seed*/metrics.json"):
        content = json.loads(path.read_text())
        count = effort.labels_of(experiment.finetune[path.parts[-4]], experiment)
        score = LABELLED[count or 0][int(path.parts[-2].removeprefix("seed")) % 3]
        content["metrics"]["test"]["accuracy"] = score / 100
        path.write_text(json.dumps(content))
    return experiment, folder


def table(full: tuple[params.Experiment, Path], name: str) -> tables.Table:
    experiment, folder = full
    return next(t for t in tables.build(experiment, folder, REPORTED) if t.name == name)


def test_scores_by_labels_are_those_of_the_table(
    full: tuple[params.Experiment, Path],
) -> None:
    (chart,) = effort.by_labels(table(full, "imagenet"))
    assert chart.id == "imagenet-digits-vision2-by-labels"
    assert chart.title == "digits: accuracy by number of labels"
    label = re.search(r'aria-label="(.*?)"', chart.svg)
    assert label
    for row in ("from scratch", "input targets", "data2vec 2.0"):
        for count, scores in LABELLED.items():
            assert f"{row}, {count} labels: {sorted(scores)[1]:.1f} ±" in label[1]
    at = [float(x) for x in re.findall(r'<text x="([\d.]+)" y="210"', chart.svg)]
    assert len(at) == 4
    assert at == sorted(at)  # 30, 100, 300, 1000
    assert at[3] - at[2] == pytest.approx(at[1] - at[0], abs=0.2)  # a logarithmic axis


def test_a_task_without_lists_uses_all_labels(full: tuple[params.Experiment, Path]) -> None:
    charts = effort.by_labels(table(full, "glue"))
    assert [chart.id for chart in charts] == [
        f"glue-{name}-text-by-labels" for name in ("cola", "rte")
    ]
    for chart in charts:
        for count in (100, 300, 1000):
            assert f"data2vec, {count} labels: " in chart.svg


def test_tasks_with_few_labels_are_not_averaged(full: tuple[params.Experiment, Path]) -> None:
    glue = table(full, "glue")
    by_heading = {c.heading: c for c in glue.columns if c.headline}
    of_all = [glue.cells["data2vec", by_heading[f"{task}-shaped"]] for task in TASKS]
    average = glue.cells["data2vec", by_heading["average"]]
    assert "CoLA-shaped, 100 labels" in by_heading
    assert average.value == pytest.approx(sum(cell.value for cell in of_all) / len(TASKS))


def test_cost_is_that_of_pre_training_and_fine_tuning(
    full: tuple[params.Experiment, Path],
) -> None:
    experiment, folder = full
    found = records.collect(experiment, folder, folder / "work")
    operations = cost.operations(experiment)
    spent = effort.spending(found, operations)
    scratch, ours = (f"finetune/digits-30/{arm}/seed1" for arm in ("scratch", "data2vec"))
    assert spent[scratch].pflop == operations[scratch] > 0
    before = "pretrain/vision2/seed1"
    assert spent[ours].pflop == pytest.approx(operations[ours] + operations[before])
    seconds = [
        json.loads((folder / "runs" / run / "metrics.json").read_text())["train_s"]
        for run in (ours, before)
    ]
    assert spent[ours].seconds == pytest.approx(sum(seconds))


def test_the_page_has_both(full: tuple[params.Experiment, Path]) -> None:
    experiment, folder = full
    shown = tables.build(experiment, folder, REPORTED)
    found = records.collect(experiment, folder, folder / "work")
    page = build.build(experiment, folder, found, shown).read_text()
    assert "<h3>Score by number of labels</h3>" in page
    assert page.count("<h3>Score by cost of training</h3>") == 3
    for place in ("imagenet-digits-vision2", "librispeech-spoken_digits-speech", "glue-cola-text"):
        assert f'id="{place}-by-labels"' in page
    for place in ("imagenet-MNIST-digits-30-labels-36-patches", "glue-CoLA-shaped"):
        assert f'id="{place}-by-cost"' in page
    assert "digits-vision-by-labels" not in page  # one number of labels only


def test_nothing_is_drawn_without_runs(tmp_path: Path) -> None:
    experiment = params.load(ROOT / "params" / "mini-full.yaml")
    for table in tables.build(experiment, tmp_path, REPORTED):
        assert effort.by_cost(table, {}) == []
        assert effort.by_labels(table) == []

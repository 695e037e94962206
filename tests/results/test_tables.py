"""Tables: the numbers, their sources and runs, honest verdicts, and gaps shown as gaps."""

import io
import json
import math
import re
import shutil
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pandas as pd
import pytest

from d2v import params
from d2v.experiment import runs
from d2v.results import cells, collect, entries, layout, rows, tables, verdicts
from d2v.results.statistics import Estimate, estimate, welch
from d2v.util.errors import UserError

ROOT = Path(__file__).parents[2]
REPORTED = ROOT / "params" / "reported.csv"
COLUMNS = "row column metric split value stderr n kind scale source runs partial_data"

# test metrics by task and arm, one number a seed; two metrics: (first, second)
SCORES = {
    ("digits", "scratch"): [0.70, 0.72, 0.74],
    ("digits", "data2vec"): [0.77, 0.78, 0.79],
    ("spoken", "scratch"): [0.9, 1.0, 1.1],
    ("spoken", "data2vec"): [0.6, 0.7, 0.65],
    ("sst2", "scratch"): [0.62, 0.63, 0.64],
    ("sst2", "data2vec"): [0.62, 0.64, 0.64],
    ("mrpc", "scratch"): [0.80, 0.82, 0.81],
    ("mrpc", "data2vec"): [0.70, 0.71, 0.69],
}
METRICS = {
    "digits": ["accuracy"],
    "spoken": ["wer", "greedy_wer", "greedy_cer"],
    "sst2": ["accuracy"],
    "mrpc": ["accuracy", "f1"],
}
OFFSET = {"f1": 0.1, "greedy_wer": 0.05, "greedy_cer": -0.3}


@pytest.fixture
def experiment():
    mini = params.load(ROOT / "params" / "mini.yaml")
    shape = {task.table: task for task in reversed(mini.finetune.values())}  # the first of each
    of = {"digits": "imagenet", "spoken": "librispeech", "sst2": "glue", "mrpc": "glue"}
    tasks = {
        name: shape[table].model_copy(
            update={
                "column": f"{name} column",
                "metrics": METRICS[name],
                "seeds": [0, 1, 2],
                "arms": ["scratch", "data2vec"],
                "baseline": None,
                "probe": None,
            }
        )
        for name, table in of.items()
    }
    return mini.model_copy(update={"finetune": tasks})


@pytest.fixture
def results(experiment, tmp_path):
    for run in runs.finetune_runs(experiment):
        score = SCORES[run.name, run.arm][run.seed]
        test = {name: score + OFFSET.get(name, 0) for name in METRICS[run.name]}
        dev = dict.fromkeys(METRICS[run.name], 0.123)
        write(experiment, tmp_path, run.id, {"dev": dev, "test": test})
    return tmp_path


def path_of(experiment, results, run_id):
    return results / "runs" / run_id / "metrics.json"


def write(experiment, results, run_id, metrics):
    path = path_of(experiment, results, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"run": run_id, "metrics": metrics, "setting": {"lr": 2e-3, "steps": 1200}}
    path.write_text(json.dumps(content))


def built(experiment, results, table):
    tables.build(experiment, results, REPORTED)
    folder = results / "tables"
    text = (folder / f"{table}.csv").read_text()
    frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    return frame, (folder / f"{table}.md").read_text()


def the_cell(frame, row, column, metric):
    found = frame[(frame.row == row) & (frame.column == column) & (frame.metric == metric)]
    assert len(found) == 1
    return found.iloc[0]


def line_of(markdown, start):
    (line,) = [line for line in markdown.split("\n") if line.startswith(start)]
    return [field.strip() for field in line.strip("|").split("|")]


def test_mean_and_standard_error_of_the_test_split_with_runs(experiment, results):
    frame, markdown = built(experiment, results, "imagenet")
    assert list(frame.columns) == COLUMNS.split()
    cell = the_cell(frame, "data2vec (this run)", "digits column", "accuracy_pct")
    scores = [77.0, 78.0, 79.0]
    assert float(cell.value) == pytest.approx(statistics.mean(scores), abs=1e-4)
    assert float(cell.stderr) == pytest.approx(statistics.stdev(scores) / math.sqrt(3), abs=1e-4)
    assert (cell.n, cell.kind, cell.scale) == ("3", "reproduced", "miniature")
    assert cell.split == "digits_test"
    assert cell.runs.split() == [f"finetune/digits/data2vec/seed{k}" for k in range(3)]
    assert line_of(markdown, "| data2vec (this run)")[1] == "**78.0 ± 0.6 (n=3)**"
    assert line_of(markdown, "| difference")[1] == "+6.0 [+1.8, +10.2]"


def test_reported_rows_are_set_apart_with_source_and_as_printed(experiment, results):
    frame, markdown = built(experiment, results, "imagenet")
    cell = the_cell(frame, "data2vec", "ViT-B", "top1_accuracy_pct")
    assert (cell.value, cell.kind, cell.scale) == ("84.2", "reported", "paper")
    assert (cell.stderr, cell.n, cell.runs) == ("", "", "")
    assert cell.source == "arXiv:2202.03555v3, Table 1"
    assert the_cell(frame, "DINO", "ViT-L", "top1_accuracy_pct").value == ""
    ours, paper = markdown.split("## Reported by the paper")
    assert "**Another scale**" in paper
    assert "BEiT" not in ours
    assert line_of(paper, "| MaskFeat") == ["MaskFeat", "84.0", "85.7"]
    assert line_of(paper, "| DINO") == ["DINO", "82.8", "–"]


def test_the_paper_scale_needs_no_warning(experiment, results):
    full = experiment.model_copy(update={"scale": "paper"})
    frame, markdown = built(full, results, "librispeech")
    assert set(frame.scale) == {"paper"}
    assert "Another scale" not in markdown
    # the scale does not turn one set into another
    assert markdown.startswith("# Speech recognition: synthetic speech (espeak-ng voices)\n")


def test_titles_name_the_sets_of_the_experiment(experiment, results):
    own = params.data.LibriSpeech(kind="librispeech", source="/own", limited="/lists")
    data = {**experiment.data, "spoken_digits": own}
    digits = experiment.finetune["digits"].model_copy(update={"data": "photos"})
    tasks = {**experiment.finetune, "digits": digits}
    other = experiment.model_copy(update={"data": data, "finetune": tasks})
    titles = [layout.title(table) for table in collect.collect(other, results, REPORTED)]
    assert titles[0] == "Image classification: photos"  # a set that no known group makes
    assert titles[1] == "Speech recognition: spoken_digits"
    assert "not GLUE itself" in titles[2]


def test_titles_at_the_papers_scale_are_the_papers_for_its_own_sets():
    paper = params.load(REPORTED.with_name("paper.yaml"))
    found = collect.collect(paper, REPORTED.with_name("no-results"), REPORTED)
    assert [layout.title(table) for table in found] == [
        "Image classification: ImageNet-1K",
        "Speech recognition: LibriSpeech test-other",
        "Audio event classification: AudioSet evaluation set",
        "Language understanding: GLUE development sets",
    ]


def test_word_errors_go_down(experiment, results):
    frame, markdown = built(experiment, results, "librispeech")
    assert "synthetic speech" in markdown.split("\n")[0]
    assert float(the_cell(frame, "from scratch", "spoken column", "wer_pct").value) == 100
    header = next(line for line in markdown.split("\n") if "greedy" in line)
    assert "greedy WER, % ↓" in header
    assert "greedy CER, % ↓" in header
    assert "spoken column<br>WER, lexicon + n-gram, % ↓" in markdown
    assert re.search(r"spoken column: −35\.0 \[−\d+\.\d, −\d+\.\d\], \*\*gain \(the 95 %", markdown)


def test_glue_pairs_are_averaged_and_the_average_is_over_tasks_within_seeds(experiment, results):
    frame, markdown = built(experiment, results, "glue")
    pair = the_cell(frame, "from scratch", "mrpc column", "mean_of_accuracy_and_f1_pct")
    assert float(pair.value) == pytest.approx(81 + 5)
    assert float(the_cell(frame, "from scratch", "mrpc column", "f1_pct").value) == pytest.approx(
        91
    )
    average = the_cell(frame, "from scratch", "average", "mean_over_tasks_x100")
    seeds = [(62 + 85) / 2, (63 + 87) / 2, (64 + 86) / 2]
    assert float(average.value) == pytest.approx(statistics.mean(seeds), abs=1e-4)
    assert float(average.stderr) == pytest.approx(statistics.stdev(seeds) / 3**0.5, abs=1e-4)
    assert len(average.runs.split()) == 6
    assert "not GLUE itself" in markdown.split("\n")[0]


def test_what_the_tables_say_together(experiment, results):
    found = collect.collect(experiment, results, REPORTED)
    assert verdicts.answers(found) == [
        "Pre-training pays on 2 of 4 tasks. It makes no clear difference on sst2 column."
        " It hurts on mrpc column."
    ]
    assert verdicts.answers(found)[0] in tables.render_console(experiment, results, REPORTED)
    by_name = {v.name: v for v in verdicts.against_scratch(found)}
    assert by_name["spoken column"].better_by == pytest.approx(35)  # WER: down is better
    low, high = verdicts.spread(by_name["spoken column"].found)
    assert (low + high) / 2 == pytest.approx(35)
    path_of(experiment, results, "finetune/digits/scratch/seed1").unlink()
    path_of(experiment, results, "finetune/digits/scratch/seed2").unlink()
    (answer,) = verdicts.answers(collect.collect(experiment, results, REPORTED))
    assert answer.startswith("Pre-training pays on 1 of 3 tasks.")
    assert answer.endswith("No verdict yet on digits column.")


def test_what_is_said_of_the_targets_has_a_sentence_for_each_verdict():
    kinds = {"digits, 100 labels": "better", "speech": "worse", "sst2": "same", "cola": "same"}
    said = [SimpleNamespace(kind=kind, name=name) for name, kind in kinds.items()]
    assert verdicts._targets(said) == (
        "Compared with targets of the input, the teacher's are better on digits, 100 labels. They"
        " are not clearly different on sst2 and cola. They are worse on speech."
    )


def test_few_tasks_are_told_in_words(experiment, results):
    def told():
        found = collect.collect(experiment, results, REPORTED)
        images, speech, texts = (
            next(table for table in found if table.name == name)
            for name in ("imagenet", "librispeech", "glue")
        )
        return [verdicts.answers(some)[0] for some in ([images], [images, speech], [texts])]

    one, two, none = told()
    assert one == "Pre-training pays on the only task."
    assert two == "Pre-training pays on both tasks."
    assert none.startswith("Pre-training pays on no task. It makes no clear difference on ")
    path_of(experiment, results, "finetune/digits/scratch/seed1").unlink()
    path_of(experiment, results, "finetune/digits/scratch/seed2").unlink()
    assert told()[1] == (
        "Pre-training pays on the only task judged so far. No verdict yet on digits column."
    )


def test_numbers_have_a_real_minus(experiment, results):
    for seed in range(3):
        path = path_of(experiment, results, f"finetune/sst2/scratch/seed{seed}")
        path.write_text(path.read_text().replace('"accuracy": 0.6', '"accuracy": -0.6'))
    frame, markdown = built(experiment, results, "glue")
    assert "| −63.0 ± 0.6 (n=3) |" in markdown
    shown = [markdown, tables.render_console(experiment, results, REPORTED)]
    shown += [(results / "tables" / f"glue.{suffix}").read_text() for suffix in ("tex",)]
    html = re.sub(r"<style>.*?</style>|<script>.*?</script>|data-value=\S+", "",
                  (results / "tables" / "glue.html").read_text(), flags=re.S)  # fmt: skip
    for text in (*shown, html):
        assert not re.search(r"(?<![\w-])-\d+\.\d", text)
    # the CSV is for programs
    assert the_cell(frame, "from scratch", "sst2 column", "accuracy_pct").value == "-63.0000"


def test_verdicts_are_honest(experiment, results):
    _, markdown = built(experiment, results, "glue")
    bounds = r"\[[−+]\d+\.\d, [−+]\d+\.\d\]"
    same, worse = (rf"\*\*{word} \(the 95 % interval" for word in ("no clear gain", "loss"))
    assert re.search(rf"- sst2 column: \+0\.3 {bounds}, {same} includes zero\)", markdown)
    assert re.search(rf"- mrpc column: −11\.0 {bounds}, {worse} excludes zero\)", markdown)
    assert layout.ONE_PRETRAINING in markdown


def estimated(value, stderr):
    """An estimate whose t quantile is close to two, from many values."""
    return Estimate(value, stderr, 60.0)


@pytest.mark.parametrize(
    ("value", "stderr", "verdict"),
    [
        (2.0, 1.0, "no clear gain"),  # the quantile of t with 60 degrees of freedom is 2.0003
        (2.01, 1.0, "gain"),
        (-2.01, 1.0, "loss"),
        (0.0, 0.0, "no clear gain"),
        (0.1, 0.0, "gain"),
        (5.0, math.nan, "cannot be judged (needs two seeds"),
        (math.nan, math.nan, "cannot be judged (runs are missing"),
    ],
)
def test_verdict(value, stderr, verdict):
    up = cells.Column("a", ("accuracy",), "test", True)
    down = cells.Column("a", ("wer",), "test", True)
    assert cells.Gain(up, estimated(value, stderr)).verdict.startswith(verdict)
    assert cells.Gain(down, estimated(-value, stderr)).verdict.startswith(verdict)


@pytest.mark.parametrize(
    ("value", "word"), [(3.0, "better"), (-3.0, "worse"), (1.0, "no clear difference")]
)
def test_verdict_on_targets(value, word):
    column = cells.Column("a", ("accuracy",), "test", True)
    found = cells.Gain(column, estimated(value, 1.0), other=cells.INPUT)
    assert found.short == word


def test_three_seeds_that_differ_by_two_standard_errors_are_no_gain():
    """The quantile of t is 2.8 for four degrees of freedom, not 2."""
    found = welch(estimate([62.0, 66.0, 67.4]), estimate([61.0, 58.9, 63.0]))
    assert 2 < found.value / found.stderr < 2.7
    column = cells.Column("a", ("accuracy",), "test", True)
    assert cells.Gain(column, found).short == "no clear gain"
    assert found.p > 0.05


def test_a_pre_training_counts_once(experiment, results):
    """Seeds of one pre-training are not independent of it: with two, two means are compared."""
    several = experiment.pretrain["vision"].model_copy(update={"seeds": [0, 1]})
    changed = experiment.model_copy(update={"pretrain": {**experiment.pretrain, "vision": several}})
    (table,) = [t for t in collect.collect(changed, results, REPORTED) if t.name == "imagenet"]
    (column,) = [c for c in table.columns if c.headline]
    cell = table.cells["data2vec", column]
    first, second, third = cell.values  # seeds 0 and 2 start from pre-training 0
    assert sorted(cell.units) == sorted([(first + third) / 2, second])
    assert (cell.starts, cell.estimate.freedom) == (2, 1)
    assert cell.stderr == pytest.approx(statistics.stdev(cell.units) / math.sqrt(2))
    assert not table.gain(column).single


def test_missing_runs_are_named_and_shown(experiment, results):
    path_of(experiment, results, "finetune/digits/scratch/seed1").unlink()
    path_of(experiment, results, "finetune/digits/data2vec/seed0").write_text('{"metrics": ')
    path_of(experiment, results, "finetune/digits/data2vec/seed2").write_text("[]")
    frame, markdown = built(experiment, results, "imagenet")
    assert "finetune/digits/scratch/seed1: not run yet" in markdown
    assert "finetune/digits/data2vec/seed0: metrics.json is unreadable" in markdown
    assert "finetune/digits/data2vec/seed2: metrics.json is unreadable" in markdown
    assert line_of(markdown, "| from scratch")[1] == "72.0 ± 2.0 (n=2 of 3)"
    assert line_of(markdown, "| data2vec (this run)")[1] == "**78.0 (n=1 of 3)**"
    assert "cannot be judged (needs two seeds in each row)" in markdown
    cell = the_cell(frame, "data2vec (this run)", "digits column", "accuracy_pct")
    assert (cell.value, cell.stderr, cell.n) == ("78.0000", "", "1")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"run": "finetune/digits/data2vec/seed1"}, "is that of finetune/digits/data2vec/seed1"),
        ({"seed": 1}, "is that of seed 1"),
        ({"metrics": {"test": {"accuracy": True}}}, "metrics.test.accuracy: "),
        ({"metrics": {"test": 5}}, "metrics.test: "),
        ({"metrics": {}}, "no metrics of split test"),
        ({"setting": {"lr": "high", "steps": 5}}, "setting.lr: "),
        ({"train_s": "long"}, "train_s: "),
        ({"examples_per_s": "many"}, "examples_per_s: "),
        ({"provenance": {"finished": 5}}, "provenance.finished: "),
    ],
)
def test_damaged_metrics_and_those_of_another_run_are_missing(experiment, results, changed, words):
    path = path_of(experiment, results, "finetune/digits/data2vec/seed0")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    frame, markdown = built(experiment, results, "imagenet")
    said = f"finetune/digits/data2vec/seed0: metrics.json is unreadable ({words}"
    assert said in markdown
    assert the_cell(frame, "data2vec (this run)", "digits column", "accuracy_pct").n == "2"


def undefine(experiment, results, seeds):
    """Of a collapsed model: an F1 that is not defined."""
    for seed in seeds:
        run = f"finetune/mrpc/scratch/seed{seed}"
        write(experiment, results, run, {"test": {"accuracy": 0.5, "f1": math.nan}})


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]], ids=["one seed", "all seeds"])
def test_an_undefined_metric_has_no_mean_no_winner_and_is_never_replaced(
    experiment, results, seeds
):
    undefine(experiment, results, seeds)
    frame, markdown = built(experiment, results, "glue")
    scores = markdown.split("Further")[0]
    assert line_of(scores, "| from scratch")[2:] == ["undefined", "undefined"]
    assert line_of(scores, "| data2vec (this run)")[2] == "75.0 ± 0.6 (n=3)"  # not bold
    assert "**" not in line_of(scores, "| data2vec (this run)")[3]
    assert line_of(scores, "| difference")[2:] == ["–", "–"]
    assert "- mrpc column: –, **undefined (the metric of from scratch is)**" in markdown
    assert "Undefined: the metric has no value for at least one of the seeds" in markdown
    one = the_cell(frame, "from scratch", "mrpc column", "mean_of_accuracy_and_f1_pct")
    assert (one.value, one.stderr, one.n) == ("undefined", "", "3")
    assert the_cell(frame, "from scratch", "average", "mean_over_tasks_x100").value == "undefined"
    named = ", ".join(f"seed{seed}" for seed in seeds)
    gap = f"finetune/mrpc/scratch/{named}: mrpc column: mean_of_accuracy_and_f1_pct is undefined"
    assert gap in markdown
    accuracy = the_cell(frame, "from scratch", "mrpc column", "accuracy_pct")
    assert accuracy.n == "3"
    assert accuracy.value not in ("", "undefined")


def test_an_undefined_metric_is_said_in_every_format(experiment, results):
    undefine(experiment, results, [1])
    tables.build(experiment, results, REPORTED)
    folder = results / "tables"
    page = (folder / "glue.html").read_text()
    assert '<td class="undefined" title="undefined for finetune/mrpc/scratch/seed1">' in page
    assert "n=2 of 3" not in page
    latex = (folder / "glue.tex").read_text()
    row = next(line for line in latex.split("\n") if line.startswith("from scratch &"))
    assert row.count("undefined") == 2  # the task and the average
    console = tables.render_console(experiment, results, REPORTED)
    assert "gain · mrpc column: –, undefined (the metric of from scratch is)" in console
    assert "n=2 of 3" not in console


def test_a_seed_with_an_undefined_score_leaves_no_average_of_the_others(experiment, results):
    undefine(experiment, results, [0])
    path_of(experiment, results, "finetune/sst2/scratch/seed0").unlink()
    frame, _ = built(experiment, results, "glue")
    assert the_cell(frame, "from scratch", "average", "mean_over_tasks_x100").value == "undefined"


def test_a_metric_that_a_run_does_not_have_is_missing_not_undefined(experiment, results):
    run = "finetune/mrpc/scratch/seed0"
    write(experiment, results, run, {"test": {"accuracy": 0.5}})
    _, markdown = built(experiment, results, "glue")
    assert f"{run}: mrpc column: mean_of_accuracy_and_f1_pct is missing" in markdown
    assert "(n=2 of 3)" in line_of(markdown.split("Further")[0], "| from scratch")[2]


def test_an_average_counts_only_seeds_with_every_task(experiment, results):
    path_of(experiment, results, "finetune/sst2/data2vec/seed2").unlink()
    frame, markdown = built(experiment, results, "glue")
    average = the_cell(frame, "data2vec (this run)", "average", "mean_over_tasks_x100")
    assert average.n == "2"
    assert "seed2" not in average.runs
    assert line_of(markdown.split("Further")[0], "| data2vec (this run)")[3].endswith("(n=2 of 3)")


def test_nothing_has_run_yet(experiment, tmp_path):
    frame, markdown = built(experiment, tmp_path, "glue")
    assert set(frame[frame.kind == "reproduced"].value) == {""}
    assert line_of(markdown.split("Further")[0], "| from scratch")[1:] == ["–"] * 3
    assert "cannot be judged (runs are missing)" in markdown
    assert "–" in tables.render_console(experiment, tmp_path, REPORTED)


def test_protocol_says_split_seeds_settings_and_decoding(experiment, results):
    _, markdown = built(experiment, results, "librispeech")
    protocol = markdown.split("## Protocol")[1].split("##")[0]
    for part in (
        "split test of",
        "seeds 0, 1, 2",
        "1200 steps, learning rate 0.002",
        "beam 50",
        "on dev",
    ):
        assert part in protocol


def test_protocol_names_the_grid(experiment, results):
    grid = params.Grid(lr=[1e-3, 4e-3], steps=[300, 900], seeds=[100, 101])
    task = experiment.finetune["digits"].model_copy(update={"grid": grid, "settings": None})
    searched = experiment.model_copy(update={"finetune": {"digits": task}})
    _, markdown = built(searched, results, "imagenet")
    assert (
        "chosen for each arm by accuracy on dev from the same grid"
        " (learning rates 0.001, 0.004; steps 300, 900; seeds 100, 101)" in markdown
    )
    folder = results / "tables"
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [f"imagenet.{suffix}" for suffix in tables.SUFFIXES] + ["references.bib", "tables.tex"]
    )


def test_the_same_runs_give_the_same_bytes(experiment, results):
    folder = results / "tables"
    tables.build(experiment, results, REPORTED)
    first = {p.name: p.read_bytes() for p in folder.iterdir()}
    tables.build(experiment, results, REPORTED)
    assert first == {p.name: p.read_bytes() for p in folder.iterdir()}
    three = ("glue", "imagenet", "librispeech")
    names = [f"{table}.{suffix}" for table in three for suffix in tables.SUFFIXES]
    assert sorted(first) == sorted([*names, "references.bib", "tables.tex"])


def test_console_shows_three_tables_and_where_the_files_are(experiment, results):
    text = tables.render_console(experiment, results, REPORTED)
    assert text.count("from scratch  ") == 5  # three tables, two of them with further metrics
    assert "reported by the paper (another scale): data2vec: ViT-B 84.2, ViT-L 86.6" in text
    assert "data2vec 2.0" not in text  # whose values are those of another paper
    assert text.split("\n")[-1].startswith(f"tables: {results / 'tables'}")
    assert "<br>" not in text
    assert "**" not in text


def test_console_says_once_that_rows_rest_on_one_pretraining(experiment, results):
    text = tables.render_console(experiment, results, REPORTED)
    assert text.count(layout.ONE_PRETRAINING) == 1
    assert text.index(layout.ONE_PRETRAINING) > text.rindex("reported by the paper")
    for path in (results / "runs/finetune").glob("*/data2vec"):
        shutil.rmtree(path)
    assert layout.ONE_PRETRAINING not in tables.render_console(experiment, results, REPORTED)


def test_a_small_error_is_not_shown_as_none():
    assert entries.spread_text(0.04) == "<0.1"
    assert entries.spread_text(0.0) == "0.0"
    assert entries.spread_text(0.05) == "0.1"


# --- at the paper's scale: reproduced rows beside reported ones ---------------------------------


@pytest.fixture
def full(experiment):
    """Two images models in one table, and GLUE with a task of two columns, as in the paper."""
    digits, sst2 = experiment.finetune["digits"], experiment.finetune["sst2"]
    ours = {"arms": ["data2vec"], "settings": {"data2vec": sst2.settings["data2vec"]}}
    tasks = {
        "base": digits.model_copy(update={**ours, "column": "ViT-B"}),
        "large": digits.model_copy(
            update={**ours, "column": "ViT-L", "stand_in": "A near one was taken."}
        ),
        "cola": sst2.model_copy(update={**ours, "column": "CoLA", "metrics": ["matthews"]}),
        "mnli": sst2.model_copy(
            update={**ours, "column": "MNLI-m", "more": {"MNLI-mm": "mismatched"}}
        ),
        "cola-spans": sst2.model_copy(
            update={
                **ours,
                "column": "CoLA",
                "metrics": ["matthews"],
                "row": "data2vec + wav2vec 2.0 masking",
            }
        ),
    }
    return experiment.model_copy(update={"scale": "paper", "finetune": tasks})


def test_a_reproduced_row_stands_under_the_reported_one_with_its_gap(full, tmp_path):
    for seed, score in enumerate((0.840, 0.842, 0.841)):
        write(full, tmp_path, f"finetune/base/data2vec/seed{seed}", {"test": {"accuracy": score}})
    frame, markdown = built(full, tmp_path, "imagenet")
    lines = markdown.split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("| data2vec |"))
    assert lines[at].startswith("| data2vec | **84.2** | 86.6 |")
    assert lines[at + 1].startswith("| **data2vec (this run) †** | 84.1 ± 0.1 (n=3) | – |")
    assert (
        lines[at + 2]
        == "| gap to the reported | −0.1 [−0.3, +0.1] (within the spread) | – (not run) |"
    )
    assert "- † data2vec: nobody published this recipe. A near one was taken." in lines
    assert "Another scale" not in markdown
    assert "Gain" not in markdown
    assert "difference" not in markdown
    (answer,) = verdicts.answers(collect.collect(full, tmp_path, REPORTED))
    assert answer.startswith("Of the paper's ")
    assert ": 1 as reported (within the spread of the seeds), 0 better, 0 worse." in answer
    assert answer.endswith(" not measured yet.")
    assert the_cell(frame, "data2vec (this run)", "ViT-B", "accuracy_pct").value == "84.1000"
    assert the_cell(frame, "data2vec (this run)", "ViT-L", "accuracy_pct").value == ""


def test_a_cell_from_a_set_that_is_not_whole_is_marked_and_never_the_best(full, tmp_path):
    for seed in range(3):
        run = f"finetune/base/data2vec/seed{seed}"
        write(full, tmp_path, run, {"test": {"accuracy": 0.95}})
        path = path_of(full, tmp_path, run)
        partial = {"partial_data": {"imagenet": "not the whole official set"}}
        path.write_text(json.dumps(json.loads(path.read_text()) | partial))
    frame, markdown = built(full, tmp_path, "imagenet")
    assert "| **data2vec (this run) †** | 95.0 ± 0.0 (n=3) ‡ | – |" in markdown
    assert "| gap to the reported | +10.8 [+10.8, +10.8] (better) ‡ | – (not run) |" in markdown
    assert "| data2vec | **84.2** | 86.6 |" in markdown
    note = "‡ data2vec: a part of the data is missing: imagenet (not the whole official set)."
    assert f"- {note}" in markdown
    cell = the_cell(frame, "data2vec (this run)", "ViT-B", "accuracy_pct")
    assert cell.partial_data == "imagenet (not the whole official set)"
    assert the_cell(frame, "data2vec (this run)", "ViT-L", "accuracy_pct").partial_data == ""
    assert r"\ensuremath{\ddagger}" in (tmp_path / "tables" / "imagenet.tex").read_text()
    assert "(n=3) ‡</td>" in (tmp_path / "tables" / "imagenet.html").read_text()
    said = tables.render_console(full, tmp_path, REPORTED)
    assert note in said
    assert "1 better, 0 worse." in said
    assert "‡ Of these, 1 with incomplete data." in said


def test_a_gap_to_the_reported_value_is_undefined_where_one_seed_is(full, tmp_path):
    for seed, score in enumerate((0.9, math.nan, 0.9)):
        write(full, tmp_path, f"finetune/base/data2vec/seed{seed}", {"test": {"accuracy": score}})
    _, markdown = built(full, tmp_path, "imagenet")
    ours = "| **data2vec (this run) †** | undefined | – |"
    gap = "| gap to the reported | – (undefined) | – (not run) |"
    assert f"{ours}\n{gap}" in markdown
    assert "| data2vec | 84.2 | 86.6 |" in markdown


def test_a_task_with_two_columns_counts_once_in_the_average_of_its_row(full, tmp_path):
    for seed in range(3):
        cola, mnli = f"finetune/cola/data2vec/seed{seed}", f"finetune/mnli/data2vec/seed{seed}"
        write(full, tmp_path, cola, {"test": {"matthews": 0.6}})
        metrics = {"test": {"accuracy": 0.8}, "mismatched": {"accuracy": 0.9}}
        write(full, tmp_path, mnli, metrics)
        spans = f"finetune/cola-spans/data2vec/seed{seed}"
        write(full, tmp_path, spans, {"test": {"matthews": 0.5}})
    frame, markdown = built(full, tmp_path, "glue")
    average = the_cell(frame, "data2vec (this run)", "average", "mean_over_tasks_x100")
    assert float(average.value) == pytest.approx((60 + (80 + 90) / 2) / 2)
    other = "data2vec + wav2vec 2.0 masking (this run)"
    assert the_cell(frame, other, "average", "mean_over_tasks_x100").value == "50.0000"
    mm = frame[(frame.row == other) & (frame.column == "MNLI-mm")]
    assert mm.empty  # the row has no such task
    assert "MNLI-mm<br>accuracy, % ↑" in markdown
    # the reported averages are of eight tasks, these of two and of one
    gaps = [line for line in markdown.split("\n") if line.startswith("| gap to the reported |")]
    assert len(gaps) == 2
    assert all("(" in line and line.endswith("|  |") for line in gaps)


@pytest.mark.parametrize(
    ("value", "stderr", "verdict"),
    [
        (0.04, 0.0, "within the spread"),  # rounding of one decimal
        (1.0, 0.5, "within the spread"),
        (1.2, 0.5, "better"),
        (-1.2, 0.5, "worse"),
        (3.0, math.nan, "one run, no spread"),
        (math.nan, math.nan, "not run"),
    ],
)
def test_verdict_of_a_gap(value, stderr, verdict):
    up = cells.Column("a", ("accuracy",), "test", True)
    down = cells.Column("a", ("wer",), "test", True)
    assert cells.Gap(up, estimated(value, stderr)).verdict == verdict
    assert cells.Gap(down, estimated(-value, stderr)).verdict == verdict


# --- params/reported.csv ----------------------------------------------------------------------


def test_every_reported_value_is_a_number_with_a_source():
    frame = collect.read_reported(REPORTED)
    assert not frame["id"].duplicated().any()
    assert not frame.duplicated(["table", "method", "column"]).any()
    curves = {"ablation_layers", "ablation_context"}  # figures of the paper, without numbers
    assert set(frame["table"]) == set(get_args(params.TableName)) - curves
    paper, second = "arXiv:2202.03555v3, Table ", "arXiv:2212.07525, "  # data2vec, data2vec 2.0
    assert all(source.startswith((paper, second)) for source in frame["source"])
    assert all(0 < float(value) <= 100 for value in frame["value"] if value)


def test_reported_averages_follow_from_their_rows_but_for_the_noted_one():
    frame = collect.read_reported(REPORTED)
    glue = frame[frame["table"] == "glue"].astype({"value": float})
    wide = glue.pivot(index="method", columns="column", values="value")
    mnli = (wide["MNLI-m"] + wide["MNLI-mm"]) / 2
    tasks = wide.drop(columns=["MNLI-m", "MNLI-mm", "average"]).assign(mnli=mnli)
    off = (tasks.mean(axis=1) - wide["average"]).abs()
    assert list(off[off > 0.06].index) == ["BERT base"]
    noted = glue[(glue["method"] == "BERT base") & (glue["column"] == "average")]["note"].item()
    assert "81.2" in noted
    assert tasks.mean(axis=1)["BERT base"] == pytest.approx(81.2, abs=0.05)


def test_a_broken_reported_file_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        collect.read_reported(tmp_path / "none.csv")
    (tmp_path / "r.csv").write_text("id,table,value\n")
    with pytest.raises(UserError, match=r"r\.csv:1: column group, method"):
        collect.read_reported(tmp_path / "r.csv")


def test_every_row_of_its_own_is_compared_where_it_has_runs(tmp_path):
    table = collect.collect(params.load(ROOT / "params/mini.yaml"), tmp_path, REPORTED)[0]
    first, second, scratch, mine = "data2vec", "data2vec 2.0", cells.SCRATCH, cells.INPUT
    assert table.pairs == [
        (first, scratch), (second, scratch), (mine, scratch), (first, mine),
    ]  # fmt: skip
    compared = [line.split(": ")[:2] for line in layout.gains(table)]
    columns = [column.heading for column in table.columns if column.headline]
    assert compared == [
        [f"{first} − {scratch}", columns[0]],
        [f"{second} − {scratch}", columns[1]],
        [f"{mine} − {scratch}", columns[0]],
        [f"{first} − {mine}", columns[0]],
    ]
    by_name = {row.name: row.entries for row in rows.measured(table, table.columns).rows}
    assert by_name[f"{second} − {scratch}"][0].text == ""

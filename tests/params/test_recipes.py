"""Every shipped parameter file loads; its models have the published sizes, its batches too."""

from pathlib import Path

import pytest
import yaml

from d2v import params
from d2v.experiment import runs
from d2v.experiment.run import PretrainRun
from d2v.jobs import flops
from d2v.results import collect

ROOT = Path(__file__).parents[2]
PARAMS = ROOT / "params"
EXPERIMENTS = sorted(p for p in PARAMS.glob("*.yaml") if p.name != "cluster.yaml")
RECIPES = sorted((PARAMS / "recipes").glob("*.yaml"))

# parameters of encoder and backbone, which follow by hand from dim, depth and ffn_dim.
# Published: ViT-B 86M, ViT-L 304M (Dosovitskiy et al. 2021,
# with positions in place of relative biases); wav2vec 2.0 95M and 317M, with one convolution of
# 128 for positions, where data2vec has five of 19; Hugging Face's data2vec-audio-base has exactly
# the number below. RoBERTa base 125M with 50,265 tokens.
SIZES = {
    "vision-base": (85_666_128, 86e6),
    "vision-large-stage1": (303_137_216, 304e6),
    "vision-large-stage2": (303_137_216, 304e6),
    "speech-base": (93_164_288, 95e6),
    "speech-large": (313_276_416, 317e6),
    "text-base": (123_850_752, 125e6),
    "text-spans": (123_850_752, 125e6),
    "audioset-base": (93_164_288, 95e6),
}


MASKS = " + wav2vec 2.0 masking"  # of a row of Table 4


@pytest.fixture(scope="module")
def paper() -> params.Experiment:
    return params.load(PARAMS / "paper.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.name)
def test_every_experiment_loads_and_its_runs_resolve(path):
    experiment = params.load(path)
    found = runs.all_runs(experiment)
    assert len({run.id for run in found}) == len(found) > 10
    for run in found:
        assert run.defining()


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_recipe_is_used_and_says_what_it_serves(path):
    text = path.read_text()
    head = text.split("\ntemplates:")[0]
    for word in ("Serves ", "Cost ", "Sources "):
        assert word in head
    named = set(yaml.safe_load(text)["templates"])
    everything = "".join(p.read_text() for p in [*EXPERIMENTS, *RECIPES])
    unused = {name for name in named if f"like: {name}" not in everything}
    assert not unused


@pytest.mark.slow
def test_models_have_the_published_sizes(paper):
    for name, (exact, published) in SIZES.items():
        found = flops.parameter_count(paper.pretrain[name], 16_000 if "text" not in name else 8)
        assert found == exact, name
        assert abs(found - published) / published < 0.02


def test_batches_and_lengths_are_those_of_the_reference(paper):
    p = paper.pretrain
    sized = {name: run.train.sized for name, run in p.items() if run.train.sized}
    minutes = {name: s.size * s.micro_batches / 16_000 / 60 for name, s in sized.items()}
    assert minutes["speech-base"] == pytest.approx(63.3, abs=0.05)
    assert minutes["audioset-base"] == pytest.approx(94.5, abs=0.05)
    assert p["vision-base"].train.steps == 800 * (1_281_167 // 2048) == 500_000
    assert p["vision-large-stage1"].train.steps == 800 * (1_281_167 // 4096)
    assert p["text-base"].train.batch * 512 == 131_072
    ctc = {n: t.train.sized for n, t in paper.finetune.items() if t.table == "librispeech"}
    minutes = {n: s.size * s.micro_batches / 16_000 / 60 for n, s in ctc.items()}
    assert all(m == pytest.approx(26.7, abs=0.05) for n, m in minutes.items() if "960h" not in n)
    assert minutes["librispeech-large-960h"] == pytest.approx(32.0)
    imagenet = paper.finetune["imagenet-base"]
    assert imagenet.settings["data2vec"].steps == 100 * (1_281_167 // 1024)


def test_schedules_are_those_of_the_reference(paper):
    p = paper.pretrain
    steps, phases = p["speech-base"].train.steps, p["speech-base"].schedule.phases
    assert [round(share * steps) for share in phases] == [12_000, 360_000, 28_000]
    assert p["vision-base"].schedule.warmup * 800 == pytest.approx(10)
    assert p["vision-base"].schedule.end_scale * p["vision-base"].optimiser.lr == pytest.approx(
        1e-5
    )
    assert p["text-spans"].schedule.warmup * p["text-spans"].train.steps == pytest.approx(10_000)
    warmups = {"cola": 320, "mnli": 7432, "mrpc": 137, "qnli": 1986, "qqp": 28318, "rte": 122}
    for name, warmup in {**warmups, "sst2": 1256, "stsb": 214}.items():
        task = paper.finetune[name]
        assert round(task.schedule.warmup * task.grid.steps[0]) == warmup


def test_optimisers_are_those_of_the_codes_that_the_recipes_ran_on(paper):
    """fairseq's Adam for speech, text and sounds; PyTorch's, with BEiT's groups, for images."""
    for name, run in {**paper.pretrain, **paper.finetune}.items():
        of_beit = "vision" in name or "imagenet" in name
        p = run.optimiser
        assert p.eps_before_correction != of_beit, name
        assert (p.missing_gradients == "zero") != of_beit, name
        assert (p.decay == "beit") == of_beit, name
        if of_beit:
            assert run.schedule.warmup_reaches_peak, name


def test_fine_tuning_has_the_details_of_the_reference(paper):
    letters = [t for t in paper.finetune.values() if t.task.kind == "ctc"]
    assert len(letters) == 10
    assert all(t.task.xavier and t.view.mask.min_spans == 1 for t in letters)
    glue = [t for t in paper.finetune.values() if t.table == "glue"]
    assert len(glue) == 16
    assert all(t.task.dropout == 0.0 and t.dropout == 0.1 for t in glue)
    rte = paper.finetune["rte"]
    epoch = 2490 / rte.train.batch
    assert rte.grid.steps[0] / epoch == pytest.approx(10, abs=0.3)
    assert rte.validate_every / epoch == pytest.approx(1, abs=0.03)


@pytest.mark.slow
def test_rows_and_columns_are_those_of_the_reported_values(paper):
    reported = collect.read_reported(PARAMS / "reported.csv")
    places = set(zip(reported["table"], reported["method"], reported["column"], strict=True))
    others = [params.load(PARAMS / f"{name}.yaml") for name in ("ablations", "released")]
    for experiment in (paper, *others):
        for name, task in experiment.finetune.items():
            new = task.table in ("ablation_layers", "ablation_context") or "norm" in name
            assert new or (task.table, task.row or "data2vec", task.column) in places, name
    ours = {(t.table, t.row or "data2vec") for t in paper.finetune.values()}
    theirs = {(table, method) for table, method, _ in places if method.startswith("data2vec")}
    second = {(table, method) for table, method in theirs if "2.0" in method.removesuffix(MASKS)}
    assert ours == theirs - second
    again = params.load(PARAMS / "paper2.yaml").finetune.values()
    assert second <= {(task.table, task.row) for task in again}


def test_glue_chooses_one_rate_for_a_row_and_reports_five_other_seeds(paper):
    together = runs.chosen_together(paper, "cola")
    assert len(together) == 8
    assert all(not name.endswith("-spans") for name in together)
    for name in together:
        task = paper.finetune[name]
        assert task.grid.lr == [1e-5, 2e-5, 3e-5, 4e-5]
        assert len(task.seeds) == 5


def test_per_task_rates_are_one_line_away(tmp_path):
    (tmp_path / "per-task.yaml").write_text(
        f"base: {PARAMS / 'paper.yaml'}\ntemplates: {{glue: {{grid: {{best_over: task}}}}}}\n"
    )
    found = params.load(tmp_path / "per-task.yaml")
    assert runs.chosen_together(found, "cola") == ["cola"]


def test_the_second_stage_starts_from_the_first(paper):
    stage1, stage2 = (PretrainRun(paper, f"vision-large-stage{n}", 0) for n in (1, 2))
    assert stage2.source == stage1
    assert stage2.defining()["start_from"] == stage1.id


# --- templates ----------------------------------------------------------------------------------


def read(tmp_path, text):
    (tmp_path / "p.yaml").write_text(text)
    return params.read_params(tmp_path / "p.yaml")


def test_a_template_is_copied_and_overridden_key_by_key(tmp_path):
    text = """
templates:
  a: {x: 1, y: {kind: one, p: 2, q: 3}}
  b: {like: a, y: {q: 4}}
runs:
  first: {like: b, z: 5}
  other: {like: b, y: {kind: two, r: 6}}
"""
    assert read(tmp_path, text) == {
        "runs": {
            "first": {"x": 1, "y": {"kind": "one", "p": 2, "q": 4}, "z": 5},
            "other": {"x": 1, "y": {"kind": "two", "r": 6}},
        }
    }


def test_several_bases_are_read_in_turn(tmp_path):
    (tmp_path / "one.yaml").write_text("a: {x: 1, y: 1}\n")
    (tmp_path / "two.yaml").write_text("a: {y: 2}\n")
    assert read(tmp_path, "base: [one.yaml, two.yaml]\nb: 3\n") == {"a": {"x": 1, "y": 2}, "b": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("templates: {abcd: {x: 1}}\nruns: {a: {like: abcf}}", "runs.a: no template abcf; did you"),
        (
            "templates: {a: {like: b}, b: {like: a}}\nruns: {c: {like: a}}",
            r"circular templates \(a -> b -> a\)",
        ),
    ],
)
def test_a_wrong_template_is_told(tmp_path, text, message):
    with pytest.raises(params.ParamsError, match=message):
        read(tmp_path, text)

"""Weights that others trained in the place of a run's training: taken over, evaluated, refused."""

import contextlib
import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
import workspace
from released_builds import beit_state, case, fairseq_state

import d2v
from d2v import params
from d2v.data.tokenizer import Tokenizer
from d2v.experiment import execute, released, runs
from d2v.interop.convert import convert
from d2v.model.data2vec import Student
from d2v.training import checkpoint
from d2v.util.errors import UserError

pytestmark = pytest.mark.slow
PRETRAINED = ("vision", "speech", "text")
TUNED = ("spoken-digits", "cola")

EXPERIMENT = """
base: tiny.yaml
name: others
pretrain:
  vision: {seeds: [0], released: {path: others/vision}}
  speech: {released: {path: others/speech}}
  text: {released: {path: others/text}}
finetune:
  digits: {seeds: [0]}
  spoken-digits: {seeds: [0]}
  cola: {seeds: [0]}
"""
EVALUATED = """
  spoken-digits-evaluated: &evaluated
    table: librispeech
    column: noise
    pretrain: speech
    released: {path: others/spoken-digits}
    data: spoken_digits
    metrics: [wer, cer, greedy_wer, greedy_cer]
    task: {kind: ctc}
    decode: {beam: 5, lm_weight: 1.0, word_score: 0.0}
    view: {kind: speech}
    seeds: [0]
    arms: [data2vec]
    settings: {data2vec: {lr: 1e-3, steps: 4}}
    optimiser: {betas: [0.9, 0.98], eps: 1e-8, weight_decay: 0.01, clip: 3.0}
    schedule: {kind: cosine, warmup: 0.1}
    train: {batch: 4, micro_batch: 2}
  cola-evaluated:
    <<: *evaluated
    table: glue
    column: CoLA
    pretrain: text
    released: {path: others/cola}
    data: cola
    metrics: [matthews, accuracy]
    task: {kind: classify, classes: 2, pool: first}
    decode: null
    view: {kind: text, max_tokens: 64}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny experiment's runs in one name, and under another what starts from their weights.

    Both fine-tune with equal settings. The text model goes through Hugging Face's format.
    """
    folder = workspace.make(tmp_path_factory.mktemp("released"))
    tiny = folder / "params" / "tiny.yaml"
    text = tiny.read_text()
    for old, new in (
        ("    metrics:", "    arms: [data2vec]\n    metrics:"),
        ("      scratch: {lr: 1e-3, steps: 4}\n", ""),
        (
            "grid: {lr: [1e-3], steps: [2, 6], seeds: [10]}",
            "settings: {data2vec: {lr: 1e-3, steps: 4}}",
        ),
    ):
        assert old in text
        text = text.replace(old, new)
    tiny.write_text(text)
    names = [f"pretrain/{name}/seed0" for name in PRETRAINED]
    names += [f"finetune/{name}/data2vec/seed0" for name in ("digits", *TUNED)]
    with contextlib.chdir(folder):
        for name in names:
            execute.execute(runs.load(Path("params/tiny.yaml"), name))
    (folder / "others").mkdir()
    for name in names:
        if name.split("/")[1] != "digits":
            source = folder / metrics(folder, "tiny", name)["checkpoint"]
            shutil.copytree(source, folder / "others" / name.split("/")[1])
    (folder / "others" / "text").rename(folder / "text-of-d2v")
    with contextlib.chdir(folder):  # the run's tokenizer is found by its prepared data
        convert("text-of-d2v", "hf", "others/text")
    (folder / "params" / "others.yaml").write_text(EXPERIMENT + EVALUATED)
    by_workflow = ("pretrain/text", "finetune/cola")
    workspace.carry_out(folder, "params/others.yaml", ("pretrain", "finetune"), by_workflow)
    told = workspace.snakemake(folder, file="params/others.yaml")
    assert told.returncode == 0, (told.stdout + told.stderr)[-4000:]
    return folder


def metrics(folder: Path, experiment: str, run: str) -> dict[str, Any]:
    path = folder / "results" / experiment / "runs" / run / "metrics.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("name", ["digits", *TUNED])
def test_fine_tuning_from_released_weights_is_fine_tuning_from_ones_own(done, name):
    run = f"finetune/{name}/data2vec/seed0"
    own, others = (
        done / "results" / experiment / "runs" / run / "predictions-test.tsv"
        for experiment in ("tiny", "others")
    )
    assert own.read_bytes() == others.read_bytes()


@pytest.mark.parametrize("name", TUNED)
def test_released_fine_tuned_weights_predict_as_where_they_were_made(done, name):
    own = metrics(done, "tiny", f"finetune/{name}/data2vec/seed0")
    others = metrics(done, "others", f"finetune/{name}-evaluated/data2vec/seed0")
    assert others["metrics"] == own["metrics"]
    assert others["steps"] == 0
    assert others["pretrain_run"] is None


def test_the_tables_have_rows_of_their_own(done):
    page = (done / "results" / "others" / "tables" / "glue.md").read_text()
    assert "| data2vec, released weights, fine-tuned here |" in page
    assert "| data2vec, released weights, evaluated here |" in page
    assert "(this run)" not in page
    assert "from the released weights others/text; setting" in page
    assert "evaluated here, CoLA: split test of cola; the fine-tuned weights others/cola," in page


def test_where_weights_come_from_is_noted(done):
    found = metrics(done, "others", "pretrain/vision/seed0")
    origin = found["released"]
    assert origin["path"] == "others/vision"
    assert len(origin["sha256"]) == 64
    assert not origin["verified"]
    assert found["steps"] == 0
    assert d2v.load(done / found["checkpoint"]).head is None


def test_no_data_is_asked_for_where_nothing_is_trained(done):
    experiment = params.load(done / "params" / "others.yaml")
    run = runs.parse(experiment, "pretrain/vision/seed0")
    assert run.datasets == []
    assert run.describe() == "Take over the released weights others/vision"


def test_a_tokenizer_of_a_checkpoint_gives_equal_ids(done, tmp_path):
    ours = Tokenizer(done / "prepared" / "tiny" / "tokenizer")
    convert(done / "others" / "text", "tokenizer", tmp_path / "theirs")
    theirs = Tokenizer(tmp_path / "theirs")
    assert theirs.size == ours.size
    for text in ("in the beginning", "a light  of the day"):
        assert theirs.encode(text) == ours.encode(text)
    with pytest.raises(UserError, match="it has no tokenizer"):
        convert(done / "others" / "vision", "tokenizer", tmp_path / "none")


def test_faults_are_named(done, tmp_path, monkeypatch):
    monkeypatch.chdir(done)
    experiment = params.load("params/others.yaml")
    vision = experiment.pretrain["vision"]

    def taken(**changes: Any) -> None:
        p = vision.model_copy(update=changes)
        released.take_over(p, tmp_path / "checkpoints", {})

    absent = params.Released(path="nowhere/base.pt", url="https://example.org/base.pt")
    with pytest.raises(UserError, match=r"nowhere/base\.pt: no such .*; get it from https://ex"):
        taken(released=absent)
    other = params.Released(path="others/vision", sha256=sha256(b"").hexdigest())
    with pytest.raises(UserError, match=r"others/vision: its SHA-256 is .*, not e3b0"):
        taken(released=other)
    wider = vision.backbone.model_copy(update={"heads": 4, "norm_eps": 1e-6})
    with pytest.raises(UserError, match=r"backbone\.heads is 2, not 4; backbone\.norm_eps is 1e"):
        taken(backbone=wider)
    with pytest.raises(UserError, match=r"encoder\.kind is speech, not vision"):
        taken(released=params.Released(path="others/speech"))
    assert not (tmp_path / "checkpoints").exists()

    head = experiment.finetune["cola-evaluated"]
    speech = head.model_copy(update={"released": params.Released(path="others/spoken-digits")})
    with pytest.raises(UserError, match="its head is of kind ctc with 32 outputs, but the task"):
        released.fine_tuned(speech, 2)


@pytest.mark.parametrize("name", ["audio_fastema", "text", "vision_fastema", "vision_beit_fastema"])
def test_released_files_are_the_models_of_their_recipes(name, tmp_path):
    """Files in the layouts of fairseq and data2vec_vision, with parameters of their settings."""
    made = case(name)
    state = beit_state(made) if made.family == "data2vec_vision" else fairseq_state(made)
    torch.save(state, tmp_path / "checkpoint.pt")
    weights = params.Released(path=str(tmp_path / "checkpoint.pt"))
    p = made.params.model_copy(update={"released": weights})
    found = released.take_over(p, tmp_path / "checkpoints", {"name": name})
    taken = checkpoint.load_weights(Path(found["checkpoint"]), "model.student.")
    student = Student(p.encoder, p.backbone)
    student.load_state_dict(taken)


def test_parameters_that_do_not_go_with_released_weights(done):
    text = (done / "params" / "others.yaml").read_text()
    path = done / "params" / "faulty.yaml"
    path.write_text(text.replace("vision: {seeds: [0],", "vision: {seeds: [0, 1],"))
    with pytest.raises(params.ParamsError, match="released weights allow only one seed"):
        params.load(path)
    path.write_text(text.replace("    seeds: [0]\n    arms", "    seeds: [0, 1]\n    arms"))
    with pytest.raises(params.ParamsError, match="weights allow only one seed and arms"):
        params.load(path)

"""The project's own format: whole folders, runs of the trainer, older versions."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import workspace
from own_builds import folder
from safetensors.torch import load_file, save_file

import d2v
from d2v.cli import commands as cli
from d2v.experiment import execute
from d2v.experiment.runs import load as load_run
from d2v.interop.convert import convert
from d2v.interop.module import empty
from d2v.params import load as load_params
from d2v.training import checkpoint
from d2v.util.errors import UserError

RUNS = {
    "vision": "finetune/digits/scratch/seed0",
    "speech": "finetune/spoken-digits/scratch/seed0",
    "text": "finetune/cola/scratch/seed0",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A workspace with a pre-training and two fine-tunings that are done."""
    root = workspace.make(tmp_path_factory.mktemp("runs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        path = Path("params/tiny.yaml")
        for name in ("pretrain/speech/seed0", RUNS["speech"], RUNS["text"]):
            execute.execute(load_run(path, name))
    return root


def checkpoint_of(root: Path, name: str) -> Path:
    metrics = json.loads((root / "results/tiny/runs" / name / "metrics.json").read_text())
    return root / metrics["checkpoint"]


def equal(a, b) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrain/speech/seed0", RUNS["speech"], RUNS["text"]])
def test_a_runs_checkpoint_loads_and_converts(runs, tmp_path, monkeypatch, name):
    monkeypatch.chdir(runs)
    model = d2v.load(checkpoint_of(runs, name))
    raw = checkpoint.load_weights(checkpoint_of(runs, name))
    block = "student.backbone.blocks.1.fc1.weight"
    weight = raw.get(block, raw.get(f"model.{block}"))
    assert torch.equal(model.state_dict()[block], weight)
    pretrained = name.startswith("pretrain")
    assert (model.teacher is not None) == (model.regression is not None) == pretrained
    assert (model.head is None) == pretrained
    assert model.provenance["run"] == name
    assert "metrics" in model.provenance["results"]
    out = d2v.convert(checkpoint_of(runs, name), "d2v", tmp_path / "out")
    monkeypatch.chdir(tmp_path)  # away from the prepared data
    moved = Path(shutil.move(out, tmp_path / "moved"))
    again = d2v.load(moved)
    assert equal(model, again)
    assert again.params == model.params
    assert again.inputs == model.inputs
    assert sorted(p.name for p in moved.iterdir())[:2] == ["checkpoint.json", "model.safetensors"]


def test_predictions_of_a_runs_checkpoint_are_those_of_the_run(runs, monkeypatch, capsys):
    """The command line gives what the run's own evaluation wrote."""
    monkeypatch.chdir(runs)
    rows = (runs / "results/tiny/runs" / RUNS["text"] / "predictions-test.tsv").read_text()
    wanted = [line.split("\t")[2] for line in rows.splitlines()[1:]]
    lines = (runs / "layouts/CoLA/test.tsv").read_text().splitlines()
    texts = [line.split("\t")[-1] for line in lines][-len(wanted) :]
    model = d2v.load(checkpoint_of(runs, RUNS["text"]))
    found = [f.prediction for f in d2v.classify(model, texts)]
    assert found == wanted
    rows = (runs / "results/tiny/runs" / RUNS["speech"] / "predictions-test.tsv").read_text()
    greedy = {line.split("\t")[0]: line.split("\t")[3] for line in rows.splitlines()[1:]}
    files = sorted((runs / "layouts/speech/test").rglob("*.flac"))
    model = d2v.load(checkpoint_of(runs, RUNS["speech"]))
    assert {Path(n).stem: words for n, words in d2v.transcribe(model, files)} == greedy


def test_what_hugging_face_lacks_of_a_run_is_said(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    pretrained = str(checkpoint_of(runs, "pretrain/speech/seed0"))
    assert cli.main(["convert", pretrained, "--to", "hf", "-o", str(tmp_path / "hf")]) == 0
    said = capsys.readouterr().out
    assert "the teacher's weights are left out" in said
    assert "the regression head of pre-training is left out" in said
    text = str(checkpoint_of(runs, RUNS["text"]))
    assert cli.main(["convert", text, "--to", "hf", "-o", str(tmp_path / "no")]) == 2
    assert "--drop-head" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_schema_1_is_read(runs, tmp_path, monkeypatch):
    """Version 1 wrote no kind; its folders were the trainer's."""
    monkeypatch.chdir(runs)
    old = tmp_path / "step-4"
    shutil.copytree(checkpoint_of(runs, RUNS["speech"]), old)
    meta = json.loads((old / "checkpoint.json").read_text())
    assert meta.pop("kind") == "training"
    (old / "checkpoint.json").write_text(json.dumps({**meta, "schema_version": 1}))
    assert equal(d2v.load(old), d2v.load(checkpoint_of(runs, RUNS["speech"])))
    assert checkpoint.read_meta(old)["schema_version"] == checkpoint.SCHEMA_VERSION
    assert checkpoint.load(old).step == meta["step"]
    (old / "checkpoint.json").write_text(json.dumps({**meta, "schema_version": 9}))
    with pytest.raises(UserError, match="schema version 9, but this d2v reads"):
        d2v.load(old)


def test_a_run_folder_names_its_checkpoint(runs, monkeypatch):
    monkeypatch.chdir(runs)
    with pytest.raises(UserError, match=r"did you mean .*step-4"):
        d2v.load(runs / "work/tiny" / RUNS["speech"])


@pytest.mark.parametrize("kind", ["speech", "vision", "text"])
def test_our_format_is_the_same_bits_and_bytes(tmp_path, small_prepared, kind):
    first = folder(tmp_path / "a", kind, small_prepared / "tokenizer")
    second = d2v.convert(first, "d2v", tmp_path / "b")
    weights = "model.safetensors"
    assert (first / weights).read_bytes() == (second / weights).read_bytes()
    assert equal(d2v.load(first), d2v.load(second / weights))


@pytest.mark.parametrize(
    ("file", "fault"),
    [
        ("model.safetensors", "cut"),
        ("model.safetensors", "gone"),
        ("checkpoint.json", "cut"),
        ("tokenizer.model", "gone"),
        ("checkpoint.json", "without architecture"),
        ("checkpoint.json", "impossible"),
    ],
)
def test_a_damaged_folder_is_refused_in_a_sentence(tmp_path, small_prepared, file, fault):
    made = folder(tmp_path / "a", "text", small_prepared / "tokenizer")
    path = made / file
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:50])
    elif fault == "gone":
        path.unlink()
    else:
        meta = json.loads(path.read_text())
        if fault == "impossible":
            meta["architecture"]["backbone"]["heads"] = 5
        else:
            del meta["architecture"]
        path.write_text(json.dumps(meta))
    with pytest.raises(UserError) as error:
        d2v.convert(made, "hf", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert str(made) in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("vision", {"mean": [0.4, 0.5]}, "mean: 2 values, but the model takes 3 channels"),
        ("vision", {"std": [0.2]}, "std: 1 value, but the model takes 3 channels"),
        ("vision", {"std": [0.2, 0.0, 0.2]}, "std: [0.2, 0.0, 0.2] is not above 0"),
        (
            "vision",
            {"mean": [0.4, 1e308, 0.4]},
            "mean: [0.4, 1e+308, 0.4] are not values for pixels between 0 and 1",
        ),
        (
            "vision",
            {"resize": 10**12},
            "resize: 1000000000000 is more than 32 times the model's image_size 24",
        ),
        (
            "vision",
            {"stretch": [24, 769]},
            "stretch: 769 is more than 32 times the model's image_size 24",
        ),
        ("vision", {"stretch": [24]}, "stretch: 1 value instead of height and width"),
        ("vision", {"classes": ["cat"]}, "classes: 1 name for 3 outputs of the head"),
        ("text", {"classes": list("abcd")}, "classes: 4 names for 3 outputs of the head"),
        ("text", {"max_tokens": 65}, "max_tokens: 65 is more than the model's max_positions 64"),
        ("speech", {"letters": ["<s>", "A"]}, "letters: 2 names for 32 outputs of the head"),
        ("text", {"kind": "vision"}, "vision for a model of text"),
    ],
)
def test_inputs_of_another_model_are_refused(tmp_path, kind, changes, said):
    made = folder(tmp_path / "a", kind)
    path = made / "checkpoint.json"
    meta = json.loads(path.read_text())
    meta["inputs"] = changes if "kind" in changes else meta["inputs"] | changes
    path.write_text(json.dumps(meta))
    with pytest.raises(UserError) as error:
        d2v.load(made)
    assert str(error.value) == f"{made}: its record of inputs is wrong: {said}"


def test_modules_are_made_without_memory_and_nothing_is_left_empty(tmp_path):
    made = folder(tmp_path / "a", "vision")
    model = d2v.load(made)
    assert all(p.is_meta for p in empty(model.params).parameters())
    assert not any(t.is_meta for t in (*model.parameters(), *model.buffers()))
    assert not model.training


def test_every_recipe_can_be_built(tmp_path):
    """Whatever a parameter file describes has a place in a checkpoint's architecture."""
    from d2v.interop.content import Architecture

    for path in sorted(Path("params").glob("mini*.yaml")):
        for p in load_params(path).pretrain.values():
            a = Architecture(encoder=p.encoder, backbone=p.backbone, regression=p.regression)
            assert Architecture.model_validate(a.model_dump(mode="json")) == a
            assert len(empty(a).state_dict()) > 10


def test_names_of_files_in_a_checkpoint_lead_nowhere_else(tmp_path, small_prepared):
    made = folder(tmp_path / "a", "text", small_prepared / "tokenizer")
    (tmp_path / "secret").write_text("x")
    meta = json.loads((made / "checkpoint.json").read_text())
    meta["files"].append("../secret")
    (made / "checkpoint.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"unexpected tokenizer file '../secret'"):
        d2v.convert(made, "d2v", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "secret"]


def test_a_tensor_of_a_folder_that_does_not_fit_is_named_also_by_convert(tmp_path):
    made = folder(tmp_path / "a", "vision")
    tensors = load_file(made / "model.safetensors")
    tensors["head.out.bias"] = torch.ones(3, dtype=torch.int64)
    tensors["student.encoder.cls"] = tensors["student.encoder.cls"][0]
    save_file(tensors, made / "model.safetensors")
    with pytest.raises(UserError) as error:
        d2v.convert(made, "d2v", tmp_path / "out")
    said = str(error.value)
    assert "2 errors in the tensors" in said
    assert "head.out.bias: int64, floating-point numbers are expected" in said
    assert "student.encoder.cls: [1, 32], [1, 1, 32] is expected" in said


def test_a_configuration_of_more_layers_than_tensors_builds_no_modules(tmp_path):
    made = folder(tmp_path / "a", "vision")
    meta = json.loads((made / "checkpoint.json").read_text())
    meta["architecture"]["backbone"]["depth"] = 10**9
    (made / "checkpoint.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match="1000000000 layers in its configuration, "):
        d2v.load(made)


def test_a_tokenizer_that_d2v_wrote_is_replaced(tmp_path, small_prepared):
    made = folder(tmp_path / "a", "text", small_prepared / "tokenizer")
    out = tmp_path / "set"
    assert convert(made, "tokenizer", out) == out
    before = (out / "meta.json").read_bytes()
    shutil.copytree(made, tmp_path / "b")
    convert(tmp_path / "b", "tokenizer", out)
    assert (out / "meta.json").read_bytes() != before
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"set: contains notes.txt, which d2v did not write"):
        convert(made, "tokenizer", out)
    with pytest.raises(UserError, match="already exists"):
        convert(made, "d2v", out)

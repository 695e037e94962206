"""Hugging Face folders in and out: equal outputs, equal bits, everything kept or said.

No weights are fetched: models are built from sizes and get random values.
"""

import json
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")

from closeness import LIMIT, apart  # noqa: E402
from hf_builds import MODELS, batches, model, save  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from d2v.interop.convert import convert  # noqa: E402
from d2v.interop.loading import load  # noqa: E402
from d2v.util.errors import UserError  # noqa: E402

NAMES = [f"{kind}-{size}-{n}" for kind, size, n in MODELS]


@pytest.mark.parametrize(("kind", "size", "outputs"), MODELS, ids=NAMES)
def test_a_folder_gives_the_same_hidden_states_and_logits(tmp_path, kind, size, outputs):
    made = model(kind, size, outputs)
    ours = load(save(made, tmp_path / "hf"))
    for batch, inputs in batches(kind, made):
        with torch.no_grad():
            theirs = made(**inputs, output_hidden_states=True)
        hidden, logits, padding = ours.hidden(batch)
        real = ~padding if padding is not None else torch.ones(hidden[0].shape[:2]) > 0
        assert len(hidden) == len(theirs.hidden_states)
        for a, b in zip(hidden, theirs.hidden_states, strict=True):
            assert apart(a[real], b[real]) < LIMIT
        assert (logits is None) == (outputs == 0)
        if logits is not None:
            rows = real if kind == "speech" else slice(None)
            assert logits[rows].abs().mean() > 0.01  # there is something to compare
            assert apart(logits[rows], theirs.logits[rows]) < LIMIT


@pytest.mark.parametrize(("kind", "size", "outputs"), MODELS, ids=NAMES)
def test_there_and_back_is_the_same_bits(tmp_path, kind, size, outputs):
    """Hugging Face -> d2v -> Hugging Face -> d2v, and what they load is the same model."""
    made = model(kind, size, outputs)
    source = save(made, tmp_path / "hf")
    first = convert(source, "d2v", tmp_path / "d2v")
    again = convert(first, "hf", tmp_path / "again")
    second = convert(again, "d2v", tmp_path / "second")
    ours, same = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert ours.keys() == same.keys()
    assert all(torch.equal(ours[name], same[name]) for name in ours)
    theirs, back = load_file(source / "model.safetensors"), load_file(again / "model.safetensors")
    summed = ("word_embeddings.weight", "token_type_embeddings.weight")  # here they are one
    kept = [name for name in theirs if name in back and not name.endswith(summed)]
    assert all(torch.equal(theirs[name], back[name]) for name in kept)
    loaded = type(made).from_pretrained(again)
    for _, inputs in batches(kind, made):
        with torch.no_grad():
            a, b = made(**inputs), loaded(**inputs)
        assert apart(a[0], b[0]) < LIMIT


@pytest.mark.parametrize("kind", ["speech", "vision", "text"])
def test_the_auto_class_loads_an_export_with_nothing_missing(tmp_path, kind):
    size = {"speech": "as-in-base", "vision": "shared-bias", "text": "wide"}[kind]
    folder = convert(save(model(kind, size, 0), tmp_path / "hf"), "hf", tmp_path / "out")
    _, report = transformers.AutoModel.from_pretrained(
        folder, output_loading_info=True, **({"add_pooling_layer": False} if kind == "text" else {})
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_pickled_weights_and_several_files_are_read_too(tmp_path):
    made = model("text", "wide", 3)
    whole, parts = save(made, tmp_path / "hf"), tmp_path / "parts"
    tensors = load_file(whole / "model.safetensors")
    pickled = tmp_path / "pickled"
    for folder in (pickled, parts):
        folder.mkdir()
        (folder / "config.json").write_text((whole / "config.json").read_text())
    torch.save(tensors, pickled / "pytorch_model.bin")
    names = sorted(tensors)
    weight_map = {name: f"{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(weight_map.values())):
        save_file({n: tensors[n] for n in names if weight_map[n] == file}, parts / file)
    index = {"weight_map": weight_map}
    (parts / "model.safetensors.index.json").write_text(json.dumps(index))
    expected = load(whole).state_dict()
    for folder in (pickled, parts):
        found = load(folder).state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_head_without_a_place_is_said(tmp_path):
    made = transformers.Data2VecTextForMaskedLM(model("text", "wide", 0).config)
    made.save_pretrained(tmp_path / "hf")
    content = load(tmp_path / "hf").content
    assert any("lm_head.dense" in note for note in content.notes)
    assert content.architecture.task is None


def test_every_tensor_that_does_not_fit_is_listed(tmp_path):
    folder = save(model("vision", "shared-bias", 5), tmp_path / "hf")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    gone = "data2vec_vision.encoder.layer.1.lambda_1"
    wrong = "data2vec_vision.encoder.layer.0.attention.attention.query.weight"
    del tensors[gone]
    tensors[wrong] = torch.zeros(3, 3)
    tensors["one.too.many"] = torch.zeros(1)
    save_file(tensors, path)
    with pytest.raises(UserError) as error:
        load(folder)
    said = str(error.value)
    assert "3 errors in the tensors" in said
    for line in (f"{gone}: missing", f"{wrong}: [3, 3], [32, 32] is", "one.too.many: surplus"):
        assert line in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "bert"}, "model_type 'bert' is not a data2vec model"),
        ({"hidden_act": "relu"}, "not support models with hidden_act 'relu'"),
        ({"num_attention_heads": 5}, "dim 32 is not a multiple of heads 5"),
        ({"use_relative_position_bias": True}, "use_relative_position_bias True"),
    ],
)
def test_a_model_that_cannot_be_is_refused(tmp_path, change, said):
    folder = save(model("vision", "shared-bias", 0), tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=said):
        load(folder)


@pytest.mark.parametrize("fault", ["no config", "no weights", "cut weights", "cut config"])
def test_a_folder_that_is_not_whole_is_refused_in_a_sentence(tmp_path, fault):
    folder = save(model("text", "wide", 0), tmp_path / "hf")
    config, weights = folder / "config.json", folder / "model.safetensors"
    if fault.startswith("no"):
        (config if "config" in fault else weights).unlink()
    else:
        path = config if "config" in fault else weights
        path.write_bytes(path.read_bytes()[:100])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as error:
        convert(folder, "d2v", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_existing_folder_is_left_alone(tmp_path: Path):
    folder = save(model("text", "wide", 0), tmp_path / "hf")
    other = tmp_path / "other"
    other.mkdir()
    (other / "note").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        convert(folder, "d2v", other)
    with pytest.raises(UserError, match="is the source"):
        convert(folder, "d2v", folder)
    assert (other / "note").read_text() == "mine"

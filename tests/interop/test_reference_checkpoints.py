"""Files in the layouts of the released checkpoints: the golden cases' tensors, names and shapes."""

import argparse
import json
from types import SimpleNamespace

import pytest
import torch
from closeness import LIMIT, apart
from released_builds import (
    W2V,
    Dictionary,
    Style,
    beit_state,
    case,
    config_of,
    fairseq_state,
    fine_tuned_beit,
    fine_tuned_roberta,
    fine_tuned_speech,
    fine_tuned_text,
    part,
    save_with_fairseq_objects,
    teacher_of,
)

from d2v.data.letters import LETTERS
from d2v.interop import names
from d2v.interop.convert import convert
from d2v.interop.fairseq import sizes_of
from d2v.interop.grids import window
from d2v.interop.loading import load
from d2v.model.data2vec import Data2Vec
from d2v.util.errors import UserError

CASES = ["audio_fastema", "text", "text_fastema", "vision_fastema", "vision_beit_fastema"]
GOLDEN = 4e-5  # of the golden tests: what two processors differ by


def state_of(made, **options):
    return beit_state(made) if made.family == "data2vec_vision" else fairseq_state(made, **options)


@pytest.mark.parametrize("name", CASES)
def test_predictions_and_targets_are_those_of_the_reference(tmp_path, name):
    """Student, regression head and teacher of the file give what the trace holds."""
    made = case(name)
    torch.save(state_of(made), tmp_path / "checkpoint.pt")
    ours = load(tmp_path / "checkpoint.pt")
    model = Data2Vec(made.params)
    tensors = {k.replace("regression.", "head.", 1): t for k, t in ours.state_dict().items()}
    model.load_state_dict(tensors)
    with torch.no_grad():
        out = model(made.batch(0))
    assert (out.prediction - made.tensors["step0.prediction"]).abs().max() < GOLDEN
    assert (out.target - made.tensors["step0.target"]).abs().max() < GOLDEN


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_hidden_states_are_those_of_hugging_faces_model(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    made = case(name)
    torch.save(state_of(made), tmp_path / "checkpoint.pt")
    ours = load(tmp_path / "checkpoint.pt")
    out = convert(tmp_path / "checkpoint.pt", "hf", tmp_path / "hf")
    theirs = transformers.AutoModel.from_pretrained(out)
    batch = made.batch(0, masked=False)
    hidden, logits, padding = ours.hidden(batch)
    assert logits is None
    if made.kind == "speech":
        inputs = {"input_values": batch["waves"]}
        if "samples" in batch:
            seen = torch.arange(batch["waves"].shape[1]) < batch["samples"][:, None]
            inputs["attention_mask"] = seen.long()
    elif made.kind == "vision":
        inputs = {"pixel_values": batch["images"]}
    else:
        inputs = {"input_ids": batch["tokens"], "attention_mask": (~padding).long()}
    with torch.no_grad():
        reference = theirs(**inputs, output_hidden_states=True).hidden_states
    real = ~padding if padding is not None else slice(None)
    for a, b in zip(hidden, reference, strict=True):
        assert apart(a[real], b[real]) < LIMIT


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_is_kept_to_the_bit_through_our_format_and_back(tmp_path, name):
    made = case(name)
    state = state_of(made)
    torch.save(state, tmp_path / "checkpoint.pt")
    folder = convert(tmp_path / "checkpoint.pt", "d2v", tmp_path / "d2v")
    ours = load(folder)
    tensors = {k.replace("regression.", "head.", 1): t for k, t in ours.state_dict().items()}
    student = names.to_reference(tensors, names.student(made.family, ours.params))
    teacher = names.to_reference(tensors, names.teacher(made.family, ours.params))
    there = part(made.initial, "student.")
    kept = {n: t for n, t in there.items() if not made.ignored("student." + n)}
    assert kept.keys() == student.keys()
    assert all(torch.equal(t, student[n]) for n, t in kept.items())
    there = {n: t for n, t in teacher_of(made).items() if not made.ignored("teacher." + n)}
    shared = {"embed_tokens.weight"} if made.kind == "text" else set()
    assert there.keys() - teacher.keys() == shared
    assert all(torch.equal(t, there[n]) for n, t in teacher.items())


def test_the_teacher_is_kept_and_shares_what_the_configuration_says(tmp_path):
    made = case("audio_fastema")
    torch.save(fairseq_state(made), tmp_path / "with.pt")
    ours = load(tmp_path / "with.pt")
    assert set(ours.params.shared) == {"features", "mask_embedding", "positions"}
    assert torch.equal(
        ours.teacher.backbone.blocks[1].fc1.weight, made.initial["teacher.layers.1.fc1.weight"]
    )
    position = "encoder.positions.convs.0.weight"
    assert torch.equal(ours.teacher.state_dict()[position], ours.student.state_dict()[position])
    torch.save(fairseq_state(made, teacher=False), tmp_path / "without.pt")
    without = load(tmp_path / "without.pt")
    assert without.teacher is None
    assert without.regression is not None


@pytest.mark.parametrize("args", [False, True])
def test_a_fine_tuned_speech_model(tmp_path, args):
    made = case("audio_fastema")
    state = fine_tuned_speech(made, args)
    letters = [*LETTERS[:5], *LETTERS[:4:-1]]  # another order than ours
    state["task_state"] = {"target_dictionary": Dictionary(letters)}
    path = tmp_path / "fine.pt"
    save_with_fairseq_objects(state, path)
    ours = load(path)
    assert ours.letters == letters
    assert ours.regression is ours.teacher is None
    hidden, logits, _ = ours.hidden(made.batch(1, masked=False))
    model = state["model"]
    expected = hidden[-1] @ model["w2v_encoder.proj.weight"].T + model["w2v_encoder.proj.bias"]
    assert apart(logits, expected) < LIMIT
    assert logits.std() > 0.1


def test_a_fine_tuned_text_model(tmp_path):
    made = case("text")
    torch.save(fine_tuned_text(made), tmp_path / "fine.pt")
    ours = load(tmp_path / "fine.pt")
    _, logits, _ = ours.hidden(made.batch(1, masked=False))
    assert logits.shape[1] == 3
    assert (ours.params.task.pool, ours.params.task.hidden) == ("first", True)


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("form", ["plain", "omegaconf"])
def test_a_text_model_that_the_references_glue_command_fine_tuned(tmp_path, classes, form):
    made = case("text")
    state = fine_tuned_roberta(made, classes)
    if form == "omegaconf":
        state["cfg"] = pytest.importorskip("omegaconf").OmegaConf.create(state["cfg"])
    torch.save(state, tmp_path / "checkpoint_best.pt")
    torch.save(fine_tuned_text(made, classes), tmp_path / "same.pt")
    ours = load(tmp_path / "checkpoint_best.pt")
    batch = made.batch(1, masked=False)
    hidden, logits, _ = ours.hidden(batch)
    # RobertaClassificationHead: dense, tanh, out_proj of <s>
    tensors = part(state["model"], "classification_heads.sentence_classification_head.")
    dense = torch.tanh(hidden[-1][:, 0] @ tensors["dense.weight"].T + tensors["dense.bias"])
    expected = dense @ tensors["out_proj.weight"].T + tensors["out_proj.bias"]
    assert logits.shape[1] == classes
    assert apart(logits, expected) < LIMIT
    same = load(tmp_path / "same.pt").hidden(batch)[0]
    assert all(torch.equal(a, b) for a, b in zip(hidden, same, strict=True))
    assert "encoder.lm_head.dense.weight" in " ".join(ours.content.notes)


def test_a_roberta_that_was_not_fine_tuned_is_refused(tmp_path):
    state = fine_tuned_roberta(case("text"))
    heads = [name for name in state["model"] if name.startswith("classification_heads.")]
    for name in heads:
        del state["model"][name]
    torch.save(state, tmp_path / "roberta.pt")
    with pytest.raises(
        UserError, match="model roberta does not belong to data2vec's first version"
    ):
        load(tmp_path / "roberta.pt")


@pytest.mark.parametrize("own_tables", [True, False])
def test_a_fine_tuned_vision_model(tmp_path, own_tables):
    made = case("vision_beit_fastema")
    path = tmp_path / "mp_rank_00_model_states.pt"
    torch.save(fine_tuned_beit(made, own_tables), path)
    ours = load(path)
    assert ours.student.backbone.blocks[0].fc1.weight.dtype == torch.float32
    assert ours.params.backbone.position_bias.kind == (
        "per_layer_2d" if own_tables else "shared_2d"
    )
    assert ours.inputs.mean == [0.5] * 3
    _, logits, _ = ours.hidden(made.batch(1, masked=False))
    assert logits.shape[1] == 6
    # Hugging Face's model of the same weights
    transformers = pytest.importorskip("transformers")
    out = convert(path, "hf", tmp_path / "hf")
    theirs = transformers.Data2VecVisionForImageClassification.from_pretrained(out)
    with torch.no_grad():
        found = theirs(made.batch(1, masked=False)["images"]).logits
    assert apart(found, logits) < LIMIT


def as_namespace(config):
    return SimpleNamespace(args=argparse.Namespace(**config["model"]), cfg=None)


def as_omegaconf(config):
    omegaconf = pytest.importorskip("omegaconf")
    return SimpleNamespace(args=None, cfg=omegaconf.OmegaConf.create(config))


def with_objects(config):
    config["common"] = {"log_format": Style.JSON, "tensorboard": argparse.Namespace(a=1)}
    return SimpleNamespace(args=None, cfg=config)


@pytest.mark.slow
@pytest.mark.parametrize("form", [as_namespace, as_omegaconf, with_objects])
@pytest.mark.parametrize("zipped", [True, False])
def test_configurations_are_read_as_plain_data(tmp_path, form, zipped):
    made = case("audio_fastema")
    written = form(config_of(made))
    state = {**fairseq_state(made), "args": written.args, "cfg": written.cfg}
    path = tmp_path / "checkpoint.pt"
    save_with_fairseq_objects(state, path, _use_new_zipfile_serialization=zipped)
    ours = load(path)
    assert ours.params.encoder == made.params.encoder
    assert ours.params.backbone.heads == made.params.backbone.heads
    convert(path, "d2v", tmp_path / "out")
    meta = json.loads((tmp_path / "out" / "checkpoint.json").read_text())
    assert meta["provenance"]["config"]["model"]["conv_pos"] == made.trace["config"]["conv_pos"]


def test_older_names(tmp_path):
    made = case("audio_fastema")
    state = fairseq_state(made)
    for kind in ("weight", "bias"):
        state["model"][f"final_proj.0.{kind}"] = state["model"].pop(f"final_proj.{kind}")
    torch.save(state, tmp_path / "audio.pt")
    assert load(tmp_path / "audio.pt").params.regression == "linear"
    made = case("text")
    state = fairseq_state(made)
    old = {n.replace("layernorm_embedding", "emb_layer_norm"): t for n, t in state["model"].items()}
    state["model"] = {n.replace("encoder.", "decoder.", 1): t for n, t in old.items()}
    torch.save(state, tmp_path / "text.pt")
    assert load(tmp_path / "text.pt").params.encoder.vocab_size == made.params.encoder.vocab_size


def test_gpt2_byte_pairs_get_fairseqs_ids(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    made = case("text")
    torch.save(fairseq_state(made), tmp_path / "nlp_base.pt")
    assert "no tokenizer" in load(tmp_path / "nlp_base.pt").content.notes[-1]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces = [*letters, "Ġ", "he", "Ġt", "Ġthe"]
    gpt2 = {piece: 7 * i for i, piece in enumerate(pieces)}
    (tmp_path / "encoder.json").write_text(json.dumps(gpt2))
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nh e\nĠ t\nĠt he\n")
    size = made.params.encoder.vocab_size
    filler = [f"madeupword{i:04}" for i in range(size - 5 - len(pieces))]
    lines = [f"{gpt2[piece]} {1000 - i}" for i, piece in enumerate(reversed(pieces))]
    lines += [f"{name} 0" for name in filler]
    (tmp_path / "dict.txt").write_text("".join(f"{line}\n" for line in lines))
    ours = load(tmp_path / "nlp_base.pt")
    # numbered by dict.txt behind <s> <pad> </s> <unk>: the last piece is 4
    assert ours.tokenizer("hea the") == [6, 4 + len(pieces) - 1, 4]
    # as in fairseq's BPE, the names of special symbols are letters in a text
    for name in ("<s>", "<pad>", "</s>", "<mask>"):
        assert ours.tokenizer(name) == ours.tokenizer(name[1:-1].replace("/", ""))
        assert ours.tokenizer(name) != ours.tokenizer("")
    vocab = json.loads(ours.content.files["vocab.json"])
    assert vocab["<mask>"] == size - 1
    out = convert(tmp_path / "nlp_base.pt", "hf", tmp_path / "hf")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    for text in ("hea the", " the he", "the the"):
        assert theirs(text)["input_ids"] == [0, *ours.tokenizer(text), 2]
    (tmp_path / "dict.txt").write_text("\n".join(lines[:-1]))
    with pytest.raises(UserError, match=f"{size - 1} symbols, including the special ones"):
        load(tmp_path / "nlp_base.pt")
    assert tokenizers


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer_norm_first": True}, "not support models with layer_norm_first True"),
        ({"extractor_mode": "default"}, "not support models with extractor_mode 'default'"),
        ({"_name": "data2vec_multi"}, "model data2vec_multi does not"),
        ({"conv_feature_layers": "__import__('os')"}, "is not a list of sizes"),
        ({"encoder_layers": None}, "encoder_layers|depth"),
    ],
)
def test_another_model_is_refused(tmp_path, change, said):
    made = case("audio_fastema")
    config = config_of(made)
    config["model"] |= change
    torch.save(fairseq_state(made, config), tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=said) as error:
        load(tmp_path / "checkpoint.pt")
    assert "\n" not in str(error.value)


def test_a_file_without_its_configuration_is_refused(tmp_path):
    state = {**fairseq_state(case("audio_fastema")), "cfg": None}
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="its configuration has no"):
        load(tmp_path / "checkpoint.pt")


def test_every_tensor_that_does_not_fit_is_listed_under_its_name_in_the_file(tmp_path):
    state = fine_tuned_speech(case("audio_fastema"))
    tensors = state["model"]
    del tensors[W2V + "encoder.layers.2.fc1.bias"]
    tensors[W2V + "layer_norm.weight"] = torch.zeros(5)
    tensors["quantizer.vars"] = torch.zeros(1)
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError) as error:
        load(tmp_path / "checkpoint.pt")
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    for name in ("layers.2.fc1.bias: missing", "layer_norm.weight: [5]", "quantizer.vars: surplus"):
        assert any(name in line for line in lines)


def test_sizes_are_read_without_evaluating():
    assert sizes_of("[(512,10,5)] + [(512,3,2)]*2") == [[512, 10, 5], [512, 3, 2], [512, 3, 2]]
    assert window((2 * 14 - 1) ** 2 + 3) == 14
    with pytest.raises(ValueError, match="not fit a square window"):
        window(20)

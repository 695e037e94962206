"""What is exported does in transformers' pipelines what it does here; the rest is said."""

import json

import pytest
import soundfile

transformers = pytest.importorskip("transformers")

from own_builds import CLASSES, architecture, content, folder, images, waves  # noqa: E402
from small_sets import SENTENCES  # noqa: E402

import d2v  # noqa: E402
from d2v import params  # noqa: E402
from d2v.cli import commands as cli  # noqa: E402
from d2v.data.tokenizer import Tokenizer  # noqa: E402
from d2v.interop import hf_export, own  # noqa: E402
from d2v.util.errors import UserError  # noqa: E402

transformers.utils.logging.set_verbosity_error()


def exported(tmp_path, kind, tokenizer=None):
    made = folder(tmp_path / "d2v", kind, tokenizer)
    return made, d2v.convert(made, "hf", tmp_path / "hf")


@pytest.mark.slow
def test_transcripts_of_the_pipeline_are_ours(tmp_path):
    made, out = exported(tmp_path, "speech")
    pipeline = transformers.pipeline("automatic-speech-recognition", str(out), device="cpu")
    files = waves(tmp_path)
    ours = [words for _, words in d2v.transcribe(d2v.load(made), files)]
    assert len(set(ours)) == len(files)
    for path, words in zip(files, ours, strict=True):
        wave, rate = soundfile.read(path, dtype="float32")
        said = pipeline({"raw": wave, "sampling_rate": rate})["text"]
        # a blank between two word boundaries is a second space there
        assert " ".join(said.split()) == words


def test_classes_of_images_are_ours(tmp_path):
    made, out = exported(tmp_path, "vision")
    pipeline = transformers.pipeline("image-classification", str(out), device="cpu")
    files = images(tmp_path)
    for path, found in zip(files, d2v.classify(d2v.load(made), files), strict=True):
        theirs = {row["label"]: row["score"] for row in pipeline(str(path))}
        assert set(theirs) == set(CLASSES)
        assert max(theirs, key=theirs.get) == found.prediction
        assert all(abs(theirs[name] - found.scores[name]) < 1e-5 for name in CLASSES)


def test_classes_of_texts_are_ours(tmp_path, small_prepared):
    made, out = exported(tmp_path, "text", small_prepared / "tokenizer")
    pipeline = transformers.pipeline("text-classification", str(out), device="cpu", top_k=None)
    for text, found in zip(SENTENCES, d2v.classify(d2v.load(made), SENTENCES), strict=True):
        (rows,) = pipeline([text])
        theirs = {row["label"]: row["score"] for row in rows}
        assert max(theirs, key=theirs.get) == found.prediction
        assert all(abs(theirs[name] - found.scores[name]) < 1e-5 for name in CLASSES)
    (pair,) = pipeline([{"text": "the cat", "text_pair": "a dog"}])
    (found,) = d2v.classify(d2v.load(made), ["the cat\ta dog"])
    theirs = {row["label"]: row["score"] for row in pair}
    assert all(abs(theirs[name] - found.scores[name]) < 1e-5 for name in CLASSES)


TEXTS = [
    *SENTENCES,
    "  spaces   everywhere  ",
    "UPPER, punctuation! (and) numbers 0123",
    "ﬁne ½ ＦＵＬＬ width ① ﷺ",
    "unknown ☃☃ signs ☃ here",
    "tab\tand\nline",
    "naïve café Straße ẞ İ",
    "日本語 and кириллица",
    "zero\u200bwidth \ufeff marks \xad",
    "▁ ▁▁ the sign of spaces",
    "aaaaaaaaaaaaaaaa thethethe",
    "",
    " ",
]


def test_the_tokenizer_gives_the_same_ids(tmp_path, small_prepared):
    ours = Tokenizer(small_prepared / "tokenizer")
    _, out = exported(tmp_path, "text", small_prepared / "tokenizer")
    theirs = transformers.AutoTokenizer.from_pretrained(out)
    for text in TEXTS:
        assert theirs(text)["input_ids"] == [0, *ours.encode(text), 2], text
    both = theirs("the cat", "a dog")["input_ids"]
    assert both == [0, *ours.encode("the cat"), 2, 2, *ours.encode("a dog"), 2]
    assert (theirs.mask_token_id, theirs.pad_token_id) == (ours.size - 1, 1)
    assert theirs.model_max_length == 40
    # and again from the exported folder
    encode = d2v.load(out).tokenizer
    assert [encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]


def test_what_hugging_face_cannot_express_is_said(tmp_path):
    speech = architecture("speech")
    each = speech.encoder.model_copy(update={"position_padding": "each"})
    deep = speech.backbone.model_copy(update={"deep_norm": True})
    relative = params.PositionBias(kind="per_layer_1d", max_distance=3)
    text = architecture("text")
    positions = text.encoder.model_copy(update={"absolute_positions": False})
    cases = {
        "this model's encoder.position_padding": ("speech", {"encoder": each}),
        "this model's deep_norm": ("speech", {"backbone": deep}),
        "this model's position_bias.kind, encoder.absolute_positions": (
            "text",
            {
                "backbone": text.backbone.model_copy(update={"position_bias": relative}),
                "encoder": positions,
            },
        ),
        "no head for task.kind tag": (
            "speech",
            {"task": params.Tag(kind="tag", classes=4, pool="mean"), "outputs": 4},
        ),
        "no head for task.kind classify .pool mean_max, norm False, hidden False": (
            "vision",
            {"task": params.Classify(kind="classify", classes=3, pool="mean_max")},
        ),
    }
    for number, (said, (kind, changes)) in enumerate(cases.items()):
        made = folder(tmp_path / str(number), kind, **changes)
        with pytest.raises(UserError, match=said) as error:
            d2v.convert(made, "hf", tmp_path / "hf")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "hf").exists()
    # a head alone can be left out
    assert cli.main(["convert", str(made), "--to", "hf", "-o", str(tmp_path / "hf")]) == 2
    words = ["convert", str(made), "--to", "hf", "--drop-head", "-o", str(tmp_path / "hf")]
    assert cli.main(words) == 0
    transformers.AutoModel.from_pretrained(tmp_path / "hf")


def test_the_model_card_says_data_recipe_metrics_and_licence(tmp_path):
    made = content("vision")
    made.format = "run"
    made.provenance = {
        "run": "finetune/digits/data2vec/seed0",
        "step": 6,
        "params": {"setting": {"lr": 0.001}, "data_sha256": {"digits": "abc123"}},
        "results": {
            "metrics": {"test": {"accuracy": 0.664}},
            "provenance": {"git_commit": "f00", "device": "cpu", "wall_s": 3.5},
        },
    }
    notes = hf_export.write(made, tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    for said in (
        "# finetune/digits/data2vec/seed0",
        "digits (sha256 of the prepared set: `abc123`)",
        "| test | accuracy | 0.664 |",
        '"lr": 0.001',
        "git_commit: `f00`",
        "## Licence",
        "Data2VecVisionForImageClassification",
    ):
        assert said in card
    assert notes == []
    # it survives our own format
    own.write(made, tmp_path / "own")
    d2v.convert(tmp_path / "own", "hf", tmp_path / "again")
    assert "| test | accuracy | 0.664 |" in (tmp_path / "again" / "README.md").read_text()


def test_config_names_classes_and_the_scale_of_labels(tmp_path, small_prepared):
    _, out = exported(tmp_path, "text", small_prepared / "tokenizer")
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {"0": "cat", "1": "dog", "2": "eel"}
    task = params.Regress(kind="regress", pool="first", hidden=True, scale=5.0)
    made = folder(tmp_path / "n", "text", small_prepared / "tokenizer", task=task, outputs=1)
    out = d2v.convert(made, "hf", tmp_path / "numbers")
    assert d2v.load(out).params.task.scale == 5.0
    assert transformers.AutoConfig.from_pretrained(out).problem_type == "regression"

"""features, transcribe, classify: equal to transformers, and not to depend on the batch."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from closeness import LIMIT, apart
from own_builds import architecture, folder, images, waves
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import d2v
from d2v import params
from d2v.cli import commands as cli
from d2v.data import inputs
from d2v.params import ImageInput
from d2v.util.errors import UserError
from d2v.util.files import sha256

TEXTS = ["the cat sat on the mat", "a dog", "no man is an island and no dog is", "gold"]


def given(kind, root):
    return {"speech": waves, "vision": images}[kind](root) if kind != "text" else TEXTS


@pytest.fixture
def tokenizer(small_prepared: Path) -> Path:
    return small_prepared / "tokenizer"


@pytest.mark.parametrize("kind", ["speech", "vision", "text"])
def test_a_batch_gives_what_each_input_gives_alone(tmp_path, tokenizer, kind):
    model = d2v.load(folder(tmp_path / "c", kind, tokenizer))
    files = given(kind, tmp_path)
    together = list(d2v.features(model, files))
    alone = list(d2v.features(model, files, batch_size=1))
    assert [found.name for found in together] == [str(file) for file in files]
    for a, b in zip(together, alone, strict=True):
        assert sorted(a.hidden) == list(range(model.params.backbone.depth + 1))
        for layer in a.hidden:
            assert a.hidden[layer].shape == b.hidden[layer].shape
            assert apart(a.hidden[layer], b.hidden[layer]) < LIMIT
        assert apart(a.logits, b.logits) < LIMIT
    if kind == "vision":
        assert len(together[0].hidden[0]) == 17  # with the class token
    if kind == "text":
        assert [len(f.hidden[0]) for f in together] == [
            2 + len(model.tokenizer(text)) for text in TEXTS
        ]


def batch_sizes(model, files, size=None):
    return [len(group.names) for group in inputs.batches(model, files, size)]


@pytest.mark.parametrize("padding", ["once", "each", "never"])
def test_padding_changes_no_utterance(tmp_path, padding):
    files = waves(tmp_path, (8000, 5000, 8000, 5000))
    encoder = architecture("speech").encoder.model_copy(update={"position_padding": padding})
    model = d2v.load(folder(tmp_path / padding, "speech", encoder=encoder))
    assert batch_sizes(model, files) == [2, 2]  # those of one length
    assert batch_sizes(model, files, 3) == [3, 1]
    alone = list(d2v.features(model, files, batch_size=1))
    for size in (None, 3, 4):
        found = list(d2v.features(model, files, batch_size=size))
        assert [f.name for f in found] == list(map(str, files))
        for a, b in zip(found, alone, strict=True):
            assert all(apart(a.hidden[k], b.hidden[k]) < LIMIT for k in a.hidden)
    assert model.student.encoder.positions.padding == padding


@pytest.mark.parametrize("kind", ["speech", "vision", "text"])
@pytest.mark.parametrize("layers", ["all", "1", "-2"])
def test_the_file_of_features(tmp_path, tokenizer, kind, layers, capsys):
    checkpoint, out = folder(tmp_path / "c", kind, tokenizer), tmp_path / "out.safetensors"
    files = [str(file) for file in given(kind, tmp_path)]
    words = ["features", str(checkpoint), *files, "--layers", layers, "-o", str(out)]
    assert cli.main([*words, "--device", "cpu"]) == 0
    assert f"{len(files)} inputs" in capsys.readouterr().out
    first = out.read_bytes()
    assert cli.main([*words, "--device", "cpu"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert cli.main([*words, "--device", "cpu", "--overwrite"]) == 0
    assert out.read_bytes() == first
    tensors = load_file(out)
    for i, found in enumerate(d2v.features(d2v.load(checkpoint), files)):
        wanted = found.hidden if layers == "all" else {1: found.hidden[1]}
        names = {f"{i}.hidden.{layer}" for layer in wanted} | {f"{i}.logits"}
        assert {name for name in tensors if name.startswith(f"{i}.")} == names
        for layer, states in wanted.items():
            assert tensors[f"{i}.hidden.{layer}"].dtype == torch.float32
            assert torch.equal(tensors[f"{i}.hidden.{layer}"], states)
        assert torch.equal(tensors[f"{i}.logits"], found.logits)
    with safe_open(out, framework="pt") as file:
        assert files[0] in file.metadata()["inputs"]


@pytest.mark.parametrize("kind", ["speech", "vision", "text"])
def test_files_through_transformers_give_the_same(tmp_path, tokenizer, kind):
    """Hidden states and logits of an exported folder: its processor and model, and ours."""
    transformers = pytest.importorskip("transformers")
    out = d2v.convert(folder(tmp_path / "c", kind, tokenizer), "hf", tmp_path / "hf")
    ours = d2v.load(out)
    name = {
        "speech": "AutoModelForCTC",
        "vision": "AutoModelForImageClassification",
        "text": "AutoModelForSequenceClassification",
    }[kind]
    theirs = getattr(transformers, name).from_pretrained(out)
    for item in given(kind, tmp_path):
        (found,) = d2v.features(ours, [item])
        if kind == "speech":
            processor = transformers.AutoFeatureExtractor.from_pretrained(out)
            wave, rate = soundfile.read(item, dtype="float32")
            batch = processor(wave, sampling_rate=rate, return_tensors="pt")
        elif kind == "vision":
            processor = transformers.AutoImageProcessor.from_pretrained(out)
            batch = processor(Image.open(item), return_tensors="pt")
        else:
            processor = transformers.AutoTokenizer.from_pretrained(out)
            batch = processor(item, return_tensors="pt")
        with torch.no_grad():
            reference = theirs(**batch, output_hidden_states=True)
        for layer, states in found.hidden.items():
            other = reference.hidden_states[layer][0]
            assert apart(states, other) < LIMIT
        assert apart(found.logits, reference.logits[0]) < LIMIT


def test_lines_of_a_file_are_inputs(tmp_path, tokenizer):
    model = d2v.load(folder(tmp_path / "c", "text", tokenizer))
    path = tmp_path / "lines.txt"
    path.write_text("the cat\n\na dog\tno man\n")
    found = list(d2v.features(model, [str(path), "gold"]))
    assert [f.name for f in found] == [f"{path}:1", f"{path}:3", "gold"]
    pair = model.tokenizer("a dog"), model.tokenizer("no man")
    assert len(found[1].hidden[0]) == len(pair[0]) + len(pair[1]) + 4


def test_transcripts_and_classes(tmp_path, tokenizer, capsys):
    speech = folder(tmp_path / "speech", "speech")
    files = [str(path) for path in waves(tmp_path)]
    assert cli.main(["transcribe", str(speech), *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == files
    assert lines == [f"{name}\t{words}" for name, words in d2v.transcribe(d2v.load(speech), files)]
    assert any(line.split("\t")[1] for line in lines)
    text = folder(tmp_path / "text", "text", tokenizer)
    assert cli.main(["classify", str(text), *TEXTS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == TEXTS
    assert {line.split("\t")[1] for line in lines} <= {"cat", "dog", "eel"}


@pytest.mark.parametrize(("kind", "command"), [("vision", "classify"), ("speech", "transcribe")])
def test_outputs_that_are_not_numbers_are_refused(tmp_path, kind, command, capsys):
    """The first NaN would be the largest score: a class or a letter with exit code 0."""
    made = folder(tmp_path / kind, kind)
    tensors = load_file(made / "model.safetensors")
    tensors["head.out.bias"][0] = float("nan")
    save_file(tensors, made / "model.safetensors")
    meta = json.loads((made / "checkpoint.json").read_text())
    meta["sha256"]["model.safetensors"] = sha256(made / "model.safetensors")
    (made / "checkpoint.json").write_text(json.dumps(meta))
    file, out = given(kind, tmp_path)[0], str(tmp_path / "f")
    for words in ([command], ["features", "-o", out]):
        assert cli.main([*words[:1], str(made), str(file), *words[1:]]) == 2
        said = capsys.readouterr()
        assert said.out.count("\n") == 0
        assert f"{file}: the model's outputs are not numbers" in said.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--beam", "0", "--lm", "lm"], "--beam 0: Input should be greater than 0"),
        (["--lm-weight", "nan", "--lm", "lm"], "--lm-weight nan: Input should be a finite number"),
        (["--word-score", "-1"], "--word-score -1.0: has no effect without --lm FOLDER"),
        (["--device", "meta"], "--device meta: "),
    ],
)
def test_options_that_cannot_work_are_refused(tmp_path, words, said, capsys):
    assert cli.main(["transcribe", str(tmp_path), "a.wav", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_numbers_and_tags(tmp_path, tokenizer):
    task = params.Regress(kind="regress", pool="first", hidden=True, scale=5.0)
    model = d2v.load(folder(tmp_path / "n", "text", tokenizer, task=task, outputs=1))
    (found,) = d2v.classify(model, ["the cat\ta dog"])
    (states,) = d2v.features(model, ["the cat\ta dog"], layers=2)
    assert found.prediction == pytest.approx(5 * states.logits.item())
    task = params.Tag(kind="tag", classes=4, pool="linear_softmax")
    model = d2v.load(folder(tmp_path / "t", "speech", task=task, outputs=4))
    (found,) = d2v.classify(model, waves(tmp_path, (8000,)))
    assert list(found.scores) == ["0", "1", "2", "3"]
    assert all(0 < score < 1 for score in found.scores.values())


def test_beam_search_with_a_language_model(tmp_path, small_prepared):
    from d2v.cli import prepare

    source = tmp_path / "layout"
    from small_sets import speech_tree

    speech_tree(source)
    prepare.main(["lm", str(source / "train"), "--order", "2", "-o", str(tmp_path / "lm")])
    model = d2v.load(folder(tmp_path / "c", "speech"))
    files = waves(tmp_path, (8000, 12000))
    known = set((tmp_path / "lm" / "lexicon.txt").read_text().split())
    decode = params.Decode(beam=5, word_score=1.0)
    for _, words in d2v.transcribe(model, files, tmp_path / "lm", decode):
        assert set(words.split()) <= known


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["features", "C", "absent.wav"], "absent.wav: not a readable audio file"),
        (["features", "C", "44.wav"], "44100 Hz, 1 channel; 16000 Hz"),
        (["features", "C", "short.wav"], "20 samples, too few"),
        (["features", "C", "0.flac", "--layers", "7"], "no layer 7: this model has layers 0"),
        (["features", "C", "0.flac", "--layers", "x"], "--layers x"),
        (["features", "C", "0.flac", "--device", "cuda:99"], "--device cuda:99"),
        (["classify", "C", "0.flac"], "not for classification or regression; use `d2v transcribe`"),
    ],
)
def test_wrong_inputs_are_said_and_nothing_is_written(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "C", "speech")
    waves(tmp_path, (8000,))
    soundfile.write("44.wav", np.zeros(44_100), 44_100)
    soundfile.write("short.wav", np.zeros(20), 16_000)
    before = sorted(tmp_path.iterdir())
    assert cli.main(words) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_failed_command_leaves_no_folders_and_replaces_no_new_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "C", "vision")
    assert cli.main(["features", "C", "absent.png", "-o", "new/a/f"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["C"]
    given = images(tmp_path)

    def reading(*_):  # takes seconds
        Path("f").write_text("mine")
        return d2v.load("C")

    monkeypatch.setattr("d2v.cli.inference._model", reading)
    assert cli.main(["features", "C", str(given[0]), "-o", "f"]) == 2
    assert "error: f: already exists" in capsys.readouterr().err
    assert Path("f").read_text() == "mine"


def test_a_model_without_a_tokenizer_or_letters_says_so(tmp_path):
    with pytest.raises(UserError, match="it has no tokenizer"):
        list(d2v.features(d2v.load(folder(tmp_path / "t", "text")), ["x"]))
    with pytest.raises(UserError, match="not for transcription; use `d2v classify`"):
        list(d2v.transcribe(d2v.load(folder(tmp_path / "v", "vision")), []))


def test_images_are_sized_as_the_checkpoint_says(tmp_path):
    files = images(tmp_path, ((48, 30), (24, 24), (9, 11)))
    made = folder(tmp_path / "c", "vision")
    model = d2v.load(made)
    for change in ({}, {"resize": 26}, {"stretch": [24, 24]}):
        model.content.inputs = model.inputs.model_copy(update=change)
        assert [len(f.hidden[0]) for f in d2v.features(model, files)] == [17, 17, 17]


@pytest.mark.slow
@pytest.mark.parametrize("turned", [False, True])
def test_images_are_cut_as_torchvision_cuts_them(turned):
    """Sides of 300 to 500 x 500: all of which have the middle at another place."""
    from torchvision.transforms import v2

    from d2v.data.augment import resized
    from d2v.data.sizing import sized

    steps = [v2.Resize(256, v2.InterpolationMode.BICUBIC), v2.CenterCrop(224)]
    how = ImageInput(mean=[0.5] * 3, std=[0.5] * 3, resize=256)
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 1), dtype=np.uint8)
    for side in range(300, 501):
        pixels = noise[:, :side] if turned else noise[:side]
        expected = np.asarray(v2.Compose(steps)(Image.fromarray(pixels[..., 0])))
        assert np.array_equal(sized(pixels, 224, how)[..., 0], expected), side
        picture = Image.fromarray(pixels[..., 0])
        assert np.array_equal(resized(picture, 256, 224, pixels.shape[:2])[..., 0], expected), side


PAGES = ("README.md", "docs/checkpoints.md")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_snippets_of_the_pages_run(tmp_path, small_prepared, monkeypatch):
    """Blocks called py, in a folder that has the files that they name."""
    pytest.importorskip("transformers")
    from released_builds import beit_state, case, fairseq_state
    from small_sets import speech_tree

    from d2v.cli import prepare

    monkeypatch.chdir(tmp_path)
    torch.save(fairseq_state(case("audio_fastema")), "audio_base_ls.pt")
    torch.save(beit_state(case("vision_beit_fastema")), "checkpoint-799.pth")
    d2v.convert(folder(tmp_path / "speech", "speech"), "hf", "speech-hf")
    d2v.convert(tmp_path / "speech", "torch-export", "exported")
    folder(tmp_path / "digits", "vision")
    for made, name in zip((*waves(tmp_path), *images(tmp_path)), SNIPPET_FILES, strict=False):
        made.rename(name)
    prepare.main(["lm", str(speech_tree(tmp_path / "tree") / "train"), "--order", "2", "-o", "lm"])
    found = [
        code
        for page in PAGES
        for code in re.findall(r"^```py\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)
    ]
    assert len(found) >= 4
    for code in found:
        exec(compile(code, "snippet", "exec"), {})
        for made in tmp_path.glob("checkpoint-799-*"):
            shutil.rmtree(made)


SNIPPET_FILES = ("a.flac", "b.wav", "c.flac", "d.wav", "a.jpg", "b.jpg")

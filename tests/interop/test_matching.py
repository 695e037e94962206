"""Weights and data that do not belong together are mapped where that is exact, else refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import workspace
import yaml
from own_builds import content, folder, waves
from safetensors.torch import load_file, save_file

import d2v
from d2v import params
from d2v.cli import commands as cli
from d2v.cli import prepare
from d2v.data import inputs_of
from d2v.data.letters import LETTERS
from d2v.evaluation.ctc import greedy
from d2v.interop import inference, matching, own
from d2v.interop.own import read
from d2v.params import ImageInput, TokenInput, WaveInput
from d2v.training import checkpoint
from d2v.util.errors import UserError

IMAGES = ImageInput(mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.25])
WAVES = WaveInput()
TOKENS = TokenInput(max_tokens=40, sha256="a" * 64, pieces="b" * 64)


# --- what is compared -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "data", "said"),
    [
        (
            IMAGES,
            {"mean": [0.485, 0.456, 0.406]},
            "mean of pixels is 0.4 0.5 0.6 in the weights but 0.485",
        ),
        (IMAGES, {"std": [0.5] * 3}, "deviation of pixels is 0.2 0.3 0.25 in the weights but 0.5"),
        (WAVES, {"rate": 8000}, "sampling rate is 16000 in the weights but 8000 in the data"),
        (WAVES, {"normalise": False}, "normalisation of waveforms is True in the weights but"),
        (
            TOKENS,
            {"sha256": "c" * 64, "pieces": "d" * 64},
            "tokenizer is aaaaaaaaaaaa in the weights but cccccccccccc in the data",
        ),
        (TOKENS, {"sha256": "c" * 64, "pieces": None}, "tokenizer is aaaaaaaaaaaa in the weights"),
    ],
)
def test_what_differs_is_refused_with_both_values(weights: Any, data: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        matching.check_inputs(weights, weights.model_copy(update=data), "weights.pt")
    assert "\n" not in str(error.value)


def test_what_is_equal_or_said_or_not_known_is_let_through() -> None:
    for same in (IMAGES, WAVES, TOKENS):
        assert matching.check_inputs(same, same, "w") == []
    close = IMAGES.model_copy(update={"mean": [0.4000001, 0.5, 0.6]})
    assert matching.check_inputs(IMAGES, close, "w") == []
    # one tokenizer in two formats
    other = TOKENS.model_copy(update={"sha256": "c" * 64})
    assert matching.check_inputs(TOKENS, other, "w") == []
    # the recipes of vision name another normalisation for fine-tuning
    half = IMAGES.model_copy(update={"mean": [0.5] * 3})
    (line,) = matching.check_inputs(IMAGES, half, "w", chosen=True)
    assert line.startswith("w: mean of pixels 0.4 0.5 0.6 of the weights, 0.5 0.5 0.5 of the data")
    (line,) = matching.check_inputs(ImageInput(), IMAGES, "w")
    assert line == "w: not known, so not compared: mean of pixels, deviation of pixels"
    (line,) = matching.check_inputs(TokenInput(max_tokens=4), TOKENS, "w")
    assert line == "w: not known, so not compared: tokenizer"


@pytest.mark.parametrize("kind", ["vision", "speech", "text"])
def test_outputs_are_put_into_the_order_of_the_datas_names(kind: str) -> None:
    made = content(kind)
    field = "letters" if kind == "speech" else "classes"
    names = getattr(made.inputs, field)
    turned = [*names[2:], *names[:2]]
    data = made.inputs.model_copy(update={field: turned})
    found, lines = matching.fitted(made, data)
    assert getattr(found.inputs, field) == turned
    for part in ("weight", "bias"):
        before, after = (c.tensors[f"head.out.{part}"] for c in (made, found))
        assert not torch.equal(before, after)
        for name in names:
            assert torch.equal(before[names.index(name)], after[turned.index(name)])
    assert f"{kind}: the head's {field} are put into the data's order" in lines
    assert matching.fitted(made, made.inputs)[0] is made


def test_other_names_are_refused_with_both() -> None:
    made = content("vision")
    data = made.inputs.model_copy(update={"classes": ["cat", "cow", "dog"]})
    with pytest.raises(UserError, match="classes are 'eel' in the weights but 'cow' in the data"):
        matching.fitted(made, data)
    twice = made.inputs.model_copy(update={"classes": ["cat", "cat", "eel"]})
    with pytest.raises(UserError, match="are 'dog' in the weights but 'cat', 'cat', 'eel' in the"):
        matching.fitted(made, twice)
    made.inputs = made.inputs.model_copy(update={"classes": None})
    _, (line,) = matching.fitted(made, data)
    assert line == "vision: not known, so not compared: names of classes"


def test_classes_of_imagenet_are_known_by_number_or_in_words() -> None:
    made = content("vision")
    words = ["tench, Tinca tinca", "goldfish, Carassius auratus", "crane"]
    numbers = ["n01440764", "n01443537", "n02012849"]
    data = made.inputs.model_copy(update={"classes": numbers})
    made.inputs = made.inputs.model_copy(update={"classes": words})
    assert matching.fitted(made, data) == (made, [])
    made.inputs = made.inputs.model_copy(update={"classes": words[::-1]})
    found, _ = matching.fitted(made, data)
    before, after = (c.tensors["head.out.bias"] for c in (made, found))
    assert torch.equal(before.flip(0), after)
    with pytest.raises(UserError, match="'crane' in the weights but 'n00000001' in the data"):
        matching.fitted(made, data.model_copy(update={"classes": [*numbers[:2], "n00000001"]}))


def test_a_tokenizer_has_one_hash_in_a_set_and_in_a_checkpoint(
    tmp_path: Path, small_prepared: Path
) -> None:
    """And in Hugging Face's format its ids stand for the same pieces."""
    pytest.importorskip("tokenizers")
    ours = folder(tmp_path / "d2v", "text", small_prepared / "tokenizer")
    theirs = d2v.convert(ours, "hf", tmp_path / "hf")
    encoder, view = content("text").architecture.encoder, {"max_tokens": 40}
    data = inputs_of(small_prepared, "SST-2", view, encoder)
    sets = json.loads((small_prepared / "tokenizer" / "meta.json").read_text())
    first, second = (matching.described(d2v.load(path).content) for path in (ours, theirs))
    assert isinstance(data, TokenInput)
    assert isinstance(first, TokenInput)
    assert isinstance(second, TokenInput)
    assert first.sha256 == data.sha256 == sets["sha256"] != second.sha256
    assert first.pieces == data.pieces == second.pieces != None  # noqa: E711
    assert matching.check_inputs(second, data, "w") == []
    # converted, it has the hash of the set that `d2v prepare glue` is given
    d2v.convert(theirs, "tokenizer", tmp_path / "set")
    written = json.loads((tmp_path / "set" / "meta.json").read_text())
    assert written["sha256"] == second.sha256


def test_letters_in_another_order_are_decoded_with_a_language_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search gets them in its own order; here it reads the best path."""
    monkeypatch.setattr(inference, "BeamSearch", lambda language, decode: greedy)
    monkeypatch.setattr(inference, "Language", lambda lm, letters: lm)
    lm = tmp_path / "lm"
    lm.mkdir()
    for name in ("lexicon.txt", "lm.arpa"):
        (lm / name).touch()
    (lm / "tokens.txt").write_text("".join(f"{letter}\n" for letter in LETTERS))
    made = content("speech")
    turned = [*LETTERS[:5], *LETTERS[:4:-1]]
    other, _ = matching.fitted(made, made.inputs.model_copy(update={"letters": turned}))
    own.write(made, tmp_path / "same")
    own.write(other, tmp_path / "other")
    files = waves(tmp_path)
    same, said = (
        list(d2v.transcribe(d2v.load(tmp_path / name), files, lm)) for name in ("same", "other")
    )
    assert said == same
    assert len({words for _, words in same}) > 1
    strange = made.inputs.model_copy(update={"letters": [*LETTERS[:-1], "Ä"]})
    made.inputs = strange
    own.write(made, tmp_path / "strange")
    with pytest.raises(UserError, match="letters are 'Ä' in the weights but 'Z' in the data"):
        list(d2v.transcribe(d2v.load(tmp_path / "strange"), files, lm))


def test_another_rate_is_refused(tmp_path: Path) -> None:
    made = content("speech")
    made.inputs = made.inputs.model_copy(update={"rate": 8000})
    own.write(made, tmp_path / "slow")
    with pytest.raises(UserError, match="takes 8000 Hz, but audio is read at 16000 Hz"):
        list(d2v.features(d2v.load(tmp_path / "slow"), waves(tmp_path)))


# --- where weights meet data ----------------------------------------------------------------------

RUNS = ("pretrain/vision/seed0", "finetune/digits/data2vec/seed0")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pre-trainings of images and texts and a fine-tuning of digits, done."""
    root = workspace.make(tmp_path_factory.mktemp("matching"))
    path = root / "params" / "tiny.yaml"
    raw = yaml.safe_load(path.read_text())
    digits = raw["finetune"]["digits"]
    del digits["grid"]
    digits |= {
        "arms": ["data2vec"],
        "seeds": [0],
        "settings": {"data2vec": {"lr": 1e-3, "steps": 4}},
    }
    path.write_text(yaml.safe_dump(raw))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in (*RUNS, "pretrain/text/seed0"):
            assert run("tiny", name) == 0
        shutil.copytree(checkpoint_of(root, "tiny", RUNS[1]), root / "fine")
        d2v.convert("fine", "d2v", "same")
    return root


def run(experiment: str, name: str) -> int:
    words = ["run", name, "--params", f"params/{experiment}.yaml", "--launch", "debug"]
    return cli.main(words)


def checkpoint_of(root: Path, experiment: str, name: str) -> Path:
    found = json.loads((root / "results" / experiment / "runs" / name / "metrics.json").read_text())
    return root / found["checkpoint"]


def predictions(root: Path, experiment: str, name: str) -> str:
    folder = root / "results" / experiment / "runs" / name
    return (folder / "predictions-test.tsv").read_text()


def changed(root: Path, name: str, change: Any) -> None:
    """Another experiment: the tiny one with a change of its fine-tunings."""
    raw = yaml.safe_load((root / "params" / "tiny.yaml").read_text())
    raw["name"] = name
    change(raw["finetune"])
    (root / "params" / f"{name}.yaml").write_text(yaml.safe_dump(raw))


def released(path: str, **view: Any) -> Any:
    def change(tasks: dict[str, Any]) -> None:
        tasks["digits"] |= {"released": {"path": path}}
        tasks["digits"]["view"] = {**tasks["digits"]["view"], **view}

    return change


@pytest.mark.slow
def test_released_classes_in_another_order_score_as_their_names_say(
    done: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(done)
    shutil.copytree(done / "same", done / "turned")
    meta = json.loads((done / "turned" / "checkpoint.json").read_text())
    meta["inputs"]["classes"].reverse()
    (done / "turned" / "checkpoint.json").write_text(json.dumps(meta))
    tensors = load_file(done / "turned" / "model.safetensors")
    for part in ("weight", "bias"):
        tensors[f"head.out.{part}"] = tensors[f"head.out.{part}"].flip(0).contiguous()
    save_file(tensors, done / "turned" / "model.safetensors")
    for name in ("same", "turned"):
        changed(done, name, released(name))
        assert run(name, RUNS[1]) == 0
    said = capfd.readouterr().out
    assert "turned: the head's classes are put into the data's order" in said
    own = predictions(done, "tiny", RUNS[1])
    assert predictions(done, "same", RUNS[1]) == predictions(done, "turned", RUNS[1]) == own
    assert len({line.split("\t")[2] for line in own.splitlines()[1:]}) > 1
    found = json.loads((done / "results/turned/runs" / RUNS[1] / "metrics.json").read_text())
    assert any("order" in note for note in found["released"]["notes"])


@pytest.mark.slow
def test_another_normalisation_than_the_checkpoints_is_refused(
    done: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(done)
    changed(done, "halves", released("same", normalise="half"))
    assert run("halves", RUNS[1]) == 2
    said = capfd.readouterr()
    mean = json.loads((done / "prepared/tiny/digits/meta.json").read_text())["mean"][0]
    assert f"error: same: mean of pixels is {mean:.4g}" in said.err
    assert "0.5 0.5 0.5 in the data" in said.err
    assert not (done / "results" / "halves" / "runs" / RUNS[1]).exists()


@pytest.mark.slow
def test_fine_tuning_on_another_tokenizer_is_refused(
    done: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of the same size: only what the ids stand for differs."""
    monkeypatch.chdir(done)
    name = "finetune/cola/data2vec/seed0"
    shutil.copytree(done / "prepared", done / "kept")
    corpus = done / "layouts" / "other"
    corpus.mkdir()
    text = (done / "layouts" / "corpus").glob("*.txt")
    whole = "\n".join(path.read_text() for path in text)
    (corpus / "turned.txt").write_text(whole.translate(str.maketrans("aeiou", "eioua")))
    try:
        prepare.main(["tokenizer", str(corpus), "--vocab-size", "60", "-o", "prepared/tiny/second"])
        shutil.rmtree("prepared/tiny/cola")
        words = ["glue", "CoLA", "layouts/CoLA", "--tokenizer", "prepared/tiny/second"]
        prepare.main([*words, "-o", "prepared/tiny/cola"])
        capfd.readouterr()
        assert run("tiny", name) == 2
        said = capfd.readouterr().err
        for set_ in ("corpus", "cola"):
            meta = json.loads((done / "prepared/tiny" / set_ / "meta.json").read_text())
            assert meta["tokenizer"][:12] in said
        assert said.startswith("error: pretrain/text/seed0: tokenizer ")
        assert not (done / "work/tiny" / name / "checkpoints").exists()
        # from scratch there is nothing to compare
        assert run("tiny", "finetune/cola/scratch/seed0") == 0
    finally:
        shutil.rmtree(done / "prepared")
        (done / "kept").rename(done / "prepared")


def test_fine_tuning_on_other_colours_is_refused_unless_the_view_names_them(
    done: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(done)
    source = checkpoint_of(done, "tiny", RUNS[0])
    meta = checkpoint.read_meta(source)
    assert inputs_of(
        Path("prepared/tiny"),
        "digits",
        {},
        params.load("params/tiny.yaml").pretrain["vision"].encoder,
    ) == ImageInput(**meta["inputs"])
    kept = (source / "checkpoint.json").read_text()
    try:
        other = {**meta["inputs"], "mean": [0.1, 0.2, 0.3]}
        (source / "checkpoint.json").write_text(json.dumps({**meta, "inputs": other}))
        shutil.copytree("results/tiny", "results/colours")
        shutil.rmtree("results/colours/runs/finetune")
        changed(done, "colours", lambda tasks: None)
        assert run("colours", RUNS[1]) == 2
        said = capfd.readouterr().err
        assert said.startswith(f"error: {RUNS[0]}: mean of pixels is 0.1 0.2 0.3 in the weights")
        changed(done, "colours", lambda t: t["digits"]["view"].update(normalise="half"))
        assert run("colours", RUNS[1]) == 0
        said = capfd.readouterr().out
        assert "0.1 0.2 0.3 of the weights, 0.5 0.5 0.5 of the data, as view.normalise says" in said
        # a checkpoint from before there were records
        del meta["inputs"]
        (source / "checkpoint.json").write_text(json.dumps(meta))
        shutil.rmtree("results/colours/runs/finetune")
        assert run("colours", RUNS[1]) == 0
        said = capfd.readouterr().out
        assert (
            said.count("its checkpoint does not record its inputs, so they are not compared") == 1
        )
    finally:
        (source / "checkpoint.json").write_text(kept)


def test_a_runs_checkpoint_knows_its_inputs_where_its_data_is_gone_or_another(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done)
    there = read(done / "fine")
    assert isinstance(there.inputs, ImageInput)
    assert there.inputs.classes is not None
    monkeypatch.chdir(tmp_path)
    assert read(done / "fine").inputs == there.inputs
    # of an older one, the prepared set is asked, if it is still the same
    old = shutil.copytree(done / "fine", tmp_path / "old")
    meta = json.loads((old / "checkpoint.json").read_text())
    del meta["inputs"]
    (old / "checkpoint.json").write_text(json.dumps(meta))
    gone = read(old)
    assert isinstance(gone.inputs, ImageInput)
    assert gone.inputs.mean is None
    assert gone.notes == ["digits is not there: what its inputs were is not known"]
    monkeypatch.chdir(done)
    assert read(old).inputs == there.inputs
    meta["params"]["data_sha256"]["digits"] = "0" * 64
    (old / "checkpoint.json").write_text(json.dumps(meta))
    other = read(old)
    assert isinstance(other.inputs, ImageInput)
    assert other.inputs.mean is None
    assert other.notes == ["digits has changed since: what its inputs were is not known"]


def test_grey_images_have_one_mean(small_prepared: Path) -> None:
    grey = params.PatchEncoder(kind="vision", image_size=24, patch_size=6, channels=1)
    for view in ({}, {"normalise": "half"}):
        found = inputs_of(small_prepared, "images", view, grey)
        assert isinstance(found, ImageInput)
        assert found.mean is not None
        assert np.shape(found.mean) == np.shape(found.std) == (1,)

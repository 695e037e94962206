"""What inference takes is checked as preparation checks it, and read to the same values."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from own_builds import folder, images
from PIL import Image
from small_sets import speech_tree, write_lines
from torchvision.transforms import v2

import d2v
from d2v.cli import commands as cli
from d2v.cli import prepare
from d2v.data import inputs
from d2v.data.augment import resized
from d2v.data.encodings import encoding
from d2v.data.ngram import write_arpa
from d2v.data.sizing import sized
from d2v.data.sound import RATE
from d2v.params import ImageInput
from d2v.training import devices
from d2v.util.errors import UserError

PATH_LIKE = (
    "reveiws.txt",
    "/nowhere/reviews.txt",
    "./x",
    "../x",
    "~/x",
    "a/b",
    "/my texts/a b",
    "~/my text",
    "x.tsv",
    "X.JPG ",
    "missing.text",
)


@pytest.fixture
def tokenizer(small_prepared: Path) -> Path:
    return small_prepared / "tokenizer"


# --- texts, and what only looks like one --------------------------------------------------------


@pytest.mark.parametrize("item", PATH_LIKE)
def test_a_mistyped_file_name_is_no_text(tmp_path, tokenizer, item, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "c", "text", tokenizer)
    assert cli.main(["classify", "c", item]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{item}: no such file" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("", "an empty text"),
        (" \t", "an empty text"),
        (".", r"\.: a folder"),
        ("-", "-: standard input is not read"),
        ("the cat\ta dog\tno man", "no man: 3 columns separated by tabs"),
        ("caf\udce9 was good", "was good: not UTF-8"),
        (("the cat", "caf\udce9"), "0: not UTF-8"),
    ],
)
def test_a_folder_and_nothing_are_no_text(tmp_path, tokenizer, item, said):
    model = d2v.load(folder(tmp_path / "c", "text", tokenizer))
    with pytest.raises(UserError, match=said):
        list(d2v.classify(model, [item]))


def test_texts_with_dots_and_slashes_are_texts(tmp_path, tokenizer):
    model = d2v.load(folder(tmp_path / "c", "text", tokenizer))
    texts = ["the cat and/or a dog", "no man is an island.", "gold 1.5", "the cat...", "a: b"]
    assert [name for name, _ in inputs.expanded(model, texts)] == texts
    lines = write_lines(tmp_path / "reviews.txt", "the cat", "a/b.txt")  # in a file all are texts
    assert [text for _, text in inputs.expanded(model, [str(lines)])] == ["the cat", "a/b.txt"]


def test_a_pair_is_given_with_a_tab_or_as_a_tuple(tmp_path, tokenizer):
    model = d2v.load(folder(tmp_path / "c", "text", tokenizer))
    given = ["the cat\ta dog", ("the cat", "a dog"), ("the\tcat", "a dog")]
    tab, pair, spaced = (i.value for i in inputs.read(model, given))
    assert np.array_equal(tab, pair)
    assert np.array_equal(pair, spaced)  # a tab inside a text is a space
    assert (tab == 2).sum() == 3


def test_bytes_of_the_command_line_that_are_no_text_are_one_sentence(tmp_path, tokenizer, capsys):
    """As os.fsdecode gives them."""
    model = folder(tmp_path / "c", "text", tokenizer)
    assert cli.main(["classify", str(model), "caf\udce9 was good"]) == 2
    assert capsys.readouterr().err.endswith("was good: not UTF-8; write the text in UTF-8\n")


def test_a_checkpoint_is_no_prepared_tokenizer(tmp_path, tokenizer, capsys):
    made = folder(tmp_path / "c", "text", tokenizer)
    (tmp_path / "CoLA").mkdir()
    for split in ("train", "dev"):
        write_lines(tmp_path / "CoLA" / f"{split}.tsv", "gj04\t1\t\tthe cat", "gj04\t0\t*\tcat the")
    words = ["prepare", "glue", "CoLA", str(tmp_path / "CoLA"), "--tokenizer", str(made)]
    assert cli.main([*words, "-o", str(tmp_path / "set")]) == 2
    assert "`d2v convert CKPT --to tokenizer`" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["lexicon.txt", "tokens.txt", "lm.arpa"])
def test_a_folder_that_is_no_language_model_is_told(tmp_path, capsys, name):
    made = folder(tmp_path / "c", "speech")
    lm = tmp_path / "lm"
    lm.mkdir()
    for other in {"lexicon.txt", "tokens.txt", "lm.arpa"} - {name}:
        (lm / other).touch()
    soundfile.write(tmp_path / "x.wav", np.zeros(8000), RATE)
    assert cli.main(["transcribe", str(made), str(tmp_path / "x.wav"), "--lm", str(lm)]) == 2
    said = capsys.readouterr().err
    assert f"{lm}: not a prepared language model (no {name}); make one with `d2v prepare" in said


@pytest.mark.parametrize("kind", ["speech", "vision"])
def test_missing_files_of_other_kinds_are_named(tmp_path, kind):
    model = d2v.load(folder(tmp_path / "c", kind))
    with pytest.raises(UserError, match="nowhere"):
        list(inputs.read(model, [tmp_path / "nowhere.bin"]))


def byte_pairs() -> dict[str, bytes]:
    """GPT-2's alphabet of bytes without any merge, under fairseq's special tokens."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in seen] + [chr(256 + n) for n in range(256 - len(seen))]
    vocab = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    for letter in sorted(letters):
        vocab.setdefault(letter, len(vocab))
    vocab["<mask>"] = len(vocab)
    return {"vocab.json": json.dumps(vocab).encode(), "merges.txt": b"#version: 0.2\n"}


SPECIAL = "use <s> and </s> tags <pad> <mask> <unk>"


def test_special_tokens_in_a_text_are_letters():
    files = byte_pairs()
    made = encoding("bpe", files)
    ids = made.encode(SPECIAL)
    assert not {0, 1, 2, 3, made.size - 1} & set(ids)
    assert made.decode(ids) == SPECIAL
    assert len(ids) == len(SPECIAL)  # no merges: a byte each


def test_special_tokens_are_letters_for_a_tokenizer_json():
    """As transformers exports it, with padding and truncation switched on."""
    tokenizers = pytest.importorskip("tokenizers")
    vocab = json.loads(byte_pairs()["vocab.json"])
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    made.enable_padding(length=99, pad_id=1, pad_token="<pad>")
    made.enable_truncation(5)
    ids = encoding("tokenizers", {"tokenizer.json": made.to_str().encode()}).encode(SPECIAL)
    assert not {0, 1, 2, 3, len(vocab) - 1} & set(ids)
    assert len(ids) == len(SPECIAL)


def test_special_tokens_reach_no_example_of_a_prepared_set(tokenizer):
    """Sentencepiece spells them, or knows their letters not."""
    made = encoding(
        "sentencepiece", {"tokenizer.model": (tokenizer / "tokenizer.model").read_bytes()}
    )
    assert not {0, 1, 2, made.size - 1} & set(made.encode(SPECIAL))


# --- sounds -------------------------------------------------------------------------------------


def broken_waves(root: Path) -> dict[str, str]:
    """Sound files that preparation refuses, and what it says."""
    wave = np.sin(np.arange(8000) / 9).astype(np.float32) / 2
    for name, bad in (("nan", np.nan), ("inf", np.inf)):
        other = wave.copy()
        other[100] = bad
        soundfile.write(root / f"{name}.wav", other, RATE, subtype="FLOAT")
    soundfile.write(root / "ok.wav", wave, RATE)
    soundfile.write(root / "ok.flac", wave, RATE)
    for kind in ("wav", "flac"):
        payload = (root / f"ok.{kind}").read_bytes()
        (root / f"half.{kind}").write_bytes(payload[: len(payload) // 2])
    payload = bytearray((root / "ok.flac").read_bytes())
    payload[26] ^= 255  # the checksum of the samples
    (root / "sum.flac").write_bytes(payload)
    (root / "none.wav").write_bytes(b"")
    soundfile.write(root / "stereo.wav", np.zeros((800, 2)), RATE)
    return {
        "nan.wav": "corrupt audio .samples that are not numbers",
        "inf.wav": "corrupt audio .samples that are not numbers",
        "half.wav": "corrupt audio .8,022 of 16,044 bytes",
        "half.flac": "corrupt audio",
        "sum.flac": "corrupt audio .samples differ from their checksum",
        "none.wav": "an empty file",
        "stereo.wav": "16000 Hz, 2 channel",
    }


def test_broken_sounds_are_refused_by_transcribing_and_features(tmp_path, capsys):
    model = folder(tmp_path / "c", "speech")
    for name, said in broken_waves(tmp_path).items():
        path = tmp_path / name
        with pytest.raises(UserError, match=f"{name}: {said}"):
            list(d2v.transcribe(d2v.load(model), [path]))
    out = tmp_path / "out.safetensors"
    assert cli.main(["features", str(model), str(tmp_path / "nan.wav"), "-o", str(out)]) == 2
    assert "nan.wav: corrupt audio" in capsys.readouterr().err
    assert not out.exists()
    assert len(list(d2v.transcribe(d2v.load(model), [tmp_path / "ok.wav"]))) == 1


def test_a_wave_is_that_of_preparation(tmp_path):
    """FLAC and WAV of the same samples, to the bit."""
    model = d2v.load(folder(tmp_path / "c", "speech"))
    wave = np.random.default_rng(0).integers(-9000, 9000, 4000, np.int16)
    for kind in ("flac", "wav"):
        soundfile.write(tmp_path / f"a.{kind}", wave, RATE)
    one, two = (i.value for i in inputs.read(model, [tmp_path / "a.flac", tmp_path / "a.wav"]))
    assert np.array_equal(one, two)
    scaled = wave.astype(np.float32) / 2**15
    assert np.allclose(one, (scaled - scaled.mean()) / scaled.std(), rtol=1e-3)


# --- images -------------------------------------------------------------------------------------


def turned(picture: Image.Image, orientation: int) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    picture.save(file, "PNG", exif=exif)
    return file.getvalue()


def test_photographs_are_turned_upright_as_exif_says(tmp_path):
    model = d2v.load(folder(tmp_path / "c", "vision"))
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8))
    upright.save(tmp_path / "upright.png")
    # 6: to be turned by 90 degrees clockwise; 3: by 180; 2: mirrored
    stored = {
        6: upright.transpose(Image.Transpose.ROTATE_90),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    }
    (expected,) = inputs.read(model, [tmp_path / "upright.png"])
    for orientation, picture in stored.items():
        path = tmp_path / f"{orientation}.png"
        path.write_bytes(turned(picture, orientation))
        (found,) = inputs.read(model, [path])
        assert np.array_equal(found.value, expected.value), orientation


def test_an_exported_model_says_the_same_of_a_turned_photograph(tmp_path):
    transformers = pytest.importorskip("transformers")
    exported = d2v.convert(folder(tmp_path / "c", "vision"), "hf", tmp_path / "hf")
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 24, 3), np.uint8))
    path = tmp_path / "x.png"
    path.write_bytes(turned(picture, 6))
    pipeline = transformers.pipeline("image-classification", str(exported), device="cpu")
    theirs = {found["label"]: found["score"] for found in pipeline(str(path))}
    (ours,) = d2v.classify(d2v.load(exported), [path])
    assert ours.scores == pytest.approx(theirs, abs=1e-4)
    plain = tmp_path / "plain.png"
    picture.save(plain)
    (other,) = d2v.classify(d2v.load(exported), [plain])
    assert other.scores != pytest.approx(theirs, abs=1e-3)  # so that turning is seen


SIZES = [(334, 500), (375, 500), (336, 500), (500, 338), (257, 257), (224, 301), (301, 225)]


@pytest.mark.parametrize("shape", SIZES)
def test_the_centre_is_torchvisions_and_that_of_evaluation(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    how = ImageInput(mean=[0.5] * 3, std=[0.5] * 3, resize=256)
    found = sized(pixels, 224, how)
    picture = Image.fromarray(pixels)
    bicubic = v2.InterpolationMode.BICUBIC
    reference = v2.CenterCrop(224)(v2.Resize(256, bicubic)(picture))
    assert np.array_equal(found, np.asarray(reference))
    assert np.array_equal(found, resized(picture, 256, 224, shape))


@pytest.mark.parametrize("shape", [(227, 231), (225, 226), (229, 224)])
def test_a_centre_without_resizing_is_torchvisions(shape):
    """Half a pixel is rounded to even: 1.5 to 2, 0.5 to 0, 2.5 to 2."""
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = sized(pixels, 224, ImageInput(mean=[0.5] * 3, std=[0.5] * 3))
    assert np.array_equal(found, np.asarray(v2.CenterCrop(224)(Image.fromarray(pixels))))


def test_broken_images_are_refused_as_by_preparation(tmp_path):
    model = d2v.load(folder(tmp_path / "c", "vision"))
    (path,) = images(tmp_path, ((48, 30),))
    payload = path.read_bytes()
    for content, said in (
        (payload[: len(payload) // 2], r"corrupt image \(.*truncated"),
        (b"", "an empty file"),
        (b"<html>", "not a readable image"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path.name}: {said}"):
            list(inputs.read(model, [path]))


# --- transcripts that cannot be learnt, language models that know nothing -----------------------


def test_transcripts_too_long_for_their_audio_are_named_and_counted(tmp_path, capsys):
    """360 letters in a quarter of a second, which has 12 frames."""
    source = speech_tree(tmp_path / "s", ("train",))
    chapter = source / "train" / "1" / "7"
    soundfile.write(chapter / "1-7-0001.flac", np.ones(4000, np.int16), RATE)
    text = (chapter / "1-7.trans.txt").read_text().splitlines()
    text[1] = "1-7-0001 " + " ".join(["SEVEN"] * 60)
    write_lines(chapter / "1-7.trans.txt", *text)
    prepare.main(["librispeech", str(source), "-o", str(tmp_path / "set")])
    said = capsys.readouterr().err
    assert "1 of 3 transcripts are too long" in said
    assert "1-7-0001 (12 frames, needs 360)" in said
    meta = json.loads((tmp_path / "set" / "meta.json").read_text())
    assert meta["splits"]["train"]["unaligned"] == 1


@pytest.mark.parametrize(("letters", "fits"), [("ABCDEFGHIJK", True), ("AABCDEFGHIJ", False)])
def test_a_blank_is_needed_between_equal_letters(tmp_path, capsys, letters, fits):
    """12 frames: eleven letters and the end of the word, or one more for the blank."""
    source = speech_tree(tmp_path / "s", ("train",), each=1)
    chapter = source / "train" / "1" / "7"
    (source / "lists" / "labels-1.0.txt").unlink()
    soundfile.write(chapter / "1-7-0000.flac", np.ones(4000, np.int16), RATE)
    write_lines(chapter / "1-7.trans.txt", f"1-7-0000 {letters}")
    prepare.main(["librispeech", str(source), "-o", str(tmp_path / "set")])
    assert ("too long for their audio" in capsys.readouterr().err) != fits


def arpa(source: Path, *words: str) -> Path:
    write_lines(source / "librispeech-vocab.txt", "ONE", "TWO", "SIX", "TEN")
    write_arpa([" ".join(words)], 2, source / "4-gram.arpa")
    return source


def test_a_language_model_without_any_word_of_the_lexicon_is_refused(tmp_path, capsys):
    words = ["official-lm", str(arpa(tmp_path / "a", "one", "two")), "-o"]
    with pytest.raises(UserError, match=r"4-gram\.arpa: .* knows none of the lexicon's 4 words"):
        prepare.main([*words, str(tmp_path / "no")])
    assert not (tmp_path / "no").exists()
    arpa(tmp_path / "a", "ONE", "SIX", "TEN")
    prepare.main([*words, str(tmp_path / "set")])
    assert "knows 3 of the lexicon's 4 words (75.0 %)" in capsys.readouterr().err


def test_emulated_bfloat16_does_not_count(monkeypatch):
    """What a V100 answers: emulation is supported, the real thing is not."""
    answers = {True: True, False: False}
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: answers[including_emulation],
    )
    assert not devices.has_bfloat16(torch.device("cuda"))
    answers[False] = True  # an A100
    assert devices.has_bfloat16(torch.device("cuda"))
    assert not devices.has_bfloat16(torch.device("cpu"))


def test_features_of_a_batch_hold_no_special_ids(tmp_path, tokenizer):
    model = d2v.load(folder(tmp_path / "c", "text", tokenizer))
    (item,) = inputs.read(model, [SPECIAL])
    assert item.value[0] == 0
    assert item.value[-1] == 2
    assert not {0, 1, 2} & set(item.value[1:-1].tolist())

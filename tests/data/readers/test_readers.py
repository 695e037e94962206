"""Readers of the official layouts: what they read, and equal bytes when they read it again."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from preparing import run
from small_builds import FRAMES, WAVE_VIEW, build
from small_sets import (
    SENTENCES,
    corpus_folder,
    glue_folder,
    image_tree,
    speech_tree,
    write_lines,
)

from d2v.data import letters
from d2v.data.readers.corpus import pack
from d2v.data.shards import Shards, hash_of, read_meta
from d2v.data.tokenizer import Tokenizer
from d2v.util.errors import UserError


def test_imagefolder(tmp_path: Path) -> None:
    source = image_tree(tmp_path / "imagenet")
    run("imagefolder", source, "-o", tmp_path / "out")
    meta = read_meta(tmp_path / "out")
    assert meta["splits"] == {"dev": {"examples": 6}, "train": {"examples": 6}}
    assert meta["classes"] == ["n01", "n02"]
    shards = Shards(tmp_path / "out" / "train")
    assert shards.texts("id")[4] == "n02/n02_train1"
    assert shards.numbers("label").tolist() == [0, 0, 0, 1, 1, 1]
    path = source / "train" / "n02" / "n02_train1.JPEG"
    assert bytes(shards.payload(4)) == path.read_bytes()
    pixels = np.stack([np.asarray(Image.open(p)) for p in sorted(source.glob("train/*/*"))]) / 255
    assert meta["mean"][:3] == pytest.approx(pixels.mean((0, 1, 2)), abs=1e-6)
    assert meta["std"][:3] == pytest.approx(pixels.std((0, 1, 2)), abs=1e-6)
    assert (tmp_path / "out" / "lists" / "labels-2.0.txt").exists()


def test_images_of_other_modes_are_read(tmp_path: Path) -> None:
    """ImageNet has CMYK files, grey ones, and a PNG called JPEG."""
    source = image_tree(tmp_path / "imagenet", ("train",))
    for mode, kind in (("CMYK", "JPEG"), ("L", "JPEG"), ("RGBA", "PNG")):
        Image.new(mode, (40, 30)).save(source / "train" / "n01" / f"{mode}.JPEG", kind)
    run("imagefolder", source, "-o", tmp_path / "out")
    assert read_meta(tmp_path / "out")["splits"]["train"]["examples"] == 9


def test_librispeech(tmp_path: Path) -> None:
    source = speech_tree(tmp_path / "LibriSpeech")
    write_lines(source / "SPEAKERS.TXT", "; ID | SEX")
    run("librispeech", source, "-o", tmp_path / "out")
    meta = read_meta(tmp_path / "out")
    assert meta["splits"]["train"] == {"examples": 3, "samples": 19_200}
    shards = Shards(tmp_path / "out" / "train")
    assert list(shards.texts("id")) == ["2-7-0000", "2-7-0001", "2-7-0002"]
    assert shards.texts("text")[1] == "ONE TWO"
    assert shards.numbers("samples").tolist() == [3200, 6400, 9600]
    wave, rate = soundfile.read(BytesIO(shards.payload(2)), dtype="int16")
    expected, _ = soundfile.read(source / "train/2/7/2-7-0002.flac", dtype="int16")
    assert rate == 16_000
    assert (wave == expected).all()


def test_only_headers_are_read_where_that_is_asked_for(tmp_path: Path) -> None:
    """The same shards as with every file decoded, but no colours and no levels."""
    for name, tree, measured in (
        ("imagefolder", image_tree, set()),
        ("librispeech", speech_tree, {"mean", "deviation"}),
    ):
        source = tree(tmp_path / name)
        run(name, source, "-o", tmp_path / f"{name}-all")
        run(name, source, "-o", tmp_path / f"{name}-headers", "--headers")
        shards = [Shards(tmp_path / f"{name}-{how}" / "train") for how in ("all", "headers")]
        assert all(a.payload(n) == b.payload(n) for a, b in [shards] for n in range(len(a)))
        assert set(shards[0].columns) - set(shards[1].columns) == measured
        for column in set(shards[1].columns) - {"id", "text", "speaker"}:
            assert (shards[0].numbers(column) == shards[1].numbers(column)).all()
    assert read_meta(tmp_path / "imagefolder-headers")["mean"] is None


def test_bare_samples_give_the_same_waveforms(tmp_path: Path) -> None:
    source = speech_tree(tmp_path / "libri")
    run("librispeech", source, "-o", tmp_path / "flac", "--splits", "train")
    run("librispeech", source, "-o", tmp_path / "pcm", "--splits", "train", "--pcm")
    flac, pcm = (build(tmp_path / name, WAVE_VIEW, FRAMES) for name in ("flac", "pcm"))
    assert len(pcm) == len(flac) > 1
    for place in range(len(flac)):
        assert np.array_equal(pcm[0, place]["wave"], flac[0, place]["wave"])
    shards = Shards(tmp_path / "pcm" / "train")
    assert len(shards.payload(1)) == 2 * shards.numbers("samples")[1]
    with pytest.raises(UserError, match="--pcm decodes every file: leave out --headers"):
        run("librispeech", source, "-o", tmp_path / "both", "--pcm", "--headers")


def test_only_the_named_splits_are_read(tmp_path: Path) -> None:
    source = speech_tree(tmp_path / "LibriSpeech", ("dev-clean", "test-clean", "train-clean-100"))
    (source / "lists" / "labels-1.0.txt").unlink()
    run("librispeech", source, "-o", tmp_path / "out", "--splits", "dev-clean", "test-clean")
    assert list(read_meta(tmp_path / "out")["splits"]) == ["dev-clean", "test-clean"]
    with pytest.raises(UserError, match="no split folder dev-other"):
        run("librispeech", source, "-o", tmp_path / "out", "--splits", "dev-other")


def test_lm(tmp_path: Path) -> None:
    source = speech_tree(tmp_path / "LibriSpeech")
    run("lm", source / "train", "-o", tmp_path / "lm", "--order", 2)
    assert (tmp_path / "lm" / "lexicon.txt").read_text() == (
        "ONE\tO N E |\nTWO\tT W O |\nZERO\tZ E R O |\n"
    )
    assert (tmp_path / "lm" / "tokens.txt").read_text().splitlines() == list(letters.LETTERS)
    assert "ngram 2=" in (tmp_path / "lm" / "lm.arpa").read_text()
    assert read_meta(tmp_path / "lm")["words"] == 3


def test_letters_are_fairseqs_dictionary() -> None:
    assert len(letters.LETTERS) == 32
    assert letters.encode("TO  A") == [6, 8, 4, 7, 4]


def test_tokenizer_ids(tokenizer: Path) -> None:
    model = Tokenizer(tokenizer)
    assert model.size == 70
    ids = model.encode("The CAT sat")
    assert model.decode(ids) == "the cat sat"
    assert min(ids) > 3  # never <s>, <pad>, </s>
    assert max(model.encode("<mask> <s> </s> <pad>")) < 69  # no text encodes to <mask>
    assert set(model.encode("<s></s><pad>")).isdisjoint({0, 1, 2})
    assert 3 in model.encode("ω")  # unknown


def test_corpus_blocks(tmp_path: Path, tokenizer: Path) -> None:
    source = corpus_folder(tmp_path / "corpus")
    run("corpus", source, "--tokenizer", tokenizer, "-o", tmp_path / "out", "--block", 40)
    shards, model = Shards(tmp_path / "out" / "train"), Tokenizer(tokenizer)
    rows = [np.frombuffer(shards.payload(i), model.dtype).tolist() for i in range(len(shards))]
    assert max(map(len, rows)) <= 40
    assert all(row[0] == 0 and row.count(0) == 1 for row in rows)
    assert [len(row) for row in rows] == shards.numbers("tokens").tolist()
    # every sentence once, in order, and documents never share a block
    text = [model.decode(piece) for row in rows for piece in _split(row[1:], 2)]
    assert " ".join(text) == " ".join(SENTENCES)
    assert {name.partition("#")[0] for name in shards.texts("id")} == {"a:1", "a:5", "b:1"}


def _split(row: list[int], end: int) -> list[list[int]]:
    pieces: list[list[int]] = [[]]
    for token in row:
        if token == end:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return [piece for piece in pieces if piece]


def test_packing() -> None:
    assert list(pack([[1] * 3, [2] * 3, [3] * 2], 5)) == [[1] * 3, [2, 2, 2, 3, 3]]
    # longer than a block: fills up the open one and goes on
    assert list(pack([[1] * 2, [2] * 9, [3]], 5)) == [[1, 1, 2, 2, 2], [2] * 5, [2, 3]]
    assert list(pack([[1] * 10], 5)) == [[1] * 5, [1] * 5]
    assert list(pack([], 5)) == []


@pytest.mark.parametrize("name", ["SST-2", "CoLA", "MRPC", "RTE", "STS-B"])
def test_glue(tmp_path: Path, tokenizer: Path, name: str) -> None:
    source = glue_folder(tmp_path / name, name)
    run("glue", name, source, "--tokenizer", tokenizer, "-o", tmp_path / "out")
    meta, model = read_meta(tmp_path / "out"), Tokenizer(tokenizer)
    assert {"examples": 8, "labelled": True}.items() <= meta["splits"]["test"].items()
    shards = Shards(tmp_path / "out" / "train")
    assert shards.texts("id")[7] == "train-7"
    labels = shards.numbers("label").tolist()
    expected = {"RTE": [1, 0] * 4, "STS-B": [i / 2 for i in range(8)]}
    assert labels == expected.get(name, [0, 1] * 4)
    ids = np.frombuffer(shards.payload(5), model.dtype).tolist()
    first = int(shards.numbers("first")[5])
    # the quotation mark is text; the tokenizer does not know it
    start = "⁇ " if name == "SST-2" else ""
    assert model.decode(ids[:first]).replace(" ⁇ ", "⁇ ") == start + SENTENCES[5]
    assert meta["pairs"] == (len(ids) > first)


def test_official_test_files_have_no_labels(tmp_path: Path, tokenizer: Path) -> None:
    cola = glue_folder(tmp_path / "CoLA", "CoLA")
    write_lines(cola / "test.tsv", "index\tsentence", f"0\t{SENTENCES[0]}")
    run("glue", "CoLA", cola, "--tokenizer", tokenizer, "-o", tmp_path / "out")
    splits = read_meta(tmp_path / "out")["splits"]
    assert {"examples": 1, "labelled": False}.items() <= splits["test"].items()
    assert splits["dev"]["labelled"]
    (cola / "test.tsv").unlink()
    run("glue", "CoLA", cola, "--tokenizer", tokenizer, "-o", tmp_path / "out")
    assert "test" not in read_meta(tmp_path / "out")["splits"]


def test_byte_order_mark_and_windows_lines(tmp_path: Path, tokenizer: Path) -> None:
    source = glue_folder(tmp_path / "SST-2", "SST-2")
    text = (source / "dev.tsv").read_text()
    (source / "dev.tsv").write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode())
    run("glue", "SST-2", source, "--tokenizer", tokenizer, "-o", tmp_path / "out")
    dev, train = (Shards(tmp_path / "out" / split) for split in ("dev", "train"))
    assert [bytes(dev.payload(i)) for i in range(8)] == [bytes(train.payload(i)) for i in range(8)]


def test_preparing_again_gives_the_same_bytes(tmp_path: Path, tokenizer: Path) -> None:
    corpus = corpus_folder(tmp_path / "corpus")
    for out in ("one", "two"):
        to = tmp_path / out
        run("imagefolder", image_tree(tmp_path / out / "i"), "-o", to / "images")
        run("librispeech", speech_tree(tmp_path / out / "s"), "-o", to / "speech")
        run("lm", to / "s" / "train", "-o", to / "lm", "--order", 3)
        run("tokenizer", corpus, "-o", to / "tokenizer", "--vocab-size", 70)
        run("corpus", corpus, "--tokenizer", tokenizer, "-o", to / "corpus", "--block", 16)
        glue = glue_folder(to / "g", "RTE")
        run("glue", "RTE", glue, "--tokenizer", tokenizer, "-o", to / "rte")
    for name in ("images", "speech", "lm", "tokenizer", "corpus", "rte"):
        one, two = tmp_path / "one" / name, tmp_path / "two" / name
        assert hash_of(one) == hash_of(two) == read_meta(one)["sha256"], name


def test_files_of_more_than_16_bits_are_told_and_counted(tmp_path, capsys):
    source = speech_tree(tmp_path / "s", ("train",))
    path = source / "train" / "1" / "7" / "1-7-0001.flac"
    wave, rate = soundfile.read(path, dtype="int32")
    soundfile.write(path, wave + 300, rate, subtype="PCM_24")
    run("librispeech", source, "-o", tmp_path / "set", "--workers", 1)
    assert "1 of 3 files have more than 16 bits per sample" in capsys.readouterr().err
    assert read_meta(tmp_path / "set")["splits"]["train"]["rounded_to_16_bits"] == 1


def test_a_file_called_validation_is_dev(tmp_path, small_prepared):
    source = glue_folder(tmp_path / "RTE", "RTE")
    tokenizer = ("--tokenizer", small_prepared / "tokenizer", "--workers", 1)
    run("glue", "RTE", source, "-o", tmp_path / "a", *tokenizer)
    (source / "dev.tsv").rename(source / "validation.tsv")
    run("glue", "RTE", source, "-o", tmp_path / "b", *tokenizer)
    assert read_meta(tmp_path / "a")["sha256"] == read_meta(tmp_path / "b")["sha256"]
    assert "dev" in read_meta(tmp_path / "b")["splits"]


def test_contents_in_two_splits_are_told_as_a_leak_and_repeats_counted(tmp_path, capsys):
    source = image_tree(tmp_path / "tree")
    run("imagefolder", source, "-o", tmp_path / "clean", "--workers", 1)
    assert "leak" not in capsys.readouterr().err
    assert "repeats" not in read_meta(tmp_path / "clean")
    train, dev = source / "train" / "n01", source / "dev" / "n02"
    (dev / "n02_dev1.JPEG").write_bytes((train / "n01_train2.JPEG").read_bytes())
    for copy in ("a", "b"):
        (train / f"{copy}.JPEG").write_bytes((train / "n01_train0.JPEG").read_bytes())
    run("imagefolder", source, "-o", tmp_path / "set", "--workers", 1)
    said = capsys.readouterr()
    leak = "a leak: 1 of 6 examples of dev are also in train, such as n02/n02_dev1"
    assert f"{source}: {leak}" in said.err
    assert "  dev: 6 examples (1 also in train)" in said.out
    assert "  train: 8 examples (2 duplicates)" in said.out
    meta = read_meta(tmp_path / "set")
    assert meta["splits"] == {"dev": {"examples": 6}, "train": {"examples": 8}}
    assert meta["repeats"] == {"train": {"duplicates": 2}, "dev": {"also_in": {"train": 1}}}


def test_two_processes_find_the_same_leaks_as_one(tmp_path):
    source = speech_tree(tmp_path / "s", each=6)
    for name in ("0002", "0005"):
        wave = (source / "train" / "2" / "7" / f"2-7-{name}.flac").read_bytes()
        (source / "dev" / "1" / "7" / f"1-7-{name}.flac").write_bytes(wave)
    for workers in (1, 2):
        run("librispeech", source, "-o", tmp_path / f"{workers}", "--workers", workers)
    one, two = (read_meta(tmp_path / n)["repeats"] for n in ("1", "2"))
    assert one == two == {"dev": {"also_in": {"train": 2}}}

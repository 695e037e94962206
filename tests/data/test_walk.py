"""One rule for all readers: links are followed once, and what is left out is counted and named."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import official_sets
import pytest
import soundfile
from PIL import Image
from preparing import run
from small_sets import corpus_folder, glue_folder, image_tree, speech_tree, write_lines
from speech_builds import audioset

from d2v.data.readers.limited import write_limited
from d2v.data.shards import Shards, read_meta
from d2v.data.walk import walk
from d2v.util.errors import UserError


def ids(out: Path, split: str = "train") -> set[str]:
    return set(Shards(out / split).texts("id"))


def refused(message: str, out: Path, *words: object) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(*words, "-o", out)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def unused(said: str, count: int, *names: str) -> bool:
    """Whether one warning says how many files are not used, and names these."""
    lines = [line for line in said.splitlines() if re.search(f": {count} paths? not used", line)]
    return any(all(name in line for name in names) for line in lines)


# --- the walk itself ----------------------------------------------------------------------------


def names(top: Path, paths: list[str]) -> list[str]:
    return [os.path.relpath(path, top) for path in paths]


def test_folders_behind_links_come_last_and_once(tmp_path):
    top = tmp_path / "top"
    for path in ("top/b/x.txt", "top/a.txt", "top/.hidden/h.txt", "top/b/.h", "disk/deep/d.txt"):
        write_lines(tmp_path / path, "x")
    (top / "a-link").symlink_to(tmp_path / "disk")
    (top / "b" / "again").symlink_to(tmp_path / "disk" / "deep")
    (top / "b" / "up").symlink_to("..")
    (top / "c.txt").symlink_to(top / "a.txt")
    (top / "lost").symlink_to(tmp_path / "nowhere")
    (top / "loop").symlink_to("loop")
    tree = walk(top)
    assert names(top, tree.files) == ["a.txt", "c.txt", "b/x.txt", "a-link/deep/d.txt"]
    assert names(top, tree.repeated) == ["b/again", "b/up"]
    assert names(top, tree.dangling) == ["loop", "lost"]


def test_a_link_never_replaces_the_folder_itself(tmp_path):
    write_lines(tmp_path / "z" / "x.txt", "x")
    (tmp_path / "a").symlink_to("z")
    tree = walk(tmp_path)
    assert names(tmp_path, tree.files) == ["z/x.txt"]
    assert names(tmp_path, tree.repeated) == ["a"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write_lines(tmp_path / "shut" / "x.txt", "x")
    scan = os.scandir

    def refusing(place: str):  # root may read every folder
        if str(place).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match="shut: cannot read this folder"):
        walk(tmp_path)


BAD_NAMES = ("tab\tname", "line\nname", "\udcff")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_no_list_can_hold_are_refused(tmp_path, small_prepared, name):
    text, pictures, spoken = (tmp_path / "corpus", tmp_path / "i", tmp_path / "s")
    write_lines(text / name / "a.txt", "a dog")
    shutil.copytree(image_tree(pictures) / "train/n01", pictures / "train" / name)
    speech_tree(spoken)
    (spoken / "train" / "2" / "7" / f"{name}.flac").touch()
    tokens = ("--tokenizer", small_prepared / "tokenizer")
    for words in (
        ("corpus", text, *tokens, "--block", 16),
        ("imagefolder", pictures),
        ("librispeech", spoken),
    ):
        refused("the name is not UTF-8, or contains a tab", tmp_path / "out", *words)
    write_lines(tmp_path / "good" / "é ü 🙂.txt", "a dog")
    run("corpus", tmp_path / "good", *tokens, "--block", 16, "-o", tmp_path / "out")
    assert ids(tmp_path / "out") == {"é ü 🙂:1#0"}


# --- text ---------------------------------------------------------------------------------------


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A corpus with a link to a folder, a cycle, and a file that is no text by its name."""
    source = corpus_folder(tmp_path / "corpus")
    write_lines(tmp_path / "disk" / "wiki" / "w.txt", "a dog ran")
    (source / "wiki").symlink_to(tmp_path / "disk" / "wiki")
    (source / "self").symlink_to(source)
    write_lines(source / "deep" / "d.txt", "the cat")
    write_lines(source / "notes.md", "no text")
    return source


def test_a_corpus_is_read_through_links(text, tmp_path, small_prepared, capsys):
    words = ("corpus", text, "--tokenizer", small_prepared / "tokenizer", "--block", 16)
    run(*words, "-o", tmp_path / "out")
    files = {name.partition(":")[0] for name in ids(tmp_path / "out")}
    assert files == {"a", "b", "wiki/w", "deep/d"}
    said = capsys.readouterr().err
    assert unused(said, 1, "not text files by their names", "notes.md")
    assert unused(said, 1, "already read", "self")
    (text / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    refused(r"gone\.txt: the target of this link does not exist", tmp_path / "no", *words)


def test_a_tokenizer_is_trained_on_what_links_hold(text, tmp_path, capsys):
    run("tokenizer", text, "-o", tmp_path / "out", "--vocab-size", 60)
    assert read_meta(tmp_path / "out")["sentences"] == 10  # 8, and one in each of the two folders
    assert unused(capsys.readouterr().err, 1, "notes.md")
    (text / "gone").symlink_to(tmp_path / "nowhere")
    words = ("tokenizer", text, "--vocab-size", 60)
    refused("gone: the target of this link does not exist", tmp_path / "no", *words)


def test_files_of_glue_are_followed_and_others_named(tmp_path, small_prepared, capsys):
    source = glue_folder(tmp_path / "RTE", "RTE")
    (source / "dev.tsv").rename(tmp_path / "elsewhere.tsv")
    (source / "dev.tsv").symlink_to(tmp_path / "elsewhere.tsv")
    (source / "test.tsv").rename(source / "test.csv")
    (source / "original").mkdir()
    words = ("glue", "RTE", source, "--tokenizer", small_prepared / "tokenizer")
    run(*words, "-o", tmp_path / "out")
    assert set(read_meta(tmp_path / "out")["splits"]) == {"train", "dev"}
    assert unused(capsys.readouterr().err, 2, "not split files of rte", "original", "test.csv")
    (tmp_path / "elsewhere.tsv").unlink()
    refused(r"dev\.tsv: the target of this link does not exist", tmp_path / "no", *words)


# --- images -------------------------------------------------------------------------------------


def test_classes_and_images_behind_links_are_read(tmp_path, capsys):
    source = image_tree(tmp_path / "i")
    (source / "train" / "n02").rename(tmp_path / "far")
    (source / "train" / "n02").symlink_to(tmp_path / "far")
    image = source / "train" / "n01" / "n01_train1.JPEG"
    image.rename(tmp_path / "one.JPEG")
    image.symlink_to(tmp_path / "one.JPEG")
    write_lines(source / "README", "x")
    write_lines(source / "train" / "stray.JPEG", "x")
    write_lines(source / "lists" / "few.csv", "x")
    run("imagefolder", source, "-o", tmp_path / "out")
    assert len(ids(tmp_path / "out")) == 6
    said = capsys.readouterr().err
    assert unused(said, 1, "not in a split folder", "README")
    assert unused(said, 1, "not in a class folder", "stray.JPEG")
    assert unused(said, 1, "not *.txt lists", "few.csv")


ImagePlant = Callable[[Path], object]
IMAGES: dict[str, tuple[ImagePlant, str]] = {
    "dangling image": (
        lambda r: (r / "train/n01/x.JPEG").symlink_to(r / "no"),
        r"x\.JPEG: the target of this link does not exist",
    ),
    "dangling class": (
        lambda r: (r / "train/n03").symlink_to(r / "no"),
        "n03: the target of this link does not exist",
    ),
    "dangling split": (
        lambda r: (r / "val").symlink_to(r / "no"),
        "val: the target of this link does not exist",
    ),
    "dangling list": (
        lambda r: (r / "lists/x.txt").symlink_to(r / "no"),
        r"x\.txt: the target of this link does not exist",
    ),
    "cycle": (
        lambda r: (r / "train/n01/up").symlink_to(r / "train"),
        "up: a folder inside a class folder",
    ),
    "sub-folder": (
        lambda r: shutil.copytree(r / "train/n01", r / "train/n01/deep"),
        "deep: a folder inside a class folder",
    ),
    "a class twice": (
        lambda r: [(r / s / "n03").symlink_to("n02") for s in ("train", "dev")],
        "n03: the same folder as .*n02",
    ),
    "unknown suffix": (
        lambda r: (r / "train/n01/n01_train1.JPEG").rename(r / "train/n01/x.webp"),
        r"x\.webp: not an image file",
    ),
}


@pytest.mark.parametrize("fault", IMAGES)
def test_what_an_image_tree_cannot_hold_is_refused(tmp_path, fault):
    plant, message = IMAGES[fault]
    source = image_tree(tmp_path / "i")
    plant(source)
    refused(message, tmp_path / "out", "imagefolder", source)


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    official_sets._imagenet(tmp_path / "imagenet")
    return tmp_path / "imagenet"


def test_imagenet_is_read_through_links_with_its_lists(imagenet, tmp_path, capsys):
    train = imagenet / "train"
    synset = train / "n01440764"
    synset.rename(tmp_path / "far")
    synset.symlink_to(tmp_path / "far")
    write_lines(train / "README", "x")
    name = f"n01440764/{sorted(p.stem for p in synset.iterdir())[0]}"
    write_lines(imagenet / "lists" / "few.txt", name)
    (imagenet / "test").mkdir()
    words = ("imagenet", imagenet, "--allow-partial", "--workers", 1)
    run(*words, "-o", tmp_path / "out")
    assert len(ids(tmp_path / "out")) == 36
    assert (tmp_path / "out" / "lists" / "few.txt").read_text() == f"{name}\n"
    said = capsys.readouterr().err
    assert unused(said, 1, "not in a synset folder", "README")
    assert unused(said, 1, "not read", "test")
    write_lines(imagenet / "lists" / "few.txt", "n01440764/nobody")
    refused(r"few\.txt:1: no example is named", tmp_path / "no", *words)
    (imagenet / "lists" / "few.txt").unlink()
    (train / "n99999999").symlink_to("n01443537")
    refused("n99999999: the same folder as .*n01443537", tmp_path / "no", *words)
    (train / "n99999999").unlink()
    (train / "n99999999").symlink_to(tmp_path / "nowhere")
    refused("n99999999: the target of this link does not exist", tmp_path / "no", *words)


# --- speech and sounds --------------------------------------------------------------------------


def test_speakers_and_chapters_behind_links_are_read(tmp_path, capsys):
    source = speech_tree(tmp_path / "s")
    (source / "train" / "2").rename(tmp_path / "two")
    (source / "train" / "2").symlink_to(tmp_path / "two")
    chapter = source / "train" / "2" / "7"
    write_lines(source / "train" / "notes.txt", "x")
    write_lines(chapter / "2-7-0003.mp3", "x")
    write_lines(chapter / "deep" / "2-7-0004.flac", "x")
    (chapter / "up").symlink_to("..")
    write_lines(source / "SPEAKERS.TXT", "of the official archive")
    write_lines(source / "train.tar.gz", "x")
    run("librispeech", source, "-o", tmp_path / "out")
    assert ids(tmp_path / "out") == {"2-7-0000", "2-7-0001", "2-7-0002"}
    said = capsys.readouterr().err
    why = "not FLAC files in a SPEAKER/CHAPTER folder with a transcript"
    assert unused(said, 4, why, "2/7/2-7-0003.mp3", "2/7/deep")
    assert unused(said, 1, "not in a split folder", "train.tar.gz")
    run("lm", source / "train", "-o", tmp_path / "lm", "--order", 2)
    assert read_meta(tmp_path / "lm")["sentences"] == 3


@pytest.mark.parametrize("place", ["", "train", "train/2", "train/2/7"])
def test_dangling_links_in_speech_are_refused(tmp_path, place):
    source = speech_tree(tmp_path / "s")
    (source / place / "9").symlink_to(tmp_path / "nowhere")
    refused("9: the target of this link does not exist", tmp_path / "out", "librispeech", source)


def sound(path: Path, seconds: float = 3.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(0).integers(-900, 900, round(16_000 * seconds), np.int16)
    soundfile.write(path, wave, 16_000)


def test_unlabelled_speech_is_read_through_links(tmp_path, capsys):
    source = tmp_path / "light"
    sound(source / "small" / "100" / "book" / "a.flac")
    sound(tmp_path / "disk" / "200" / "book" / "b.flac")
    (source / "small" / "200").symlink_to(tmp_path / "disk" / "200")
    (source / "small" / "200" / "book" / "up").symlink_to(source / "small")
    write_lines(source / "small" / "100" / "book" / "a.mp3", "x")
    write_lines(source / "small" / "100" / "book" / "c.json", "{}")
    (source / "duplicate").mkdir()
    (source / "unlab-600").mkdir()
    run("librilight", source, "-o", tmp_path / "out")
    assert ids(tmp_path / "out") == {"100/a#0", "200/b#0"}
    said = capsys.readouterr().err
    assert unused(said, 1, "neither FLAC nor JSON", "100/book/a.mp3")
    assert unused(said, 1, "without a FLAC", "100/book/c.json")
    assert unused(said, 1, "already read", "200/book/up")
    assert unused(said, 1, "next to small", "unlab-600")
    (source / "small" / "300").symlink_to(tmp_path / "nowhere")
    refused("300: the target of this link does not exist", tmp_path / "no", "librilight", source)


def test_a_folder_in_place_of_a_voice_file_is_named(tmp_path):
    sound(tmp_path / "light" / "100" / "book" / "a.flac")
    (tmp_path / "light" / "100" / "book" / "a.json").mkdir()
    refused(r"a\.json: voice_activity is not", tmp_path / "out", "librilight", tmp_path / "light")


def test_lists_of_limited_supervision_are_read_through_links(tmp_path, capsys):
    source, out = tmp_path / "limited", tmp_path / "out"
    for path in ("limited/1h/0/clean/1/2/1-2-0000", "disk/3/4/3-4-0000", "limited/9h/5-6-0000"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{path}.flac").touch()
    (source / "1h" / "0" / "other").symlink_to(tmp_path / "disk")
    (source / "1h" / "up").symlink_to(source / "1h")
    write_lines(source / "9h" / "notes.doc", "x")
    out.mkdir()
    known = {"1-2-0000", "3-4-0000", "5-6-0000"}
    assert write_limited(source, out, known)
    for name in ("10min", "1h"):
        assert (out / "lists" / f"{name}.txt").read_text() == "1-2-0000\n3-4-0000\n"
    assert (out / "lists" / "10h.txt").read_text() == "1-2-0000\n3-4-0000\n5-6-0000\n"
    said = capsys.readouterr().err
    assert unused(said, 1, "not FLAC files", "notes.doc")
    assert unused(said, 1, "already read", "up")
    (source / "1h" / "1").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="1h/1: the target of this link does not exist"):
        write_limited(source, out, known)


def test_clips_behind_links_are_found_and_others_counted(tmp_path, capsys):
    audio = audioset(tmp_path / "audioset")
    clips = audio / "clips"
    shutil.move(clips / "1", tmp_path / "far")
    (clips / "1").symlink_to(tmp_path / "far")
    (clips / "0" / "up").symlink_to(clips)
    (clips / "lost").symlink_to(tmp_path / "nowhere")
    sound(clips / "0" / "nobody.wav", 0.2)
    shutil.copy(clips / "0" / "abc.wav", clips / "abc.wav")
    write_lines(clips / "0" / "abc.mp3", "x")
    run("audioset", audio, "-o", tmp_path / "out", "--workers", 1)
    splits = read_meta(tmp_path / "out")["splits"]
    assert {split: found["missing"] for split, found in splits.items()} == {
        "unbalanced": 0,
        "balanced": 0,
        "eval": 0,
    }
    said = capsys.readouterr().err
    assert unused(said, 1, "neither .flac nor .wav", "0/abc.mp3")
    assert unused(said, 1, "another file has the same name", "abc.wav")
    assert unused(said, 1, "links whose targets do not exist", "lost")
    assert unused(said, 1, "already read", "0/up")
    assert unused(said, 1, "in none of the lists", "0/nobody.wav")


def test_a_png_named_jpeg_and_hidden_files_are_no_stray_files(tmp_path, capsys):
    source = image_tree(tmp_path / "i", ("train",))
    Image.new("RGB", (40, 30)).save(source / "train" / "n01" / "png.JPEG", "PNG")
    write_lines(source / "train" / "n01" / ".DS_Store", "x")
    run("imagefolder", source, "-o", tmp_path / "out")
    assert "n01/png" in ids(tmp_path / "out")
    assert capsys.readouterr().err == ""

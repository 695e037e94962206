"""The guides for data of one's own, from files in the described formats to tables."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jiwer
import own_builds
import own_sets
import pytest
import workspace
from sklearn.metrics import accuracy_score
from workspace import PARTS, ROOT, call, carry_out, command

from d2v import params
from d2v.data.letters import LETTERS
from d2v.evaluation.predictions import read_predictions
from d2v.interop import own

pytestmark = pytest.mark.slow
EXPERIMENT = "params/guides.yaml"
RUNS = Path("results/guides/runs")
FINAL = {
    "recordings": "decode/recordings/data2vec/seed1",
    "photographs": "finetune/photographs/data2vec/seed0",
    "sentences": "finetune/sentences/data2vec/seed1",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_prepared: Path) -> Path:
    """The repository with a researcher's own files, small released weights, and all tables."""
    root = tmp_path_factory.mktemp("guides") / "d2v"
    root.mkdir()
    for name in (*PARTS, "src"):
        source, target = ROOT / name, root / name
        if source.is_symlink():
            target.symlink_to(os.readlink(source))
        elif source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    shutil.copy(ROOT / "tests/params/guides.yaml", root / EXPERIMENT)
    own_sets.recordings(root / "mine/recordings", 20)
    own_sets.photos(root / "mine/photographs")
    own_sets.sentences(root / "mine/sentences", 40)
    _weights(root, small_prepared / "tokenizer")
    assert call(root, "dvc", "init", "--no-scm", "-q").returncode == 0
    prepared = call(root, "d2v.cli", "data", "--params", EXPERIMENT)
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    carry_out(root, EXPERIMENT, ("pretrain", "finetune", "decode"), ("finetune/sentences",))
    done = snakemake(root)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def _weights(root: Path, tokenizer: Path) -> None:
    """Random weights in the place of the released ones, with the sizes of the experiment."""
    for p in params.load(root / EXPERIMENT).pretrain.values():
        assert p.released
        kind = p.encoder.kind
        sizes = {"encoder": p.encoder, "backbone": p.backbone, "task": None, "outputs": None}
        given = tokenizer if kind == "text" else None
        own.write(own_builds.content(kind, given, **sizes), root / p.released.path)


def snakemake(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return workspace.snakemake(root, *words, file=EXPERIMENT)


def found(folder: Path, name: str) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / RUNS / FINAL[name] / "metrics.json").read_text())
    return metrics["metrics"]


@pytest.mark.parametrize(
    ("table", "column"),
    [("librispeech", "my recordings"), ("imagenet", "my photographs"), ("glue", "my sentences")],
)
def test_tables_come_out(folder: Path, table: str, column: str) -> None:
    text = (folder / f"results/guides/tables/{table}.md").read_text()
    assert f"| {column}" in text or column in text
    assert "released weights, fine-tuned here" in text
    assert (folder / "results/guides/tables/.complete").exists()


def test_word_error_rates_are_jiwers(folder: Path) -> None:
    for split in ("dev", "test"):
        rows = read_predictions(folder / RUNS / FINAL["recordings"] / f"predictions-{split}.tsv")
        said, heard = [row.reference for row in rows], [row.prediction for row in rows]
        assert len(rows) == 2
        assert {*"".join(said)} <= {*"abcdefghijklmnopqrstuvwxyz äöüßąćęłńóśźż"}
        metrics = found(folder, "recordings")[split]
        assert metrics["wer"] == pytest.approx(jiwer.wer(said, heard), abs=1e-12)
        assert metrics["cer"] == pytest.approx(jiwer.cer(said, heard), abs=1e-12)
        greedy = [str(row.greedy) for row in rows]
        assert metrics["greedy_wer"] == pytest.approx(jiwer.wer(said, greedy), abs=1e-12)


@pytest.mark.parametrize("name", ["photographs", "sentences"])
def test_accuracies_are_scikit_learns(folder: Path, name: str) -> None:
    rows = read_predictions(folder / RUNS / FINAL[name] / "predictions-test.tsv")
    assert len(rows) == {"photographs": 8, "sentences": 4}[name]
    value = accuracy_score([row.reference for row in rows], [row.prediction for row in rows])
    assert found(folder, name)["test"]["accuracy"] == pytest.approx(value, abs=1e-12)


def test_letters_are_kept_in_checkpoints_and_exports(folder: Path, tmp_path: Path) -> None:
    """vocab.json of Hugging Face has them, and transcribing writes them."""
    letters = own_sets.meta(folder / "prepared/guides/recordings")["letters"]
    assert {*"äöüßąęłż"} <= {*letters}
    run = json.loads(
        (folder / RUNS / "finetune/recordings/data2vec/seed1/metrics.json").read_text()
    )
    out = str(tmp_path / "hf")
    done = command(folder, "convert", run["checkpoint"], "--to", "hf", "-o", out)
    assert done.returncode == 0, done.stderr
    vocab = json.loads((tmp_path / "hf/vocab.json").read_text())
    named = {i: letter for letter, i in vocab.items()}
    assert [named[i] for i in range(5, len(letters))] == letters[5:]
    assert {named[0], named[1]} == set(LETTERS[:2])
    sound = folder / "mine/recordings/clips/00.wav"
    said = command(folder, "transcribe", out, str(sound))
    assert said.returncode == 0, said.stderr
    assert set(said.stdout.split("\t")[-1].strip()) <= {*letters, " "}


# what a reader replaces in the commands of a page: by the page, and the inputs that it names
OF_READERS = {
    "recordings": ("new.wav", "mine/recordings/clips/00.wav"),
    "photographs": ("new.jpg", "mine/photographs/test/dogs/0.jpg"),
    "sentences": ("sentences.txt", "new.txt"),
}


def test_the_commands_of_the_pages_work_as_they_stand_there(folder: Path) -> None:
    """In their order, with the paths of this experiment, whose training is already done.

    What several pages then say alike runs once.
    """
    (folder / "new.txt").write_text("a joy\na bore\n")
    ran = set()
    for name, (file, ours) in OF_READERS.items():
        page = (ROOT / f"docs/own-{name}.md").read_text(encoding="utf-8")
        lines = re.findall(r"^\$ (.*)$", page, re.M)
        assert [line.split()[1] for line in lines[:3]] == ["check", "data", "reproduce"]
        assert len(lines) >= 4
        run = FINAL[name].replace("decode/", "finetune/")
        checkpoint = json.loads((folder / RUNS / run / "metrics.json").read_text())["checkpoint"]
        replaced = {
            f"params/own/{name}.yaml": EXPERIMENT,
            "CHECKPOINT": checkpoint,
            file: ours,
            "exported": f"exported-{name}",
        }
        for line in lines:
            first, *words = (replaced.get(word, word) for word in line.split())
            assert first == "d2v"
            if tuple(words) in ran:
                continue
            ran.add(tuple(words))
            starts = words[0] in ("data", "reproduce")  # other programs
            done = call(folder, "d2v.cli", *words) if starts else command(folder, *words)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            if words[0] in ("transcribe", "classify"):
                assert done.stdout.strip(), line


def test_nothing_is_done_twice(folder: Path) -> None:
    """Neither by Snakemake, nor by DVC, which says that all sets are up to date."""
    dry = snakemake(folder, "-n")
    assert "Nothing to be done" in dry.stdout + dry.stderr
    again = call(folder, "dvc", "repro", "workflow/own/guides/dvc.yaml")
    assert again.returncode == 0, again.stderr
    assert "didn't change, skipping" in again.stdout
    assert "Running stage" not in again.stdout
    status = call(folder, "dvc", "status", "--json", "workflow/own/guides/dvc.yaml")
    assert json.loads(status.stdout) == {}


def test_a_changed_parameter_is_noticed_by_dvc_itself(folder: Path) -> None:
    """It is in a base file of the experiment."""
    path = folder / "params/own/recordings.yaml"
    text = path.read_text()
    path.write_text(text.replace("resample: true", "resample: false"))
    try:
        status = call(folder, "dvc", "status", "--json", "workflow/own/guides/dvc.yaml")
        stale = json.loads(status.stdout)
        assert {name.rpartition(":")[2] for name in stale} == {"recordings", "recordings_lm"}
    finally:
        path.write_text(text)

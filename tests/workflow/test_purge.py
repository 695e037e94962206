"""Files that disappear in the middle of an experiment, by a purge or by `d2v clean`."""

import json
import shutil
from pathlib import Path

import pytest
import workspace
import yaml
from workspace import d2v, planned, snakemake

pytestmark = pytest.mark.slow
RUNS, WORK = Path("results/tiny/runs"), Path("work/tiny")
SOURCE, ONE, OTHER = (
    "pretrain/text/seed0",
    "finetune/cola/data2vec/seed0",
    "finetune/cola/data2vec/seed1",
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the text part of the tiny experiment was run from beginning to end."""
    folder = workspace.make(tmp_path_factory.mktemp("purge"))
    path = folder / "params/tiny.yaml"
    content = yaml.safe_load(path.read_text())
    content["pretrain"] = {"text": content["pretrain"]["text"]}
    content["finetune"] = {"cola": content["finetune"]["cola"]}
    path.write_text(yaml.safe_dump(content))
    workspace.finished(folder, jobs=(ONE,))
    return folder


def edited(folder: Path, group: str, name: str, value: float) -> None:
    """Change one number of the parameters."""
    path = folder / "params/tiny.yaml"
    content = yaml.safe_load(path.read_text())
    if group == "loss":
        content["pretrain"]["text"]["loss"][name] = value
    else:
        content["finetune"]["cola"]["settings"]["data2vec"][name] = value
    path.write_text(yaml.safe_dump(content))


def times(folder: Path) -> dict[str, int]:
    """Time of every run's metrics but for those that the tests repeat."""
    paths = (folder / RUNS).rglob("metrics.json")
    names = {str(path.parent.relative_to(folder / RUNS)): path for path in paths}
    return {n: path.stat().st_mtime_ns for n, path in names.items() if n not in (SOURCE, ONE)}


def test_only_what_was_purged_and_is_needed_runs_again(copied: Path) -> None:
    """The weights of a pre-training are gone before one of its two fine-tunings has run."""
    weights = next((copied / WORK / SOURCE / "checkpoints").glob("step-6")) / "model.safetensors"
    for folder in (copied / WORK / SOURCE, copied / WORK / ONE):
        shutil.rmtree(folder / "checkpoints")
    assert planned(copied) == {}  # nothing needs them
    assert "purged" not in d2v(copied, "status").stdout

    (copied / RUNS / ONE / "metrics.json").unlink()
    said = d2v(copied, "status").stdout
    named = (
        "1 finished run has lost files that are still needed, and will run again:"
        f" {SOURCE} ({weights.relative_to(copied)} is gone)"
    )
    assert named in said
    states = {line.split()[0]: line.split()[1] for line in said.splitlines() if "/seed" in line}
    assert [states[run] for run in (SOURCE, ONE, OTHER)] == ["purged", "stopped", "done"]
    assert f"warning: {named}" in snakemake(copied, "-n").stderr
    assert planned(copied) == {"pretrain": 1, "finetune": 1, "tables": 1}

    before = times(copied)
    ran = snakemake(copied)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert weights.exists()
    assert times(copied) == before
    assert planned(copied) == {}
    assert "purged" not in d2v(copied, "status").stdout
    # a real change of the pre-training still reaches all that was made from it
    edited(copied, "loss", "beta", 3.0)
    assert planned(copied) == {"pretrain": 1, "finetune": 2, "tables": 1}


def test_a_purged_prediction_is_made_again_from_the_weights(copied: Path) -> None:
    path = copied / RUNS / ONE / "predictions-test.tsv"
    content = path.read_bytes()
    path.unlink()
    assert planned(copied) == {"finetune": 1, "tables": 1}
    # the training state is not needed for that
    for state in (copied / WORK / ONE / "checkpoints").glob("*/training.safetensors"):
        state.unlink()
    before = len((copied / WORK / ONE / "log.jsonl").read_text().splitlines())
    ran = snakemake(copied, str(RUNS / ONE / "metrics.json"))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert path.read_bytes() == content
    assert len((copied / WORK / ONE / "log.jsonl").read_text().splitlines()) == before
    assert "set aside" not in (copied / WORK / ONE / "train.log").read_text()


def test_what_is_left_after_cleaning_serves_everything(copied: Path) -> None:
    """Fine-tuning, evaluation and export; and nothing is planned because of it."""
    (copied / RUNS / ONE / "metrics.json").unlink()  # has yet to start from the weights
    (copied / WORK / ONE / "checkpoints").rename(copied / "elsewhere")
    listed = d2v(copied, "clean")
    assert listed.returncode == 0, listed.stderr
    assert "can be removed: run the command again with --yes" in listed.stdout
    states = list((copied / WORK).rglob("training.safetensors"))
    assert states
    plan = planned(copied)
    assert plan == {"finetune": 1, "tables": 1}

    assert d2v(copied, "clean", "--yes").returncode == 0
    assert not any(path.exists() for path in states)
    assert d2v(copied, "clean").stdout == "nothing to remove\n"
    kept = json.loads((copied / RUNS / SOURCE / "metrics.json").read_text())["checkpoint"]
    exported = workspace.command(copied, "convert", kept, "-o", "out", "--to", "hf")
    assert exported.returncode == 0, exported.stderr
    assert planned(copied) == plan

    said = d2v(copied, "clean", "--checkpoints", "none", "--yes").stdout
    assert f"{SOURCE}: {ONE} starts from its weights; they stay" in said
    assert (copied / kept / "model.safetensors").exists()
    assert not (copied / WORK / OTHER / "checkpoints/step-4/model.safetensors").exists()
    assert planned(copied) == plan
    ran = snakemake(copied)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert planned(copied) == {}

    assert d2v(copied, "clean", "--checkpoints", "none", "--yes").returncode == 0
    assert not list((copied / WORK).rglob("*.safetensors"))
    assert planned(copied) == {}
    assert "already done" in d2v(copied, "run", SOURCE).stdout
    edited(copied, "settings", "lr", 2e-3)  # now something needs the weights again
    assert planned(copied) == {"pretrain": 1, "finetune": 2, "tables": 1}


def test_damaged_metrics_are_made_again_and_reach_the_tables(copied: Path) -> None:
    """One file was cut, another is that of another seed: neither is a result."""
    cut, swapped = copied / RUNS / "finetune/cola/scratch/seed0", copied / RUNS / OTHER
    before = {run: (run / "metrics.json").read_bytes() for run in (cut, swapped)}
    (cut / "metrics.json").write_bytes(before[cut][:700])
    shutil.copytree(copied / RUNS / ONE, swapped, dirs_exist_ok=True)
    said = d2v(copied, "status").stdout
    assert "2 damaged" in said
    assert "2 finished runs have lost or damaged files" in said
    assert planned(copied) == {"finetune": 2, "tables": 1}

    ran = snakemake(copied)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for run, content in before.items():
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics["metrics"] == json.loads(content)["metrics"]
    assert "(n=2)" in (copied / "results/tiny/tables/glue.md").read_text()
    assert "of 2" not in (copied / "results/tiny/tables/glue.md").read_text()
    assert "damaged" not in d2v(copied, "status").stdout
    assert planned(copied) == {}

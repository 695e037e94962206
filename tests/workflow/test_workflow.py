"""The whole workflow on small data: all modalities, a grid, tables; again; through kills."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import workspace
from workspace import planned, snakemake

from d2v import params
from d2v.experiment import runs

pytestmark = pytest.mark.slow
RESULTS = Path("results/tiny/runs")
ARMS = ("scratch", "data2vec")  # of the tiny experiment


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tiny experiment was run from beginning to end.

    Its jobs are started in the test that kills them.
    """
    folder = workspace.make(tmp_path_factory.mktemp("workflow"))
    workspace.finished(folder)
    return folder


def metrics(folder: Path, run: str) -> dict[str, Any]:
    return json.loads((folder / RESULTS / run / "metrics.json").read_text())


def test_every_run_has_metrics_with_provenance(done: Path) -> None:
    experiment = params.load(done / "params/tiny.yaml")
    for run in runs.all_runs(experiment):
        found = metrics(done, run.id)
        assert found["run"] == run.id
        splits = {"pretrain": set(), "select": {"dev"}, "finetune": {"dev", "test"}}[run.kind]
        assert set(found["metrics"]) == splits
        provenance = found["provenance"]
        for name in ("params_sha256", "code_sha256"):
            assert re.fullmatch(r"[0-9a-f]{64}", provenance[name])
        assert set(provenance["data_sha256"]) == set(run.datasets)
        assert provenance["seed"] == run.seed
        assert provenance["threads"] == 1
        assert provenance["wall_s"] > 0
        assert 50 < provenance["peak_mib"] < 6000
        assert {"python", "torch"} <= set(provenance["versions"])
    assert metrics(done, "finetune/cola/data2vec/seed1")["pretrain_run"] == "pretrain/text/seed0"


def test_arms_differ_and_seeds_differ(done: Path) -> None:
    losses = {
        (arm, seed): metrics(done, f"finetune/cola/{arm}/seed{seed}")["loss"]
        for arm in ARMS
        for seed in (0, 1)
    }
    assert len(set(losses.values())) == 4


def test_the_grids_choice_is_used(done: Path) -> None:
    chosen = json.loads((done / RESULTS / "select/digits/chosen.json").read_text())
    for arm in ARMS:
        setting = metrics(done, f"finetune/digits/{arm}/seed1")["setting"]
        assert setting == {key: chosen[arm][key] for key in ("lr", "steps", "freeze")}


def test_metrics_are_those_of_the_kept_predictions(done: Path) -> None:
    from d2v.evaluation import predictions

    for run, names in (
        ("finetune/digits/data2vec/seed0", ["accuracy"]),
        ("finetune/spoken-digits/scratch/seed1", ["wer", "cer", "greedy_wer", "greedy_cer"]),
        ("finetune/cola/data2vec/seed0", ["matthews", "accuracy"]),
    ):
        for split in ("dev", "test"):
            again = predictions.score(done / RESULTS / run / f"predictions-{split}.tsv", names)
            assert again == metrics(done, run)["metrics"][split]


def test_the_page_and_its_numbers_are_there(done: Path) -> None:
    page = (done / "results/tiny/index.html").read_text()
    assert "runs are finished" in page
    assert 'id="pretrain-vision-attention"' in page
    assert 'id="pretrain-speech-loss"' in page
    assert (done / "results/tiny/summary/metrics/finetune/cola/data2vec/seed0.json").exists()
    checked = workspace.d2v(done, "verify", "results/tiny")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "are what the stored predictions give" in checked.stdout


def test_rebuilding_the_tables_keeps_what_lies_among_the_results(copied: Path) -> None:
    """Snakemake removes the outputs of a rule before it runs: only files that the rule writes."""
    theirs = [
        copied / "results/tiny" / name
        for name in ("notes.txt", "summary/notes.txt", "tables/notes.txt", "summary/mine/a.json")
    ]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    made = snakemake(copied, "--forcerun", "tables")
    assert made.returncode == 0, made.stdout + made.stderr
    assert [path.read_text() for path in theirs] == ["mine"] * len(theirs)
    (copied / "results/tiny/summary/files.json").unlink()
    assert planned(copied) == {"tables": 1}


def test_the_report_of_the_workflow_holds_tables_and_page(copied: Path) -> None:
    made = snakemake(copied, "--report", "report.zip")
    assert made.returncode == 0, made.stdout + made.stderr
    with zipfile.ZipFile(copied / "report.zip") as report:
        names = report.namelist()
        texts = "".join(report.read(n).decode("utf-8", "replace") for n in names if "data" in n)
    for name in ("imagenet.html", "glue.csv", "librispeech.tex", "index.html"):
        assert any(path.endswith(name) for path in names), names
    assert "in the shape of the paper" in texts  # the captions


def test_tables_are_there_with_every_run(done: Path) -> None:
    for table, task in (("imagenet", "digits"), ("librispeech", "spoken-digits"), ("glue", "cola")):
        for suffix in ("csv", "md"):
            text = (done / f"results/tiny/tables/{table}.{suffix}").read_text()
            assert text
        cells = (done / f"results/tiny/tables/{table}.csv").read_text()
        for arm in ARMS:
            assert f"finetune/{task}/{arm}/seed0" in cells


def test_a_second_run_does_nothing(done: Path) -> None:
    ran = snakemake(done)
    assert ran.returncode == 0
    assert "Nothing to be done" in ran.stdout + ran.stderr


def test_a_missing_run_is_found_whatever_was_made_from_it(copied: Path) -> None:
    """Tables and fine-tunings are there, and a preview of the tables is newer than all of them."""
    (copied / RESULTS / "pretrain/text/seed0/metrics.json").unlink()
    assert workspace.d2v(copied, "tables").returncode == 0
    found = planned(copied)
    assert found["pretrain"] == 1
    assert found["tables"] == 1


def test_a_missing_choice_is_made_again(copied: Path) -> None:
    """It is shared by the runs of a task, which are all there."""
    chosen = copied / RESULTS / "select/digits/chosen.json"
    content = chosen.read_text()
    chosen.unlink()
    assert planned(copied)["choose"] == 1
    ran = snakemake(copied, str(chosen.relative_to(copied)))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert chosen.read_text() == content


def test_a_preview_of_the_tables_is_no_result(tmp_path: Path) -> None:
    folder = workspace.make(tmp_path)
    before = planned(folder)
    told = workspace.d2v(folder, "tables")
    assert told.returncode == 0, told.stderr
    assert "preview: 0 of" in told.stdout
    assert planned(folder) == before
    assert before["pretrain"] == 4
    assert planned(folder, "tables") == before


def test_a_finished_run_is_left_as_it_is(copied: Path) -> None:
    def states() -> dict[Path, int]:
        files = [p for name in ("work", "results") for p in (copied / name).rglob("*")]
        return {path: path.lstat().st_mtime_ns for path in files}

    before = states()
    for run in ("pretrain/text/seed0", "finetune/cola/data2vec/seed1"):
        told = workspace.d2v(copied, "run", run)
        assert told.returncode == 0, told.stderr
        assert f"{run}: already done" in told.stdout
    assert states() == before


def test_rewritten_equal_data_reruns_nothing(copied: Path) -> None:
    meta = copied / "prepared/tiny/digits/meta.json"
    meta.write_text(meta.read_text())
    assert planned(copied) == {}
    meta.write_text(meta.read_text().replace('"sha256": "', '"sha256": "0'))
    # downstream of the pre-trainings and of the grid everything of this task, and its table
    assert planned(copied) == {
        "pretrain": 2,
        "grid_point": 4,
        "choose": 1,
        "finetune": 4,
        "tables": 1,
    }


def test_an_edited_rate_reruns_its_arm_only(copied: Path) -> None:
    path = copied / "params/tiny.yaml"
    path.write_text(path.read_text().replace("scratch: {lr: 1e-3", "scratch: {lr: 2e-3"))
    told = snakemake(copied, "-n").stdout
    assert planned(copied) == {"finetune": 4, "tables": 1}
    assert "Fine-tune cola from scratch, seed 0: 4 steps, learning rate 0.002" in told
    assert "Params have changed" in told


def test_overrides_are_an_experiment_of_its_own(copied: Path) -> None:
    words = ["snakemake", "--cores", "2", "-n", "--config", "experiment=params/tiny.yaml"]
    told = workspace.call(copied, *words, "set=[pretrain.vision.optimiser.lr=7e-4, name=other]")
    assert told.returncode == 0, told.stdout + told.stderr
    done = {run.id for run in runs.all_runs(params.load(copied / "params/tiny.yaml"))}
    found = params.load(copied / "results/other/params.yaml")
    assert found.pretrain["vision"].optimiser.lr == 7e-4
    assert {run.id for run in runs.all_runs(found)} == done
    anew = sum(run.startswith("pretrain/") for run in done)
    assert workspace.jobs(told.stdout + told.stderr)["pretrain"] == anew
    wrong = workspace.call(copied, *words, "set=pretrain.vision.optimiser.lrr=1")
    assert wrong.returncode == 2
    assert "pretrain.vision.optimiser.lrr=1: unknown key; did you mean lr?" in wrong.stderr


def test_edited_rules_rerun_nothing(copied: Path) -> None:
    path = copied / "workflow/rules/pretrain.smk"
    path.write_text(path.read_text().replace("exec d2v run", "d2v run"))
    assert planned(copied) == {}


def test_wrong_parameters_stop_it_before_the_plan(copied: Path) -> None:
    path = copied / "params/tiny.yaml"
    path.write_text(path.read_text().replace("top_k: 1", "topk: 1"))
    told = snakemake(copied, "-n")
    assert told.returncode == 2
    assert "Traceback" not in told.stderr
    assert "pretrain.speech.target.topk: unknown key; did you mean top_k?" in told.stderr
    assert "pretrain.text.target.topk: unknown key" in told.stderr


def test_a_failed_run_stops_it_with_the_runs_sentence(copied: Path) -> None:
    path = copied / "params/tiny.yaml"
    path.write_text(path.read_text().replace("classes: 2, pool: first", "classes: 2, pool: mean"))
    shutil.rmtree(copied / "prepared/tiny/cola/train")
    told = workspace.call(
        copied, "d2v.cli", "reproduce", "--params", "params/tiny.yaml", "--cores", "1"
    )
    assert told.returncode != 0
    failed = re.match(r"error: (finetune/cola/\S+): prepared/tiny/cola", told.stderr)
    assert failed, told.stderr
    assert told.stderr.endswith("Full output: work/tiny/workflow.log\n")
    assert "Error in rule finetune" in (copied / "work/tiny/workflow.log").read_text()
    assert not (copied / RESULTS / failed[1] / "metrics.json").exists()


def test_the_report_works(done: Path) -> None:
    ran = snakemake(done, "--report", "report.html")
    assert ran.returncode == 0, ran.stderr
    page = (done / "report.html").read_text()
    assert "in the shape of the paper" in page
    assert "librispeech.md" in page


def test_lint_finds_nothing_but_the_missing_container(done: Path) -> None:
    # the environment is the locked one that Snakemake itself runs in
    found = set(re.findall(r"^ {4}\* (.*)$", snakemake(done, "--lint").stdout, re.M))
    assert found <= {"Specify a conda environment or container for each rule.:"}


def one_seed(folder: Path) -> Path:
    """The folder with the tiny experiment reduced to one seed of each model."""
    path = folder / "params/tiny.yaml"
    path.write_text(path.read_text().replace("seeds: [0, 1]", "seeds: [0]"))
    return folder


def test_killed_at_any_point_it_ends_with_the_same_results(copied: Path, tmp_path: Path) -> None:
    """As jobs of its own, killed on the way, and in this process."""
    done = one_seed(copied)
    assert workspace.d2v(done, "tables").returncode == 0
    folder = one_seed(workspace.make(tmp_path / "killed"))
    command = [sys.executable, "-m", "d2v.cli", "reproduce", "--params", "params/tiny.yaml"]
    moments = random.Random(os.environ.get("D2V_SEED", "0"))
    for victim in ("all", "snakemake", "all", "reproduce"):
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(2 + 6 * moments.random())
        if victim == "all":
            os.killpg(process.pid, signal.SIGKILL)
        elif victim == "snakemake":  # its jobs go on, and are found again
            os.kill(child_of(process.pid), signal.SIGKILL)
        else:  # the workflow goes on, and is waited for
            process.kill()
        process.wait()
    ran = workspace.call(folder, *command[2:])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "full output: work/tiny/workflow.log" in ran.stdout
    assert len(ran.stdout.splitlines()) < 70  # a line per run, and the tables

    for run in runs.all_runs(params.load(folder / "params/tiny.yaml")):
        once, killed = metrics(done, run.id), metrics(folder, run.id)
        for name in ("provenance", "train_s", "examples_per_s", "steps_per_s"):
            once.pop(name), killed.pop(name)
        assert once == killed
        for split in once["metrics"]:
            predictions = RESULTS / run.id / f"predictions-{split}.tsv"
            assert (done / predictions).read_bytes() == (folder / predictions).read_bytes()
    for table in (done / "results/tiny/tables").iterdir():
        assert table.read_text() == (folder / "results/tiny/tables" / table.name).read_text()
        if table.suffix == ".md":
            assert table.read_text().splitlines()[0].removeprefix("# ") in ran.stdout


def child_of(pid: int) -> int:
    """The one child of a process, once it has one."""
    for _ in range(1000):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.01)
    raise AssertionError("no child")

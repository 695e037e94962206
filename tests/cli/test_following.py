"""What `d2v reproduce` prints while Snakemake writes its log, and how much the demo prints."""

import io
import json
import os
import re
import sys
from pathlib import Path

import mock_paper
import pytest

from d2v import params
from d2v.cli.following import Follower
from d2v.experiment import folders, runs
from d2v.results import tables
from d2v.util.files import write_json
from d2v.util.verbosity import QUIET, USUAL, VERBOSE, choose

ROOT = Path(__file__).resolve().parents[2]
LOG = Path("work/mini/workflow.log")


@pytest.fixture
def mini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params.Experiment:
    experiment = params.load(ROOT / "params/mini.yaml")
    monkeypatch.chdir(tmp_path)
    LOG.parent.mkdir(parents=True)
    LOG.touch()
    return experiment


def write(text: str) -> None:
    with LOG.open("a") as file:
        file.write(text)


def finish(experiment: params.Experiment, run_id: str) -> None:
    run = runs.parse(experiment, run_id)
    mock_paper.write(run, folders.results(experiment))
    content = json.loads(run.metrics_path.read_text())
    write_json(run.metrics_path, content | {"provenance": {"wall_s": 61.0}, "target_std": 0.9})


@pytest.mark.parametrize(
    ("level", "shown"), [(QUIET, ["warning: b"]), (VERBOSE, ["rule data:", "warning: b"])]
)
def test_quiet_and_verbose(
    mini: params.Experiment, capsys: pytest.CaptureFixture[str], level: int, shown: list[str]
) -> None:
    follower = Follower(mini, LOG)
    finish(mini, "pretrain/vision/seed0")
    write("rule data:\nwarning: b\n")
    choose(level)
    try:
        follower.look()
    finally:
        choose(USUAL)
    lines = [re.sub(r"^[-\d]+ [:\d]+  ", "", x) for x in capsys.readouterr().out.splitlines()]
    assert lines == shown


def test_finished_seeds_are_one_line_with_time_and_score(
    mini: params.Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    finish(mini, "pretrain/text/seed0")  # of an earlier workflow
    follower = Follower(mini, LOG)
    finish(mini, "pretrain/vision/seed0")
    write("pretrain/vision/seed0 | 2026-01-02 10:00:00  step 1/2  loss 1.0\n[Fri Jan 2]\n")
    follower.look()
    assert capsys.readouterr().out == ""
    write("Finished jobid: 7 (Rule: pretrain)\n1 of 9 steps (11%) done\nwarning: be")
    follower.look()
    write(" careful\n")
    for name in runs.all_datasets(mini):
        write_json(folders.meta_path(mini, name), {})
    for seed in (0, 1):
        finish(mini, f"finetune/digits/scratch/seed{seed}")
    write("2 of 9 steps (22%) done\n")
    follower.look()
    for seed in (0, 1, 2):
        finish(mini, f"finetune/digits/input/seed{seed}")
        write(f"{3 + seed} of 9 steps (33%) done\n")
        follower.look()
    os.utime(runs.parse(mini, "pretrain/vision/seed0").metrics_path)  # as Snakemake does
    follower.close()
    shown = [re.sub(r"^[-\d]+ [:\d]+  ", "", x) for x in capsys.readouterr().out.splitlines()]
    assert re.fullmatch(
        r"\[1/9\]  pretrain/vision/seed0  0:01:01  loss 0\.\d{4}  target std 0\.9000", shown[0]
    )
    assert shown[1:3] == [
        "warning: be careful",
        "[2/9]  data  prepared: " + ", ".join(runs.all_datasets(mini)),
    ]
    assert re.fullmatch(
        r"\[5/9\]  finetune/digits/input  3 seeds  0:03:03  test accuracy 0\.\d{4}", shown[3]
    )
    assert re.fullmatch(  # told at the end, since a third seed never finished
        r"\[5/9\]  finetune/digits/scratch  2 seeds  0:02:02  test accuracy 0\.\d{4}", shown[4]
    )
    scores = [runs.parse(mini, f"finetune/digits/input/seed{n}").metrics_path for n in (0, 1, 2)]
    mean = sum(json.loads(p.read_text())["metrics"]["test"]["accuracy"] for p in scores) / 3
    assert f"accuracy {mean:.4f}" in shown[3]
    assert len(shown) == 5


def test_lines_come_in_the_order_of_the_runs(
    mini: params.Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    follower = Follower(mini, LOG)
    for name in mini.pretrain:
        finish(mini, f"pretrain/{name}/seed0")
    follower.close()
    told = re.findall(r"pretrain/([\w-]+)/seed0", capsys.readouterr().out)
    assert told == [run.name for run in follower.runs if run.kind == "pretrain"]
    assert len(told) == len(mini.pretrain) == 7


def test_a_failure_is_explained_by_its_messages_or_the_end_of_the_log(
    mini: params.Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    follower = Follower(mini, LOG)
    write("".join(f"line {n}\n" for n in range(50)))
    follower.close()
    assert follower.failure() == [f"line {n}" for n in range(30, 50)]
    write("pretrain/text/seed0 | error: no space\nerror: pretrain/text/seed0: no space\nmore\n")
    follower.close()
    assert follower.failure() == ["error: pretrain/text/seed0: no space"]
    assert capsys.readouterr().out == ""


def test_a_terminal_has_a_bar_with_the_running_step(
    mini: params.Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    follower = Follower(mini, LOG)
    finish(mini, "pretrain/vision/seed0")
    write("1 of 9 steps (11%) done\n")
    write("pretrain/text/seed0 | 2026-01-02 10:00:00  step 5/10  loss 0.5000  ETA 0:00:10\n")
    follower.close()
    shown = terminal.getvalue()
    assert "[1/9]  pretrain/vision/seed0  0:01:01" in shown
    assert " 1/9 [" in shown
    assert "pretrain/text/seed0 step 5/10, loss 0.5000" in shown


def test_the_demo_prints_under_100_lines(
    mini: params.Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    """All sets and runs from nothing; the lines around the tables are those of reproduce."""
    follower = Follower(mini, LOG)
    for name in runs.all_datasets(mini):
        write_json(folders.meta_path(mini, name), {})
    for number, run in enumerate(runs.all_runs(mini), start=1):
        finish(mini, run.id)
        write(f"{number} of 99 steps (1%) done\n")
    follower.close()
    Path("params").symlink_to(ROOT / "params")
    print(tables.render_console(mini, folders.results(mini)))
    out = capsys.readouterr().out
    around = 5
    assert len(out.splitlines()) + around < 100

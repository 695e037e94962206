"""d2v plan: counted operations, their totals, and speed assumed or measured."""

import json
from pathlib import Path

import pytest

from d2v import cli, flops, params, plan
from d2v.errors import UserError

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "params" / "paper.yaml"


@pytest.fixture(scope="module")
def paper():
    return params.load(PAPER)


@pytest.fixture(scope="module")
def jobs(paper):
    return plan.plan(paper, plan.speed_of("h100", 0.5, None))


def test_operations_of_a_small_model_are_those_of_its_formula():
    mini = params.load(ROOT / "params" / "mini.yaml").pretrain["vision"]
    b, patches = mini.backbone, mini.encoder.grid**2
    tokens = patches + 1
    embed = 2 * patches * 3 * mini.encoder.patch_size**2 * b.dim
    block = 2 * tokens * b.dim * (4 * b.dim + 2 * b.ffn_dim) + 4 * tokens**2 * b.dim
    head = 2 * patches * b.dim**2
    student = embed + b.depth * block
    # every parameter of vision is averaged: the teacher embeds the image itself
    assert flops.pretraining(mini, 1) == 3 * (student + head) + student
    assert flops.finetuning(mini, 1, 10, frozen=False) == 3 * (student + 20 * patches * b.dim)


def test_totals_of_the_papers_pretrainings(jobs):
    """About 1.4e20, 0.8e20 and 1e20 operations by an estimate made by hand."""
    work = {job.run: 1e15 * job.pflop for job in jobs}
    assert work["pretrain/vision-base/seed0"] == pytest.approx(1.4e20, rel=0.1)
    assert work["pretrain/speech-base/seed1"] == pytest.approx(0.8e20, rel=0.1)
    assert work["pretrain/text-base/seed1"] == pytest.approx(0.95e20, rel=0.1)


def test_every_run_is_planned_and_pretrainings_count_for_their_table(paper, jobs):
    from d2v import runs

    assert [job.run for job in jobs] == [run.id for run in runs.all_runs(paper)]
    table = {job.run.split("/")[1]: job.table for job in jobs if job.run.startswith("pretrain")}
    assert table["vision-large-stage1"] == "imagenet"
    assert table["text-spans"] == "glue"
    assert table["audioset-base"] == "audioset"
    stage = next(j for j in jobs if j.run == "pretrain/vision-base/seed0")
    assert stage.examples == 500_000 * 2048
    assert stage.gpu_hours == pytest.approx(1e15 * stage.pflop / (0.5 * 989e12) / 3600)


def test_a_measured_rate_takes_the_place_of_the_assumed_one(tmp_path):
    file = tmp_path / "h200.json"
    step = {"vision": {"fraction_of_gemm": 0.6}, "speech": {"fraction_of_gemm": 0.5}}
    file.write_text(json.dumps({"device": "H200", "gemm_gflops": 700_000, "step": step}))
    speed = plan.speed_of("h100", 0.4, file)
    assert speed.flops == {"vision": pytest.approx(4.2e14), "speech": pytest.approx(3.5e14)}
    assert speed.source == f"H200, measured ({file})"
    file.write_text("{}")
    with pytest.raises(UserError, match="no result of a benchmark"):
        plan.speed_of("h100", 0.4, file)
    with pytest.raises(UserError, match="known are v100"):
        plan.speed_of("abacus", 0.4, None)


def test_the_command_prints_runs_totals_and_assumptions(capsys):
    assert cli.main(["plan", str(PAPER)]) == 0
    text = capsys.readouterr().out
    assert "h100 at 40% of 989 TFLOP/s, assumed" in text
    for word in ("pretrain/vision-base", "decode/librispeech-base-10min", "all ", "checkpoints"):
        assert word in text
    assert cli.main(["plan", str(PAPER), "--utilisation", "2"]) != 0


def test_json_holds_every_run(capsys):
    assert cli.main(["plan", str(ROOT / "params" / "mini.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {job["table"] for job in found["jobs"]} == {"imagenet", "librispeech", "glue"}
    assert all(job["gpu_hours"] > 0 for job in found["jobs"])

"""d2v plan: counted operations, their totals, and speed assumed or measured."""

import json
from pathlib import Path

import pytest

from d2v import params
from d2v.cli import commands as cli
from d2v.jobs import flops, plan
from d2v.util.errors import UserError

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "params" / "paper.yaml"


@pytest.fixture(scope="module")
def paper():
    return params.load(PAPER)


@pytest.fixture(scope="module")
def jobs(paper):
    return plan.plan(paper, plan.speed_of("h100", 0.5, None))


@pytest.mark.slow
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


@pytest.mark.slow
def test_totals_of_the_papers_pretrainings(jobs):
    """About 1.4e20, 0.8e20 and 1e20 operations by an estimate made by hand."""
    work = {job.run: 1e15 * job.pflop for job in jobs}
    assert work["pretrain/vision-base/seed0"] == pytest.approx(1.4e20, rel=0.1)
    assert work["pretrain/speech-base/seed1"] == pytest.approx(0.8e20, rel=0.1)
    assert work["pretrain/text-base/seed1"] == pytest.approx(0.95e20, rel=0.1)


def test_blocks_count_as_if_each_had_been_run(paper):
    from torch.utils.flop_counter import FlopCounterMode

    from d2v.interop.module import without_values
    from d2v.model.data2vec import Student

    p = paper.pretrain["vision-base"]
    backbone = p.backbone.model_copy(update={"depth": 5, "drop_path": 0.0})
    with without_values():
        student = Student(p.encoder, backbone).eval()
    with FlopCounterMode(display=False) as counter:
        student(student.encoder.example(1))
    found = flops._counted(p.model_copy(update={"backbone": backbone}), 1)
    assert found.encoder + found.backbone == counter.get_total_flops()
    assert found.parameters == sum(x.numel() for x in student.parameters())


def test_only_speech_shares_its_front_end(paper):
    p, size = paper.pretrain["speech-base"], 196_800
    alone = p.model_copy(update={"ema": p.ema.model_copy(update={"shared": []})})
    front = flops._counted(p, size).encoder
    assert flops.pretraining(alone, size) - flops.pretraining(p, size) == pytest.approx(front)


def test_the_three_base_pretrainings_fit_300_hours_of_one_gpu(paper):
    shares = plan.shares("vision=0.5,text=0.45,speech=0.4")
    speed = plan.speed_of("h100", shares, None)
    base = plan.plan(paper, speed, [f"pretrain/{kind}-base" for kind in params.MODALITIES])
    assert [job.run.split("/")[1] for job in base] == ["vision-base", "speech-base", "text-base"]
    assert [job.gpu_hours for job in base] == pytest.approx([81.2, 58.5, 62.9], abs=0.5)
    # the paper's second masking of text, too
    assert (
        sum(job.gpu_hours for job in [*base, *plan.plan(paper, speed, ["pretrain/text-spans"])])
        < 300
    )


def test_utilisation_is_one_share_or_one_a_modality():
    assert plan.shares("0.5") == {"vision": 0.5, "speech": 0.5, "text": 0.5}
    some = plan.shares("speech=0.3, vision=0.5")
    assert some == {"vision": 0.5, "speech": 0.3, "text": plan.USUAL}
    speed = plan.speed_of("a100", some, None)
    assert speed.flops["speech"] == pytest.approx(0.3 * 312e12)
    assert speed.source == (
        "a100 at 50% (vision), 30% (speech), 40% (text) of 312 TFLOP/s, assumed"
    )


def test_without_a_utilisation_the_measured_one_of_the_nearest_device_is_taken():
    assert plan.NEAREST.keys() == plan.PEAK.keys()
    file = ROOT / "benchmarks/results/gpu-nvidia-h200.json"
    found = json.loads(file.read_text())
    shares = {kind: row["utilisation"] for kind, row in found["captured"].items()}
    assert plan.MEASURED["h200"] == {kind: round(share, 3) for kind, share in shares.items()}
    assert plan.MEASURED_ON["h200"] == found["date"]
    speed = plan.speed_of("a100", None, None)
    assert speed.flops["text"] == pytest.approx(0.296 * 312e12)
    assert speed.source.endswith("of 312 TFLOP/s, measured (h200, 2026-11-27)")
    assert plan.speed_of("h200", None, file).source.startswith("NVIDIA H200, measured")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("2", "'2' is not a share above 0"),
        ("nan", "'nan' is not a share"),
        ("", "'' is not a share"),
        ("half", "'half' is not a share"),
        ("vision=50", "'50' is not a share"),
        ("vision=", "'' is not a share"),
        ("sight=0.5", "'sight=0.5': give each of vision, speech, text at most once"),
        ("text=0.5,text=0.4", "'text=0.4': give each of"),
        ("text=0.5,", "'': give each of"),
        ("0.5,text=0.4", "'0.5': give each of"),
    ],
)
def test_what_is_no_utilisation_is_refused(words, problem):
    with pytest.raises(UserError, match=problem):
        plan.shares(words)


def test_every_run_is_planned_and_pretrainings_count_for_their_table(paper, jobs):
    from d2v.experiment import runs

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
    mini = params.load(ROOT / "params" / "mini.yaml")
    with pytest.raises(UserError, match="no rate for text, which pretrain/text"):
        plan.plan(mini, speed)
    assert plan.plan(mini, speed, ["pretrain/vision"])  # other runs are not counted
    file.write_text("{}")
    with pytest.raises(UserError, match="not a result file of a benchmark"):
        plan.speed_of("h100", 0.4, file)
    with pytest.raises(UserError, match="unknown device; use one of v100"):
        plan.speed_of("abacus", 0.4, None)


def test_the_command_prints_runs_totals_and_assumptions(capsys):
    assert cli.main(["plan", str(PAPER)]) == 0
    text = capsys.readouterr().out
    assert (
        "h100 at 27% (vision), 28% (speech), 30% (text) of 989 TFLOP/s, measured (h200, 2026-11-27)"
        in text
    )
    for word in ("pretrain/vision-base", "decode/librispeech-base-10min", "all ", "checkpoints"):
        assert word in text
    assert max(map(len, text.split("\n\n")[0].splitlines())) <= 100
    cola = next(line for line in text.splitlines() if line.startswith("finetune/cola "))
    assert cola.split()[-3:] == ["<0.1", "0", "1"]
    assert cli.main(["plan", str(PAPER), "--utilisation", "2"]) != 0


def test_some_runs_alone_are_planned(capsys):
    words = ["plan", str(ROOT / "params" / "mini.yaml"), "--only"]
    assert cli.main([*words, "pretrain/text", "finetune/*/scratch/seed1"]) == 0
    text = capsys.readouterr().out
    assert "pretrain/text" in text
    assert "pretrain/vision" not in text
    assert "finetune/cola" in text
    assert cli.main([*words, "pretrain/sight"]) != 0
    assert "--only pretrain/sight: no such run; try pretrain/*" in capsys.readouterr().err


def test_json_holds_every_run(capsys):
    assert cli.main(["plan", str(ROOT / "params" / "mini.yaml"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {job["table"] for job in found["jobs"]} == {"imagenet", "librispeech", "glue"}
    trained = [job for job in found["jobs"] if not job["run"].startswith("probe/")]
    assert len(trained) < len(found["jobs"])
    assert all(job["gpu_hours"] > 0 for job in trained)


def test_a_long_training_is_a_chain_of_jobs(jobs, paper):
    by_run = {job.run: job for job in jobs}
    long = max(jobs, key=lambda job: job.hours)
    limit = plan.cluster.load().slurm.of(long.run).hours
    assert (long.links - 1) * limit < long.hours <= long.links * limit
    assert long.links > 1
    short = min(jobs, key=lambda job: job.hours)
    assert by_run[short.run].links == 1

"""`d2v plan`: what an experiment costs, before anything is started.

Nothing is read but parameters: operations are counted from the models (d2v.flops), time follows
from a device's rate and a utilisation, or from a measured rate; disk from the sets' known sizes and
the weights. Validation, evaluation and data loading are not counted.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from d2v import cluster, params, runs
from d2v.errors import UserError
from d2v.params import Experiment, Finetune, Pretrain
from d2v.runs import Run

KEPT = 2  # checkpoints of a run on disk (d2v.trainer.KEEP)
# dense bf16 (V100: fp16) matrix products by the maker's data sheets, operations a second
PEAK = {"v100": 125e12, "a100": 312e12, "h100": 989e12, "h200": 989e12}
SPEECH_S = 12.3  # mean utterance of LibriSpeech: 961 h / 281,241
LABELLED_TOKENS = 128  # GLUE: more than the mean length of any of its tasks
RATE = 16_000
# about, once prepared; GB
DISK_GB = {
    "imagenet": 150, "librispeech": 62, "librilight": 3600, "audioset": 350, "lm": 4,
    "corpus": 7, "tokenizer": 0.01,
}  # fmt: skip
# decoding with a beam search: seconds of one core a second of speech, at a beam of 500; twice what
# benchmarks/decoding.py found with a small language model
DECODING = 0.1
DEV_HOURS, TEST_HOURS = 5.3, 16.2  # LibriSpeech: dev-other; test-other, test-clean, dev-clean


@dataclass(frozen=True)
class Job:
    """One run and what it takes."""

    run: str
    table: str
    updates: int
    examples: float  # seen, with repetitions
    pflop: float  # 1e15 operations
    gpus: int
    gpu_hours: float
    hours: float
    cpu_hours: float
    disk_gb: float


@dataclass(frozen=True)
class Speed:
    """Operations a second of one GPU, and where the figure comes from."""

    flops: dict[str, float]  # by modality
    source: str


def plan(experiment: Experiment, speed: Speed) -> list[Job]:
    """Every run of the experiment in the order in which they could be done."""
    places = cluster.load().slurm
    jobs = []
    for run in runs.all_runs(experiment):
        resources = places.of(run.id)
        gpus = resources.nodes * max(resources.gpus, 1)
        jobs.append(_job(experiment, run, speed, gpus))
    return jobs


def _job(experiment: Experiment, run: Run, speed: Speed, gpus: int) -> Job:
    if run.kind == "decode":
        return _decoding(experiment, run)
    from d2v import flops  # here: it imports torch, which a mistake in a file need not wait for

    model = runs.pretrain_of(experiment, run)
    if run.kind == "pretrain":
        table, train, steps = _served(experiment, run.name), model.train, model.train.steps
        size = _size(model, labelled=False)
        one = flops.pretraining(model, size)
        copies = 4  # student, teacher, two moments of Adam
    else:
        task = experiment.finetune[run.name]
        table, train = task.table, task.train
        setting = runs.given_setting(experiment, run)
        steps = setting.steps if setting else max(task.grid.steps if task.grid else [0])
        frozen = bool(setting and setting.freeze)
        size = _size(model, labelled=True)
        one = flops.finetuning(model, size, _outputs(task), frozen)
        copies = 3
    if runs.released_of(experiment, run):
        steps, copies = 0, 1
    examples = steps * _examples(train, size)
    work = examples * one
    hours = work / speed.flops[model.encoder.kind] / 3600
    disk = KEPT * copies * 4 * flops.parameter_count(model, size) / 1e9
    return Job(run.id, table, steps, examples, work / 1e15, gpus, hours, hours / gpus, 0.0, disk)


def _served(experiment: Experiment, pretrain: str) -> str:
    """The first table that needs a pre-training, itself or one that starts from it."""
    needed = {pretrain}
    while more := {n for n, p in experiment.pretrain.items() if p.start_from in needed} - needed:
        needed |= more
    tables = [task.table for task in experiment.finetune.values() if task.pretrain in needed]
    return tables[0] if tables else "none"


def _decoding(experiment: Experiment, run: Run) -> Job:
    decode = experiment.finetune[run.name].decode
    assert decode
    assert decode.search
    search = decode.search.trials * DEV_HOURS * decode.search.beam / 500
    hours = DECODING * (search + (DEV_HOURS + TEST_HOURS) * decode.beam / 500)
    table = experiment.finetune[run.name].table
    return Job(run.id, table, 0, 0.0, 0.0, 0, 0.0, hours / decode.cpus, hours, 0.1)


def _size(p: Pretrain, labelled: bool) -> int:
    """Typical length of an example: samples, or tokens."""
    if isinstance(p.view, params.WaveAugment):
        longest = p.view.max_samples if not labelled else None
        return min(round(SPEECH_S * RATE), longest or round(SPEECH_S * RATE))
    if isinstance(p.view, params.TokenAugment):
        return min(LABELLED_TOKENS, p.view.max_tokens) if labelled else p.view.max_tokens
    return 1


def _examples(train: params.Train, size: int) -> float:
    """Examples an optimiser step."""
    if train.sized:
        return train.sized.micro_batches * train.sized.size / size
    assert train.batch
    return train.batch


def _outputs(task: Finetune) -> int:
    return getattr(task.task, "classes", 32)


def speed_of(device: str, utilisation: float, measured: Path | None) -> Speed:
    """Rate of a device at a utilisation, or as a benchmark measured it.

    Raises UserError for an unknown device and a file that is no benchmark's.
    """
    if measured is None:
        if device not in PEAK:
            raise UserError(f"--device {device}: known are {', '.join(PEAK)}")
        rate = PEAK[device] * utilisation
        words = f"{device} at {utilisation:.0%} of {PEAK[device] / 1e12:.0f} TFLOP/s, assumed"
        return Speed(dict.fromkeys(("vision", "speech", "text"), rate), words)
    try:
        found = json.loads(measured.read_text())
        gemm = 1e9 * float(found["gemm_gflops"])
        rates = {kind: gemm * float(s["fraction_of_gemm"]) for kind, s in found["step"].items()}
        return Speed(rates, f"{found['device']}, measured ({measured})")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{measured}: no result of a benchmark of steps ({type(error).__name__}: {error})"
        ) from None


def report(experiment: Experiment, jobs: Sequence[Job], speed: Speed) -> str:
    """The jobs of one shape a line each, and totals of each table."""
    import pandas as pd

    frame = pd.DataFrame([asdict(job) for job in jobs])
    frame["job"] = ["/".join(job.run.split("/")[:2]) for job in jobs]
    first = dict.fromkeys(("updates", "examples", "pflop", "gpus", "gpu_hours", "cpu_hours"), "max")
    each = frame.groupby(["table", "job"], sort=False).agg({"run": "size", **first})
    rows = [
        [
            str(job),
            f"{r['run']:,.0f}",
            f"{r['updates']:,.0f}",
            f"{r['examples']:.3g}",
            f"{1e15 * r['pflop']:.2g}",
            f"{r['gpus']:.0f}",
            _hours(r["gpu_hours"]),
            _hours(r["cpu_hours"]),
        ]
        for (_, job), r in zip(each.index, each.to_dict("records"), strict=True)
    ]
    header = ["", "runs", "updates", "examples", "FLOP", "GPUs", "GPU-hours", "CPU-hours"]
    sums = frame.groupby("table", sort=False)[["pflop", "gpu_hours", "cpu_hours"]].sum()
    totals = [
        [str(name), f"{1e15 * t.pflop:.2g}", _hours(t.gpu_hours), _hours(t.cpu_hours)]
        for name, t in [*sums.iterrows(), ("all", sums.sum())]
    ]
    sets = {name: DISK_GB[name] for name in runs.all_datasets(experiment) if name in DISK_GB}
    return "\n".join(
        [
            f"{experiment.title}: what it costs",
            f"speed: {speed.source}",
            "examples, FLOP and hours are those of one run; FLOP counted from the models: student"
            " forward and backward, teacher forward; no validation, no waiting for data",
            f"assumed: utterances of {SPEECH_S} s, {LABELLED_TOKENS} tokens a labelled text,"
            f" decoding {DECODING} core-seconds a second of speech at a beam of 500",
            "",
            *_aligned([header, *rows]),
            "",
            *_aligned(
                [
                    ["total of a table, with its pre-training", "FLOP", "GPU-hours", "CPU-hours"],
                    *totals,
                ]
            ),
            "",
            f"disk: prepared sets about {sum(sets.values()):,.0f} GB"
            f" ({', '.join(f'{k} {v:g}' for k, v in sets.items())}),"
            f" checkpoints {frame['disk_gb'].sum():,.0f} GB",
        ]
    )


def as_json(jobs: Sequence[Job], speed: Speed) -> str:
    """The same for programs."""
    content: dict[str, Any] = {"speed": asdict(speed), "jobs": [asdict(job) for job in jobs]}
    return json.dumps(content, indent=1)


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """`d2v plan [FILE]`."""
    parser = argparse.ArgumentParser(prog="d2v plan", description=__doc__.split("\n")[0])
    parser.add_argument(
        "experiment", nargs="?", type=Path, default=Path("params/mini.yaml"), metavar="FILE",
        help="parameters of the experiment (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--device", default="h100", help=f"one of {', '.join(PEAK)}")
    parser.add_argument(
        "--utilisation", type=float, default=0.4, metavar="SHARE",
        help="share of the device's rate of matrix products (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--measured", type=Path, metavar="FILE",
        help="result of a benchmark (benchmarks/results/*.json), in place of both",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="every run, for programs")
    args = parser.parse_args(argv)
    if not 0 < args.utilisation <= 1:
        raise UserError(f"--utilisation {args.utilisation}: a share above 0, at most 1, is needed")
    experiment = params.load(args.experiment)
    speed = speed_of(args.device, args.utilisation, args.measured)
    jobs = plan(experiment, speed)
    print(as_json(jobs, speed) if args.json else report(experiment, jobs, speed))

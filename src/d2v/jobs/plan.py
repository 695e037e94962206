"""`d2v plan`: estimate the cost of an experiment before anything is started.

Only parameters are read. Operations are counted from the models (d2v.jobs.flops). Time follows from
a device's peak rate and a utilisation, or from a measured rate. Disk space follows from the weights
and from the prepared sets, or from the known sizes of those that are not prepared yet. Validation,
evaluation and data loading are not counted.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from d2v import params
from d2v.experiment import runs
from d2v.experiment.run import PretrainRun, Run
from d2v.experiment.task_runs import DecodeRun, FinetuneRun, ProbeRun
from d2v.jobs import cluster, space
from d2v.params import MODALITIES, Experiment, Finetune
from d2v.util.errors import UserError

KEPT = 2  # checkpoints that a run keeps on disk (d2v.training.trainer.KEEP)
# dense bf16 (V100: fp16) matrix products according to the vendor's data sheets, operations/s
PEAK = {"v100": 125e12, "a100": 312e12, "h100": 989e12, "h200": 989e12}
USUAL = 0.4  # utilisation where one is given for some modalities only
# share of PEAK that a step of the Base recipes reached on a device, and where the figures are from
# (benchmarks/results/gpu-nvidia-h200.json)
MEASURED = {"h200": {"vision": 0.267, "speech": 0.281, "text": 0.296}}
MEASURED_ON = {"h200": "2026-11-27"}
# the measured device whose figures stand for another one
NEAREST = {"v100": "h200", "a100": "h200", "h100": "h200", "h200": "h200"}
# beam-search decoding: seconds of one core per second of speech at a beam of 500; twice the value
# that benchmarks/decoding.py measured with a small language model
DECODING = 0.1
DEV_HOURS, TEST_HOURS = 5.3, 16.2  # LibriSpeech: dev-other; test-other, test-clean, dev-clean


@dataclass(frozen=True)
class Job:
    """One run and its estimated cost."""

    run: str
    table: str
    updates: int
    examples: float  # examples seen, including repetitions
    pflop: float  # 1e15 operations
    gpus: int
    gpu_hours: float
    hours: float
    cpu_hours: float
    disk_gb: float
    links: int = 1  # jobs in a row, each as long as the time limit in params/cluster.yaml allows


@dataclass(frozen=True)
class Speed:
    """Operations per second of one GPU, and the source of the figure."""

    flops: dict[str, float]  # operations per second, by modality
    source: str


def plan(experiment: Experiment, speed: Speed, only: Sequence[str] = ()) -> list[Job]:
    """Cost of the runs of the experiment, in an order in which the runs can be executed.

    `only` has patterns of runs (default: all), which may stop after a run's kind and name. Raises
    UserError for a pattern that matches no run.
    """
    places = cluster.load().slurm
    jobs = []
    for run in _chosen(runs.all_runs(experiment), only):
        resources = places.of(run.id)
        gpus = resources.nodes * max(resources.gpu_count, 1)
        job = _job(run, speed, gpus)
        jobs.append(replace(job, links=max(1, math.ceil(job.hours / resources.hours))))
    return jobs


def pretraining(experiment: Experiment, name: str, speed: Speed) -> Job:
    """Cost of the first seed of a pre-training."""
    run = PretrainRun(experiment, name, experiment.pretrain[name].seeds[0])
    return _job(run, speed, 1)


def _job(run: Run, speed: Speed, gpus: int) -> Job:
    if isinstance(run, DecodeRun):
        return _decoding(run)
    if isinstance(run, ProbeRun):  # minutes at most
        return Job(run.id, run.params.table, 0, 0.0, 0.0, 0, 0.0, 0.0, 0.0, 0.0)
    from d2v.jobs import (
        flops,  # imported late: torch loads slowly, and errors in a file are reported before
    )

    model = run.model
    train: params.Portions
    if isinstance(run, PretrainRun):
        table, train, steps = _served(run.experiment, run.name), model.train, model.train.steps
        size = model.view.usual_size(labelled=False)
        one = flops.pretraining(model, size)
        # student, the two moments of Adam, and the teacher if there is one
        copies = 3 if isinstance(model.target, params.InputTarget) else 4
    else:
        assert isinstance(run, FinetuneRun)
        task, setting = run.params, run.given
        table, train = task.table, task.train
        steps = setting.steps if setting else max(task.grid.steps if task.grid else [0])
        frozen = bool(setting and setting.freeze)
        size = model.view.usual_size(labelled=True)
        one = flops.finetuning(model, size, _outputs(task), frozen)
        copies = 3
    if run.released:
        steps, copies = 0, 1
    examples = steps * _examples(train, size)
    work = examples * one
    if model.encoder.kind not in speed.flops:
        raise UserError(f"{speed.source}: no rate for {model.encoder.kind}, which {run.id} needs")
    hours = work / speed.flops[model.encoder.kind] / 3600
    disk = KEPT * copies * 4 * flops.parameter_count(model, size) / 1e9
    return Job(run.id, table, steps, examples, work / 1e15, gpus, hours, hours / gpus, 0.0, disk)


def disk(experiment: Experiment, jobs: Sequence[Job]) -> dict[str, tuple[float | None, bool]]:
    """Size in GB of each prepared set that the jobs read, as `space.prepared`."""
    known = runs.by_id(experiment)
    return space.prepared(experiment, [name for job in jobs for name in known[job.run].datasets])


def _served(experiment: Experiment, pretrain: str) -> str:
    """The first table that uses a pre-training directly or through one that starts from it."""
    needed = {pretrain}
    while more := {n for n, p in experiment.pretrain.items() if p.start_from in needed} - needed:
        needed |= more
    tables = [
        task.table
        for task in experiment.finetune.values()
        if needed & {task.pretrain, task.baseline}
    ]
    return tables[0] if tables else "none"


def _decoding(run: DecodeRun) -> Job:
    decode = run.decode
    assert decode.search
    search = decode.search.trials * DEV_HOURS * decode.search.beam / 500
    hours = DECODING * (search + (DEV_HOURS + TEST_HOURS) * decode.beam / 500)
    return Job(run.id, run.params.table, 0, 0.0, 0.0, 0, 0.0, hours / decode.cpus, hours, 0.1)


def _examples(train: params.Portions, size: int) -> float:
    """Number of examples per optimiser step."""
    if train.sized:
        return train.sized.micro_batches * train.sized.size / size
    assert train.batch
    return train.batch


def _outputs(task: Finetune) -> int:
    return getattr(task.task, "classes", 32)


def _chosen(known: Sequence[Run], patterns: Sequence[str]) -> list[Run]:
    """The runs that match any pattern; without patterns, all."""
    for pattern in patterns:
        if not any(_is(run, pattern) for run in known):
            raise UserError(f"--only {pattern}: no such run; try pretrain/* or {known[0].id}")
    return [run for run in known if not patterns or any(_is(run, word) for word in patterns)]


def _is(run: Run, pattern: str) -> bool:
    return fnmatchcase(run.id, pattern) or fnmatchcase(run.id, f"{pattern}/*")


def shares(words: str) -> dict[str, float]:
    """Utilisation by modality, from one number for all or from `vision=0.5,speech=0.4`.

    Modalities that are not named use the default. Raises UserError for a value that is not a share,
    and for modalities that do not exist or occur twice.
    """
    if "=" not in words:
        return dict.fromkeys(MODALITIES, _share(words))
    found: dict[str, float] = {}
    for word in words.split(","):
        kind, _, share = word.strip().partition("=")
        if kind not in MODALITIES or kind in found:
            raise UserError(
                f"--utilisation {words}: '{word.strip()}': give each of"
                f" {', '.join(MODALITIES)} at most once, as NAME=SHARE"
            )
        found[kind] = _share(share)
    return dict.fromkeys(MODALITIES, USUAL) | found


def _share(word: str) -> float:
    try:
        share = float(word)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UserError(f"--utilisation: '{word}' is not a share above 0 and at most 1")
    return share


def speed_of(
    device: str, utilisation: float | Mapping[str, float] | None, measured: Path | None
) -> Speed:
    """Rate of a device at a utilisation (for all modalities, or by modality), or a measured rate.

    Without a utilisation, it is the one that was measured on the nearest device. `measured` is the
    result file of a benchmark. Raises UserError for an unknown device, and for a
    file that is not the result of a benchmark of training steps.
    """
    if measured is None:
        if device not in PEAK:
            raise UserError(f"--device {device}: unknown device; use one of {', '.join(PEAK)}")
        origin = "assumed"
        if utilisation is None:
            nearest = NEAREST[device]
            utilisation, origin = MEASURED[nearest], f"measured ({nearest}, {MEASURED_ON[nearest]})"
        elif not isinstance(utilisation, Mapping):
            utilisation = dict.fromkeys(MODALITIES, utilisation)
        if len(set(utilisation.values())) == 1:
            words = f"{next(iter(utilisation.values())):.0%}"
        else:
            words = ", ".join(f"{share:.0%} ({kind})" for kind, share in utilisation.items())
        peak = PEAK[device]
        return Speed(
            {kind: peak * share for kind, share in utilisation.items()},
            f"{device} at {words} of {peak / 1e12:.0f} TFLOP/s, {origin}",
        )
    try:
        found = json.loads(measured.read_text())
        gemm = 1e9 * float(found["gemm_gflops"])
        rates = {kind: gemm * float(s["fraction_of_gemm"]) for kind, s in found["step"].items()}
        return Speed(rates, f"{found['device']}, measured ({measured})")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{measured}: not a result file of a benchmark of training steps"
            f" ({type(error).__name__}: {error})"
        ) from None

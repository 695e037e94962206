"""Execution of one run: data, task, training, evaluation, and `metrics.json` as the last file."""

import json
import time
from pathlib import Path
from typing import Any

import torch

from d2v.data.readers.official import lacking
from d2v.experiment import (
    compatible,
    contents,
    coverage,
    finetuning,
    finished,
    folders,
    pretraining,
    probes,
    provenance,
)
from d2v.experiment.run import PretrainRun, Run
from d2v.experiment.task_runs import DecodeRun, FinetuneRun, ProbeRun
from d2v.training import checkpoint, distributed, layout
from d2v.util.errors import UserError, spared
from d2v.util.files import read_json, write_json

Weights = dict[str, torch.Tensor]
# student and head, what identifies them (the hash of their file), the record of their inputs
Start = tuple[Weights, str, dict[str, Any] | None]


def execute(run: Run, given: Start | None = None) -> None:
    """Execute a run, resuming where an earlier attempt ended.

    It starts from the weights `given` or, without them, from those of the run before it. Raises
    UserError for anything the user can fix; no metrics are written then.
    """
    started = time.perf_counter()
    defining = run.resolved()
    data = contents.contents(run)
    weights = given or (_pretrained(run.source) if run.source else None)
    loaded, weights_sha256, known = weights or (None, None, None)
    inputs = compatible.inputs(run)
    lines = compatible.compared(run, known) if weights else []
    lines += coverage.lines(run)
    main = distributed.join().main
    if main:
        history = _enter(run.work)
        print("".join(f"{line}\n" for line in lines), end="", flush=True)
    fit = {
        "work": run.work,
        "seed": run.seed,
        "params": {**defining, "data_sha256": data, "weights_sha256": weights_sha256},
        "inputs": inputs.model_dump(mode="json") if inputs else None,
    }
    torch.manual_seed(run.seed)
    found = _result(run, loaded, fit)
    if not main:
        return
    noted: dict[str, Any] = {
        "params_sha256": run.fingerprint(),
        "data_sha256": data,
        "seed": run.seed,
        "wall_s": round(time.perf_counter() - started, 2),
        "attempts": history["attempts"],
        "code_versions": history["versions"],
        "previous": finished.recipe(read_json(run.previous.metrics_path)) if run.previous else None,
    }
    described = provenance.incomplete(noted)
    failures = found.pop(finished.FAILURES, [])
    with spared("the provenance", failures):
        described = provenance.describe(**noted)
    head = _head(run, defining.get("setting"))
    after = {finished.FAILURES: failures} if failures else {}
    write_json(run.metrics_path, {**head, **found, **after, "provenance": described})
    with spared("the note that the run has finished"):
        _leave(run.work)


def _result(run: Run, weights: Weights | None, fit: dict[str, Any]) -> dict[str, Any]:
    """Train, evaluate or decode; return the content of metrics.json (in the main process).

    Only training uses several processes.
    """
    match run:
        case PretrainRun() if not run.released:
            return pretraining.pretrain(run, weights, fit)
        case ProbeRun():
            return probes.probe(run, weights) if distributed.join().main else {}
        case FinetuneRun() if not run.released:
            return finetuning.finetune(run, weights, fit)
        case _ if not distributed.join().main:
            return {}
        case PretrainRun():
            from d2v.experiment import released

            return released.take_over(run.params, run.work / "checkpoints", fit["params"])
        case FinetuneRun():
            return finetuning.evaluate_released(run)
        case DecodeRun():
            from d2v.experiment import decoding

            return decoding.execute_decode(run)
        case _:
            raise TypeError(f"{run.id}: a run of an unknown kind")


def _head(run: Run, setting: dict[str, Any] | None) -> dict[str, Any]:
    """The fields of metrics.json that say which run it is."""
    head: dict[str, Any] = {
        "run": run.id,
        "kind": run.kind,
        "name": run.name,
        "arm": run.arm,
        "seed": run.seed,
        "pretrain_run": run.source.id if run.source else None,
        "setting": setting,
    }
    partial = _partial_data(run)
    return head | ({"partial_data": partial} if partial else {})


def _partial_data(run: Run) -> dict[str, str]:
    """What is missing from the official datasets, by prepared set.

    This covers the sets of the run and of the run that it starts from.
    """
    earlier = read_json(run.previous.metrics_path) if run.previous else None
    found = dict((earlier or {}).get("partial_data") or {})
    for name in run.datasets:
        found[name] = lacking(read_json(folders.meta_path(run.experiment, name)) or {})
    return {name: what for name, what in found.items() if what}


def _pretrained(source: PretrainRun) -> Start:
    """Student and head of a pre-training, the hash of their file, and the record of its inputs.

    Raises UserError if the pre-training is not done or its checkpoint is missing.
    """
    found = read_json(source.metrics_path)
    if found is None:
        raise UserError(f"{source.id} has not finished; run it first (`d2v run {source.id}`)")
    folder = Path(found["checkpoint"])
    if not (folder / layout.MODEL).exists():
        raise UserError(
            f"{folder / layout.MODEL} is missing; run {source.id} again (`d2v run {source.id}`)"
        )
    weights = checkpoint.load_weights(folder, "model.")
    weights = {name: w for name, w in weights.items() if not name.startswith("teacher.")}
    meta = json.loads((folder / layout.META).read_text())
    return weights, str(meta["sha256"][layout.MODEL]), meta.get("inputs")


def _enter(work: Path) -> dict[str, Any]:
    """Record the attempt; return the history of the run's attempts.

    A run that was finished by a different version of the code starts again. A run that was
    interrupted resumes with the new code and prints a note; the history lists every version of the
    code with the step after which it went on.
    """
    code = provenance.code_sha256()
    before = read_json(work / "attempts.json") or {"attempts": 0}
    if before["attempts"] and before["code_sha256"] != code:
        if before["finished"]:
            print("the code has changed since this run finished, so it starts again")
            layout.clear_all(work / "checkpoints")
            before = {"attempts": 0}
        else:
            print("the code has changed since this run was interrupted; it resumes with new code")
    earlier = [{"after_step": 0, "code_sha256": before.get("code_sha256")}]
    versions = list(before.get("versions", earlier if before["attempts"] else []))
    if not versions or versions[-1]["code_sha256"] != code:
        step = layout.newest_step(work / "checkpoints")
        # work of a version that was cut off before its first checkpoint is not part of the result
        versions = [version for version in versions if version["after_step"] < step]
        versions.append({"after_step": step, "code_sha256": code, **provenance.git()})
    now: dict[str, Any] = {"attempts": before["attempts"] + 1, "code_sha256": code}
    now |= {"finished": False, "versions": versions}
    write_json(work / "attempts.json", now)
    return now


def _leave(work: Path) -> None:
    write_json(
        work / "attempts.json", {**(read_json(work / "attempts.json") or {}), "finished": True}
    )

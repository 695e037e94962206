"""How a run's inputs are made, and whether they match the weights that the run starts from."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from d2v.data import record
from d2v.data.model_inputs import Inputs
from d2v.experiment import runs
from d2v.experiment.runs import Run
from d2v.interop import matching
from d2v.params import Experiment, Finetune, Pretrain


def inputs(experiment: Experiment, run: Run) -> Inputs | None:
    """How the inputs of a run are made; None for a run that feeds no model."""
    if run.kind == "decode" or (run.kind == "pretrain" and runs.released_of(experiment, run)):
        return None
    p = _spec(experiment, run)
    return record.inputs_of(
        Path(experiment.prepared),
        p.data,
        p.view.model_dump(mode="json"),
        runs.pretrain_of(experiment, run).encoder,
        p.task if isinstance(p, Finetune) else None,
    )


def compared(experiment: Experiment, run: Run, weights: dict[str, Any] | None) -> list[str]:
    """Compare a run's inputs with those recorded for `weights`; return lines to report.

    `weights` is the record in the checkpoint that the run starts from; None for a checkpoint that
    is older than such records. Raises UserError with both values of everything that must not
    differ.
    """
    source, ours, p = (
        runs.pretrain_run(experiment, run),
        inputs(experiment, run),
        _spec(experiment, run),
    )
    if source is None or ours is None:
        return []
    if weights is None:
        return [f"{source.id}: its checkpoint does not record its inputs, so they are not compared"]
    theirs: Inputs = TypeAdapter(Inputs).validate_python(weights)
    return matching.check_inputs(theirs, ours, source.id, record.chosen(p.view))


def _spec(experiment: Experiment, run: Run) -> Pretrain | Finetune:
    if run.kind == "pretrain":
        return experiment.pretrain[run.name]
    return experiment.finetune[run.name]

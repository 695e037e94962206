"""How a run's inputs are made, and whether they match the weights that the run starts from."""

from typing import Any

from pydantic import TypeAdapter

from d2v.data import inputs_of, record
from d2v.experiment.run import Run
from d2v.interop import matching
from d2v.params import Finetune, Inputs


def inputs(run: Run) -> Inputs | None:
    """How the inputs of a run are made; None for a run that feeds no model."""
    if run.kind == "decode" or (run.kind == "pretrain" and run.released):
        return None
    p = run.params
    return inputs_of(
        run.prepared,
        p.data,
        p.view.model_dump(mode="json"),
        run.model.encoder,
        p.task if isinstance(p, Finetune) else None,
    )


def compared(run: Run, weights: dict[str, Any] | None) -> list[str]:
    """Compare a run's inputs with those recorded for `weights`; return lines to report.

    `weights` is the record in the checkpoint that the run starts from; None for a checkpoint that
    is older than such records. Raises UserError with both values of everything that must not
    differ.
    """
    source, ours = run.source, inputs(run)
    if source is None or ours is None:
        return []
    if weights is None:
        return [f"{source.id}: its checkpoint does not record its inputs, so they are not compared"]
    theirs: Inputs = TypeAdapter(Inputs).validate_python(weights)
    return matching.check_inputs(theirs, ours, source.id, record.chosen(run.params.view))

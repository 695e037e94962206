"""Execution of a pre-training run, and the units that it may predict."""

from typing import Any

from torch import Tensor

from d2v.data import build_dataset
from d2v.evaluation import attention_example
from d2v.experiment import probes
from d2v.experiment.finished import FAILURES
from d2v.experiment.run import PretrainRun
from d2v.model import encoders
from d2v.model.encoders.spectra import Units
from d2v.params import Experiment, InputTarget
from d2v.training import distributed, trainer, units
from d2v.training.task import Pretraining
from d2v.util.errors import UserError, spared
from d2v.util.files import remove_file, write_json


def pretrain(
    run: PretrainRun, weights: dict[str, Tensor] | None, fit: dict[str, Any]
) -> dict[str, Any]:
    """Train a model from scratch or from `weights`; return the content of metrics.json.

    `fit` holds the arguments of trainer.fit that all runs share.
    """
    p = run.params
    dataset = build_dataset(
        run.prepared / p.data,
        p.split,
        p.view,
        seed=run.seed,
        mask=p.mask,
        train=True,
        encoder=p.encoder,
        copies=p.copies,
    )
    task = Pretraining(p)
    if weights is not None:
        task.model.start_from(weights)
    if run.units is not None and task.model.inputs is not None:
        task.model.inputs.load_state_dict(units.read(run.units))
    summary = trainer.fit(
        task,
        dataset,
        optimiser=p.optimiser,
        schedule=p.schedule,
        train=p.train,
        validate=probes.glance(run, dataset) if p.train.probe_every else None,
        validate_every=p.train.probe_every,
        **fit,
    )
    failures: list[str] = []
    if distributed.join().main:
        path = run.results / "attention.json"
        with spared("the picture of attention", failures):
            remove_file(path)
            if look := attention_example.attention(task, dataset):
                write_json(path, look)
    return {**summary.described(), "metrics": {}, FAILURES: failures}


def make_units(experiment: Experiment, name: str) -> None:
    """Fit the k-means centres of the pre-training `name` to its set and write them.

    All of its seeds share them. Raises UserError for a pre-training with another target.
    """
    p = experiment.pretrain.get(name)
    run = None if p is None else PretrainRun(experiment, name, p.seeds[0])
    if p is None or run is None or run.units is None:
        raise UserError(f"pretrain.{name} has no target of units, so there are none to fit")
    assert isinstance(p.target, InputTarget)
    dataset = build_dataset(
        run.prepared / p.data, p.split, p.view, seed=0, train=False, encoder=p.encoder
    )
    inputs = encoders.build(p.encoder, p.backbone).input_targets(p.target)
    assert isinstance(inputs, Units)
    units.write(units.fit(inputs, dataset, seed=0), run.units)
    print(f"{name}: {inputs.outputs} centres of {inputs.mfcc.outputs} coefficients: {run.units}")

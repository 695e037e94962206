"""Execution of a pre-training run."""

from typing import Any

from torch import Tensor

from d2v.data import build_dataset
from d2v.evaluation import attention_example
from d2v.experiment.run import PretrainRun
from d2v.training import distributed, trainer
from d2v.training.task import Pretraining
from d2v.util.errors import spared
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
    )
    task = Pretraining(p)
    if weights is not None:
        task.model.start_from(weights)
    summary = trainer.fit(
        task,
        dataset,
        optimiser=p.optimiser,
        schedule=p.schedule,
        train=p.train,
        **fit,
    )
    if distributed.join().main:
        path = run.results / "attention.json"
        with spared("the picture of attention"):
            remove_file(path)
            if look := attention_example.attention(task, dataset):
                write_json(path, look)
    return {**summary.described(), "metrics": {}}

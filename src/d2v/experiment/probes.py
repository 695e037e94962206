"""Probes of frozen features: runs of the DAG, and a glance during pre-training."""

from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from d2v import params
from d2v.data import build_dataset
from d2v.data.examples import Examples
from d2v.evaluation import probing
from d2v.experiment.finetuning import dataset_of, start
from d2v.experiment.run import PretrainRun
from d2v.experiment.task_runs import FinetuneRun, ProbeRun
from d2v.training import devices, distributed
from d2v.training.task import Pretraining

EXAMPLES = 256  # unlabelled examples whose targets are looked at during pre-training
BATCH = 32
BANK, ASKED = 1000, 500  # labelled examples among which neighbours are sought, and for which


def probe(run: ProbeRun, weights: dict[str, Tensor] | None) -> dict[str, Any]:
    """Probe the student from which a fine-tuning starts; return the content of metrics.json.

    The labels are those of the fine-tuning: the list of the seed.
    """
    student = start(run, weights).to(distributed.join().device)
    p, model = run.params, run.model

    def seen(split: str, labels: str | None = None) -> probing.Features:
        dataset = build_dataset(
            run.prepared / p.data, split, p.view, seed=run.seed, train=False, labels=labels,
            task=p.task, encoder=model.encoder, dim=model.backbone.dim,
        )  # fmt: skip
        return probing.features(student, dataset, run.probe.positions)

    train, dev, test = seen(p.train_split, run.labels), seen(p.dev_split), seen(p.test_split)
    return {"train_s": 0.0, "metrics": {}, "probe": probing.probe(run.probe, train, dev, test)}


def glance(run: PretrainRun, dataset: Examples) -> Callable[[Any, int], dict[str, float]]:
    """A look at a pre-training: `position_share`, and `knn` if a classified task starts from it.

    Both are computed on fixed examples; labels do not reach the training.
    """
    count = min(EXAMPLES, len(dataset))
    places = [(0, i) for i in range(count)]
    fixed = [dataset.collate(dataset.__getitems__(places[i : i + BATCH]))
             for i in range(0, count, BATCH)]  # fmt: skip
    labelled = _labelled(run)

    @torch.inference_mode()
    def look(task: Pretraining, step: int) -> dict[str, float]:
        found: dict[str, float] = {}
        if not task.classes:
            found["position_share"] = share = _share(task, dataset, fixed)
            limit = run.params.collapse.position_share
            if share > limit:
                print(
                    f"step {step}: position alone explains {100 * share:.0f} % of the targets'"
                    f" variance (collapse.position_share {limit:g}): little else may be learned"
                )
        if labelled is not None:
            bank, asked = (
                probing.features(task.model.student, part, labelled.probe.positions, most)
                for part, most in ((labelled.bank, BANK), (labelled.asked, ASKED))
            )
            near = probing.neighbours(labelled.probe, bank.values[:, -1], bank.classes)
            found["knn"] = float(near.score(asked.values[:, -1], asked.classes))
        return found

    return look


def _share(task: Pretraining, dataset: Examples, fixed: list[dict[str, Any]]) -> float:
    """Share of the targets' variance that position explains, in batches cut to one length."""
    device = next(task.parameters()).device
    targets = []
    for given in fixed:
        batch = dataset.finish(devices.move(given, device), device)
        x, padding = task.model.student.encoder.local_features(batch)
        targets.append(task.model.targets(x, padding, batch))
    shortest = min(target.shape[1] for target in targets)
    return probing.position_share([target[:, :shortest] for target in targets])


class _Labelled:
    """Labelled examples of the first task of kind classify that starts from a pre-training."""

    def __init__(self, run: FinetuneRun) -> None:
        encoder, dim = run.model.encoder, run.model.backbone.dim
        self.probe = run.params.probe or params.Probe.model_validate({})
        self.bank = dataset_of(run, run.params.train_split, encoder, dim)
        self.asked = dataset_of(run, run.params.dev_split, encoder, dim)


def _labelled(run: PretrainRun) -> _Labelled | None:
    tasks = (
        FinetuneRun(run.experiment, name, task.seeds[0], task.arms[0])
        for name, task in run.experiment.finetune.items()
        if run.name in (task.pretrain, task.baseline) and isinstance(task.task, params.Classify)
    )
    first = next(islice(tasks, 1), None)
    return None if first is None else _Labelled(first)

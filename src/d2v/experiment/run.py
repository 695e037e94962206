"""A run of an experiment, with everything that it needs.

A run knows its parameters, the model it trains, the prepared sets it reads, the run it starts from,
its folders, and what defines its result. Code that executes, shows or schedules a run receives this
object and nothing else. Every kind of run is a class; PretrainRun is defined here, the others in
d2v.experiment.task_runs.

PretrainRun   pretrain/<name>/seed<k>
FinetuneRun   finetune/<name>/<arm>/seed<k>           arm: scratch | input | data2vec
GridRun       select/<name>/<arm>/<point>/seed<k>     a point of the grid, scored on the dev split
DecodeRun     decode/<name>/<arm>/seed<k>             search for decoding weights, then decoding
ProbeRun      probe/<name>/<arm>/seed<k>              probes of frozen features
"""

import json
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal

from d2v.experiment import folders
from d2v.params import Experiment, Finetune, InputTarget, Pretrain, Released
from d2v.params.influence import influential, without_later

Kind = Literal["pretrain", "finetune", "select", "decode", "probe"]


@dataclass(frozen=True)
class Run:
    """One job of an experiment; `id` identifies it everywhere (folders, DAG, tables).

    Runs are equal if their ids are. The subclasses say what each kind of run needs.
    """

    experiment: Experiment = field(repr=False, compare=False)
    name: str
    seed: int
    arm: str | None = None
    point: str | None = None  # name of a grid point; only for GridRun

    kind: ClassVar[Kind]

    @property
    def id(self) -> str:
        """The run's folder below `work/<experiment>` and `results/<experiment>/runs`."""
        parts = (self.kind, self.name, self.arm, self.point, f"seed{self.seed}")
        return "/".join(part for part in parts if part)

    # --- files ------------------------------------------------------------------------------------

    @property
    def work(self) -> Path:
        """Folder of checkpoints and logs."""
        return folders.work(self.experiment) / self.id

    @property
    def results(self) -> Path:
        """Folder of predictions and metrics."""
        return folders.results(self.experiment) / "runs" / self.id

    @property
    def metrics_path(self) -> Path:
        """File of the run's metrics: its declared output, written last."""
        return self.results / "metrics.json"

    def predictions(self, split: str) -> Path:
        """File of the run's predictions for dev, test or another split."""
        return self.results / f"predictions-{split}.tsv"

    @property
    def prepared(self) -> Path:
        """Folder of the experiment's prepared sets."""
        return Path(self.experiment.prepared)

    # --- what the run needs -----------------------------------------------------------------------

    @property
    def params(self) -> Pretrain | Finetune:
        """The run's block of the parameter file."""
        raise NotImplementedError

    @property
    def model(self) -> Pretrain:
        """Parameters of the pre-training whose model the run uses."""
        raise NotImplementedError

    @property
    def cpus(self) -> int:
        """Number of CPU threads, or of processes if the run decodes."""
        return self.params.cpus

    @property
    def released(self) -> Released | None:
        """Published weights that replace the run's training, or None."""
        return self.params.released

    @property
    def datasets(self) -> list[str]:
        """The prepared sets that the run reads, as folder names below `prepared`."""
        raise NotImplementedError

    @property
    def source(self) -> "PretrainRun | None":
        """The pre-training whose weights the run starts from, or None."""
        name = self._starts_from
        if name is None:
            return None
        seeds = self.experiment.pretrain[name].seeds
        return PretrainRun(self.experiment, name, seeds[self.seed % len(seeds)])

    @property
    def _starts_from(self) -> str | None:
        """Name of the pre-training that the run starts from."""
        raise NotImplementedError

    @property
    def previous(self) -> "Run | None":
        """The run that has to finish before this one."""
        return self.source

    @property
    def steps(self) -> int | None:
        """Number of optimiser steps; None until the grid is searched, and for a decoding run."""
        raise NotImplementedError

    # --- what defines the result ------------------------------------------------------------------

    def defining(self) -> dict[str, Any]:
        """Parameters that define the run's result, as plain JSON values in groups.

        Two runs with equal values give equal results on equal data. Changes to another run, or to
        how a run is executed or presented, do not affect these values. `setting` is None for a
        setting that has to be chosen on a grid.
        """
        raise NotImplementedError

    def resolved(self) -> dict[str, Any]:
        """The values of `defining`, with the setting that was chosen on the grid.

        Raises UserError if the grid has not been searched yet.
        """
        return self.defining()

    def fingerprint(self) -> str:
        """SHA-256 of `resolved`; equal for runs that give equal results on equal data.

        Parameters that have been added since and keep the earlier behaviour do not count.
        """
        values = without_later(self.resolved())
        return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def describe(self) -> str:
        """One sentence about what the run does."""
        raise NotImplementedError


class PretrainRun(Run):
    """A pre-training with one seed."""

    kind: ClassVar[Kind] = "pretrain"

    @property
    def params(self) -> Pretrain:
        """The run's block under `pretrain:`."""
        return self.experiment.pretrain[self.name]

    @property
    def model(self) -> Pretrain:
        """The run's own parameters."""
        return self.params

    @property
    def datasets(self) -> list[str]:
        """The unlabelled set; none if released weights replace the training."""
        return [] if self.released else [self.params.data]

    @property
    def _starts_from(self) -> str | None:
        return self.params.start_from

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return self.params.train.steps

    @property
    def units(self) -> Path | None:
        """File with the centres of the units that are predicted; None for other targets."""
        target = self.params.target
        if self.released or not isinstance(target, InputTarget) or target.of != "units":
            return None
        return folders.units_path(self.experiment, self.name)

    def defining(self) -> dict[str, Any]:
        """See Run.defining."""
        values = influential(self.params) | {"run": self.id, "prepared": self.experiment.prepared}
        return values | {"start_from": self.source.id if self.source else None}

    def describe(self) -> str:
        """One sentence about what the run does."""
        p = self.params
        if p.released:
            return f"Take over the released weights {p.released.path}"
        return (
            f"Pre-train {self.name}, seed {self.seed}:"
            f" {p.train.steps} steps of {p.train.portion} of {p.data}"
        )

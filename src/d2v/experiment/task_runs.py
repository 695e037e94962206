"""Runs of labelled tasks: fine-tuning, points of a grid, and decoding."""

import json
from pathlib import Path
from typing import Any, ClassVar

from d2v.data.letters import letters_of
from d2v.experiment import folders
from d2v.experiment.run import Kind, Run
from d2v.params import Decode, Finetune, Pretrain, Probe, Setting
from d2v.params.influence import influential
from d2v.util.errors import UserError
from d2v.util.files import read_json

OWN_DROPOUTS = (
    "dropout", "attention_dropout", "activation_dropout", "drop_path", "layer_drop",
)  # fmt: skip


class _TaskRun(Run):
    """A run of a labelled task."""

    @property
    def params(self) -> Finetune:
        """The run's block under `finetune:`."""
        return self.experiment.finetune[self.name]

    @property
    def model(self) -> Pretrain:
        """Parameters of the pre-training, as this task changes them.

        A fine-tuning's own dropouts replace those of the backbone, and a LayerNorm after pooling
        replaces the backbone's final norm (BEiT's fc_norm).
        """
        p = self.params
        pretrain = self.experiment.pretrain[p.pretrain]
        own = {key: getattr(p, key) for key in OWN_DROPOUTS}
        changed = {key: value for key, value in own.items() if value is not None}
        if getattr(p.task, "norm", False):
            changed["final_norm"] = False
        backbone = pretrain.backbone.model_copy(update=changed)
        encoder = pretrain.encoder
        if p.encoder_dropout is not None:
            encoder = encoder.model_copy(update={"dropout": p.encoder_dropout})
        return pretrain.model_copy(update={"encoder": encoder, "backbone": backbone})


class FinetuneRun(_TaskRun):
    """A fine-tuning with one seed, from pre-trained weights or from scratch."""

    kind: ClassVar[Kind] = "finetune"

    @property
    def datasets(self) -> list[str]:
        """The labelled set, and the language model if the fine-tuning itself decodes."""
        decode = self.params.decode
        return [self.params.data, *([decode.lm] if decode and not self.searched else [])]

    @property
    def searched(self) -> bool:
        """Whether a separate job searches for the decoding weights."""
        decode = self.params.decode
        return decode is not None and decode.search is not None

    @property
    def _starts_from(self) -> str | None:
        if self.arm == "scratch" or self.released:
            return None
        return self.params.baseline if self.arm == "input" else self.params.pretrain

    @property
    def steps(self) -> int | None:
        """Number of optimiser steps; None until the grid is searched."""
        try:
            return self.setting().steps
        except UserError:
            return None

    @property
    def given(self) -> Setting | None:
        """The setting as the parameters give it; None if a grid has to be searched."""
        settings = self.params.settings
        return settings[self.arm] if settings else None  # type: ignore[index]

    def setting(self) -> Setting:
        """The setting: given, or chosen on the grid.

        Raises UserError if the grid has not been searched yet.
        """
        if self.given:
            return self.given
        path = folders.chosen_path(self.experiment, self.name)
        if not path.exists():
            raise UserError(f"{path} is missing: run the workflow, or `d2v select {self.name}`")
        chosen = json.loads(path.read_text())[self.arm]
        return Setting.model_validate({key: chosen[key] for key in Setting.model_fields})

    @property
    def labels(self) -> str | None:
        """Name of the seed's list of labels; None if the fine-tuning uses all labels."""
        labels = self.params.labels
        return labels.replace("{seed}", str(self.seed)) if labels else None

    @property
    def splits(self) -> dict[str, str]:
        """The splits to evaluate at the end, by the name of their predictions."""
        p = self.params
        more = {split: split for split in p.more.values()}
        return {"dev": p.dev_split, "test": p.test_split, **more}

    @property
    def letters(self) -> tuple[str, ...]:
        """Letters of the set's transcripts, in the order of a CTC model's outputs."""
        return letters_of(read_json(folders.meta_path(self.experiment, self.params.data)) or {})

    def emissions(self, split: str) -> Path:
        """File of the letters' log-probabilities for dev, test or another split."""
        return self.work / f"emissions-{split}.safetensors"

    def defining(self) -> dict[str, Any]:
        """See Run.defining."""
        values = influential(self.params) | {"run": self.id, "prepared": self.experiment.prepared}
        values["decode"] = self._inline_decode()
        if not self.released:  # otherwise the weights determine the model
            values["encoder"] = self.model.encoder.model_dump(mode="json")
            values["backbone"] = self.model.backbone.model_dump(mode="json")
        values["pretrain"] = self.source.id if self.source else None
        values["setting"] = self.given.model_dump(mode="json") if self.given else None
        return values

    def _inline_decode(self) -> dict[str, Any] | None:
        """How the run itself decodes; with a search it saves its outputs for a separate job."""
        decode = self.params.decode
        if decode is None:
            return None
        if self.searched:
            return {"search": "in a job of its own"}
        return decode.model_dump(mode="json", exclude={"cpus", "search"})

    def resolved(self) -> dict[str, Any]:
        """See Run.resolved."""
        return self.defining() | {"setting": self.setting().model_dump(mode="json")}

    def describe(self) -> str:
        """One sentence about what the run does."""
        if self.released:
            return f"Evaluate on {self.name} the released weights {self.released.path}"
        return f"Fine-tune {self._how()}"

    def _how(self) -> str:
        start = f"from {self.source.id}" if self.source else "from scratch"
        how = self.given.words if self.given else "with the chosen setting"
        return f"{self.name} {start}, seed {self.seed}: {how}"


class GridRun(FinetuneRun):
    """A fine-tuning at a point of the grid, to choose a setting; it never reads the test split."""

    kind: ClassVar[Kind] = "select"

    @property
    def given(self) -> Setting:
        """The setting of the grid point."""
        grid = self.params.grid
        assert grid
        return next(s for s in grid.settings() if s.name == self.point)

    @property
    def splits(self) -> dict[str, str]:
        """The development split only."""
        return {"dev": self.params.dev_split}

    def defining(self) -> dict[str, Any]:
        """See Run.defining."""
        values = super().defining()
        del values["test_split"]
        return values

    def describe(self) -> str:
        """One sentence about what the run does."""
        if self.released:
            return super().describe()
        return f"Try on the development split: fine-tune {self._how()}"


class DecodeRun(_TaskRun):
    """A search for the decoding weights of a fine-tuning, and the decoding with the best ones."""

    kind: ClassVar[Kind] = "decode"

    @property
    def cpus(self) -> int:
        """Number of processes."""
        return self.decode.cpus

    @property
    def released(self) -> None:
        """Always None: the run trains nothing."""
        return None

    @property
    def decode(self) -> Decode:
        """Parameters of search and decoding."""
        decode = self.params.decode
        assert decode is not None
        return decode

    @property
    def finetuning(self) -> FinetuneRun:
        """The fine-tuning whose outputs are decoded."""
        return FinetuneRun(self.experiment, self.name, self.seed, self.arm)

    @property
    def datasets(self) -> list[str]:
        """The language model."""
        return [self.decode.lm]

    @property
    def _starts_from(self) -> None:
        return None

    @property
    def previous(self) -> FinetuneRun:
        """The fine-tuning."""
        return self.finetuning

    @property
    def steps(self) -> None:
        """Always None: the run trains nothing."""
        return None

    def defining(self) -> dict[str, Any]:
        """See Run.defining."""
        p = self.params
        return {
            "run": self.id,
            "prepared": self.experiment.prepared,
            "finetune": self.finetuning.id,
            "decode": self.decode.model_dump(mode="json", exclude={"cpus"}),
            "metrics": list(p.metrics),
            "splits": [p.dev_split, p.test_split, *p.more.values()],
        }

    def describe(self) -> str:
        """One sentence about what the run does."""
        return f"Search the decoding weights of {self.finetuning.id}, then decode with the best"


class ProbeRun(FinetuneRun):
    """Probes of the features from which a fine-tuning starts; nothing is trained."""

    kind: ClassVar[Kind] = "probe"

    @property
    def datasets(self) -> list[str]:
        """The labelled set."""
        return [self.params.data]

    @property
    def probe(self) -> Probe:
        """Parameters of the probes."""
        assert self.params.probe
        return self.params.probe

    @property
    def steps(self) -> None:
        """Always None: the run trains nothing."""
        return None

    def defining(self) -> dict[str, Any]:
        """See Run.defining."""
        values = super().defining()
        kept = ("run", "prepared", "data", "view", "task", "encoder", "backbone", "pretrain")
        splits = ("labels", "train_split", "dev_split", "test_split")
        found = {key: values[key] for key in (*kept, *splits)}
        return found | {"probe": self.probe.model_dump(mode="json")}

    def resolved(self) -> dict[str, Any]:
        """See Run.resolved."""
        return self.defining()

    def describe(self) -> str:
        """One sentence about what the run does."""
        start = f"of {self.source.id}" if self.source else "of random weights"
        return f"Probe the features {start} on {self.name}, seed {self.seed}"

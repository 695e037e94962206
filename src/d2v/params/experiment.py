"""One experiment: its data, pre-trainings and fine-tunings, read from one file."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from d2v.params.base import ParamsError, Strict
from d2v.params.data import Data
from d2v.params.faults import explain, nearest
from d2v.params.finetuning import Finetune
from d2v.params.pretraining import Pretrain
from d2v.params.reading import read_yaml


class Experiment(Strict):
    """One parameter file: data, pre-trainings, fine-tunings."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: str
    scale: Literal["miniature", "paper"]
    prepared: str  # folder of prepared data
    data: dict[str, Data]
    pretrain: dict[str, Pretrain]
    finetune: dict[str, Finetune]

    @model_validator(mode="after")
    def _references(self) -> "Experiment":
        for name, run in self.finetune.items():
            if run.pretrain not in self.pretrain:
                raise ValueError(
                    f"finetune.{name}.pretrain: no pretrain.{run.pretrain}"
                    f"{nearest(run.pretrain, self.pretrain)}"
                )
            if run.view.kind != self.pretrain[run.pretrain].encoder.kind:
                raise ValueError(f"finetune.{name}.view.kind does not fit pretrain.{run.pretrain}")
        return self


def load(path: str | Path) -> Experiment:
    """Read and check a parameter file.

    Raises ParamsError with one line for each fault: dotted path, what is wrong, nearest name.
    """
    raw = read_yaml(Path(path))
    try:
        return Experiment.model_validate(raw)
    except ValidationError as error:
        lines = [explain(e, Experiment) for e in error.errors()]
        raise ParamsError(f"{path}: {len(lines)} fault(s)\n  " + "\n  ".join(lines)) from None

"""One experiment: its data, pre-trainings and fine-tunings, read from one file."""

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from d2v.params.base import ParamsError, Strict
from d2v.params.data import Data
from d2v.params.faults import explain, nearest
from d2v.params.finetuning import Finetune
from d2v.params.pretraining import Pretrain
from d2v.params.reading import read_params
from d2v.params.unique import check_unique

T = TypeVar("T", bound=Strict)


class Experiment(Strict):
    """One parameter file: data, pre-trainings, fine-tunings."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: str
    scale: Literal["miniature", "paper"]
    prepared: str  # folder of prepared data
    stages: str = "dvc.yaml"  # DVC file that prepares it
    data: dict[str, Data]
    pretrain: dict[str, Pretrain]
    finetune: dict[str, Finetune]

    @model_validator(mode="after")
    def _references(self) -> "Experiment":
        made = [name for group in self.data.values() for name in group.makes]
        for kind, runs in (("pretrain", self.pretrain), ("finetune", self.finetune)):
            for name, run in runs.items():
                trained = kind == "finetune" or run.released is None
                if trained and run.data not in made:
                    hint = nearest(run.data, made)
                    raise ValueError(f"{kind}.{name}.data: no data set {run.data}{hint}")
        for name, pretrain in self.pretrain.items():
            if pretrain.start_from is not None:
                self._check_start(name, pretrain.start_from)
        for name, run in self.finetune.items():
            if run.decode is not None and run.decode.lm not in made:
                hint = nearest(run.decode.lm, made)
                raise ValueError(f"finetune.{name}.decode.lm: no data set {run.decode.lm}{hint}")
            if run.pretrain not in self.pretrain:
                raise ValueError(
                    f"finetune.{name}.pretrain: no pretrain.{run.pretrain}"
                    f"{nearest(run.pretrain, self.pretrain)}"
                )
            if run.view.kind != self.pretrain[run.pretrain].encoder.kind:
                raise ValueError(f"finetune.{name}.view.kind does not fit pretrain.{run.pretrain}")
            self._check_grid(name, run)
        check_unique(self.pretrain, self.finetune)
        return self

    def _check_grid(self, name: str, run: Finetune) -> None:
        """Tasks that choose one rate together must try the same rates in the same arms."""
        if run.grid is None or run.grid.best_over == "task":
            return
        for other, task in self.finetune.items():
            if (task.table, task.row, task.pretrain) != (run.table, run.row, run.pretrain):
                continue
            same = task.grid is not None and task.grid.best_over == "table"
            if not same or (task.arms, task.grid and task.grid.lr) != (run.arms, run.grid.lr):
                raise ValueError(
                    f"finetune.{name}.grid chooses one rate over its row of the table, but"
                    f" finetune.{other} has other rates or arms, or no grid of that kind"
                )

    def _check_start(self, name: str, start: str) -> None:
        """What a pre-training starts from is there, has the same model, and is not itself."""
        seen = [name]
        while True:
            if start not in self.pretrain:
                raise ValueError(
                    f"pretrain.{seen[-1]}.start_from: no pretrain.{start}"
                    f"{nearest(start, self.pretrain)}"
                )
            if start in seen:
                raise ValueError(f"pretrain.{name}.start_from: a circle ({' -> '.join(seen)})")
            this, other = self.pretrain[name], self.pretrain[start]
            if (this.encoder, this.backbone.depth, this.backbone.dim) != (
                other.encoder,
                other.backbone.depth,
                other.backbone.dim,
            ):
                raise ValueError(f"pretrain.{name}.start_from: pretrain.{start} is another model")
            if other.start_from is None:
                return
            seen, start = [*seen, start], other.start_from


def load(path: str | Path) -> Experiment:
    """Read and check the parameter file of an experiment; raises as `load_as`."""
    return load_as(Experiment, path)


def load_as(kind: type[T], path: str | Path) -> T:
    """Read a parameter file and check it against a group of parameters.

    Raises ParamsError with one line for each fault: dotted path, what is wrong, nearest name.
    """
    raw = read_params(Path(path))
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = [explain(e, kind) for e in error.errors()]
        raise ParamsError(f"{path}: {len(lines)} fault(s)\n  " + "\n  ".join(lines)) from None

"""An experiment: its data, pre-trainings and fine-tunings, read from a parameter file."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError, model_validator

from d2v.params import crosscheck
from d2v.params.base import Strict
from d2v.params.choices import Data, sets_of
from d2v.params.comparison import Compare
from d2v.params.faults import explain, refuse
from d2v.params.finetuning import Finetune
from d2v.params.own import KINDS as OWN_KINDS
from d2v.params.own import own_stages
from d2v.params.pretraining import Pretrain
from d2v.params.reading import read_params, refuse_file

T = TypeVar("T", bound=Strict)


class Experiment(Strict):
    """Contents of one parameter file: data, pre-trainings and fine-tunings."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=100)]
    title: str
    # paper: results are compared with the reported ones; otherwise these are listed separately
    scale: Literal["miniature", "own", "paper"]
    prepared: str  # folder of the prepared data
    # DVC file whose stages write the prepared data; with data sets of one's own, the default is
    # workflow/own/<name>/dvc.yaml, which d2v writes
    stages: str = "dvc.yaml"
    data: dict[str, Data]
    pretrain: dict[str, Pretrain]
    finetune: dict[str, Finetune]
    # whose pre-trainings `d2v plan` compares the cost of these with; None: with none
    compare: Compare | None = None

    @model_validator(mode="before")
    @classmethod
    def _own_stages(cls, raw: Any) -> Any:
        """Set the stages of an experiment with data sets of one's own, unless the file does."""
        if not isinstance(raw, dict) or "stages" in raw or not isinstance(raw.get("data"), dict):
            return raw
        kinds = [group.get("kind") for group in raw["data"].values() if isinstance(group, dict)]
        own = any(isinstance(kind, str) and kind in OWN_KINDS for kind in kinds)
        own = own and isinstance(raw.get("name"), str)
        return raw | {"stages": own_stages(raw["name"])} if own else raw

    def group_of(self, dataset: str) -> Data | None:
        """The group of `data:` that makes a prepared set; None if no group does."""
        makers = (group for name, group in self.data.items() if dataset in sets_of(name, group))
        return next(makers, None)

    @model_validator(mode="after")
    def _consistent(self) -> "Experiment":
        refuse(crosscheck.faults(self.data, self.pretrain, self.finetune))
        refuse(crosscheck.compared(self.compare, self.pretrain))
        return self


def load(path: str | Path) -> Experiment:
    """Read and validate the parameter file of an experiment; raises as `load_as`."""
    return load_as(Experiment, path)


def load_as(kind: type[T], path: str | Path) -> T:
    """Read a parameter file and validate it as a group of the class `kind`.

    Raises ParamsError with one line per error: dotted path, what is wrong, closest valid name.
    """
    return checked(kind, read_params(Path(path)), path)


def checked(kind: type[T], raw: dict[str, Any], path: str | Path) -> T:
    """Validate `raw`, read from the file `path`, as a group `kind`; raises as `load_as`."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = [explain(e, kind) for e in error.errors()]
    refuse_file(path, lines)
    raise AssertionError("pydantic raises with at least one fault")

"""The experiment with which the cost of another one is compared."""

from pydantic import Field

from d2v.params.base import Strict


class Compare(Strict):
    """Where the pre-trainings are to which `d2v plan` compares those of an experiment."""

    file: str  # parameter file, named as for any command: params/paper.yaml
    # pre-training here -> those in `file` that it replaces, if their names differ; the costs of
    # several (paper 5.1: ViT-L has two stages) are added
    names: dict[str, list[str]] = Field(default_factory=dict)

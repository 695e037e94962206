"""Parameters of the settings of fine-tuning: fixed ones, and grids to select from."""

import itertools
from typing import Literal

from pydantic import Field, model_validator

from d2v.params.base import Positive, Rate, Seed, Strict


class Probe(Strict):
    """Probes of frozen features, fitted to the labels of every arm and seed, without fine-tuning.

    k nearest neighbours and a linear classifier for each layer, and a linear classifier on a
    weighted sum of the layers. Settings are chosen on the development split.
    """

    # how the outputs of an example become one vector. mean: their mean over positions; keep: all
    # of them side by side, so that what is where is not lost (examples of one length only)
    positions: Literal["mean", "keep"] = "mean"
    neighbours: Positive = 10
    # inverse strengths of the linear classifiers' regularisation to try (scikit-learn's C)
    c: list[Rate] = Field([0.001, 0.01, 0.1, 1.0, 10.0], min_length=1)


class Setting(Strict):
    """A point of the fine-tuning grid: learning rate, number of steps, frozen parts."""

    lr: Rate  # peak learning rate
    steps: Positive  # optimiser steps
    # parts of the encoder that are never trained. true: all of its local features; convolutions:
    # their convolutions and norms, but not the projection after them (wav2vec 2.0:
    # feature_grad_mult 0)
    freeze: bool | Literal["convolutions"] = False

    @property
    def name(self) -> str:
        """Name of the point's folder."""
        frozen = {False: "", True: "-frozen", "convolutions": "-frozen-convolutions"}
        return f"lr{self.lr:g}-steps{self.steps}{frozen[self.freeze]}"

    @property
    def words(self) -> str:
        """Description of the point for readers."""
        frozen = {False: "", True: ", features frozen", "convolutions": ", convolutions frozen"}
        return f"{self.steps} steps, learning rate {self.lr:g}{frozen[self.freeze]}"


class Grid(Strict):
    """Settings that are tried with separate seeds; the best on the development split is used."""

    lr: list[Rate] = Field(min_length=1)  # peak learning rates to try
    steps: list[Positive] = Field(min_length=1)  # numbers of optimiser steps to try
    # values of setting.freeze to try
    freeze: list[bool | Literal["convolutions"]] = Field([False], min_length=1)
    seeds: list[Seed] = Field(min_length=1)  # seeds of the grid, distinct from the reported seeds
    # scope of the selection. task: the best setting of each task; table: the one learning rate that
    # is best on average over all tasks of the table with the same pre-training, each with its own
    # number of steps (paper 4.3)
    best_over: Literal["task", "table"] = "task"

    @model_validator(mode="after")
    def _comparable(self) -> "Grid":
        if self.best_over == "table" and (len(self.steps) > 1 or len(self.freeze) > 1):
            raise ValueError(
                "best_over: table selects only the learning rate; give a single value for steps"
                " and for freeze"
            )
        names: dict[str, float] = {}
        for lr in self.lr:
            other = names.setdefault(f"{lr:g}", lr)
            if other != lr:
                raise ValueError(
                    f"lr: {other!r} and {lr!r} are both {lr:g} in the names of runs; choose rates"
                    " that differ in their first six digits"
                )
        return self

    def settings(self) -> list[Setting]:
        """All points of the grid, in the order of the file."""
        points = itertools.product(self.lr, self.steps, self.freeze)
        return [Setting(lr=lr, steps=steps, freeze=freeze) for lr, steps, freeze in points]

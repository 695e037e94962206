"""Files as inputs of a loaded model, and the record of inputs: what all modalities share."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from d2v.params import Classify, Encoder, Inputs, Tag, Task


class _Architecture(Protocol):
    """The part of a loaded model's architecture that inputs depend on."""

    @property
    def encoder(self) -> Encoder: ...


class Reading(Protocol):
    """What this module needs of a loaded model (d2v.interop.module.Model)."""

    @property
    def params(self) -> _Architecture: ...

    @property
    def inputs(self) -> Inputs: ...

    @property
    def tokenizer(self) -> Any: ...


@dataclass(frozen=True)
class Prepared:
    """A prepared set as the record of its inputs needs it."""

    folder: Path  # of all prepared sets
    meta: Mapping[str, Any]  # content of the set's meta.json; empty if there is none
    view: Mapping[str, Any]  # parameters of the view, as plain values
    task: Task | None  # of a fine-tuning run

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes that the task predicts; None if they are unknown."""
        names = self.meta.get("classes")
        if not isinstance(self.task, Classify | Tag) or not names:
            return None
        return list(names) if len(names) == self.task.classes else None


class Files:
    """How files of one modality become inputs of a loaded model, and how many make a batch."""

    portion = 1  # what is read together, and the largest batch: samples or tokens, or images
    portion_on_cpu: int | None = None  # the largest batch on a CPU; None: the same

    def expanded(self, item: str | Path) -> list[tuple[str, str]]:
        """The name and the content (a file, or a text itself) of each input that `item` gives."""
        return [(str(item), str(item))]

    def read(self, content: Any, name: str) -> np.ndarray:
        """The values of one input: of a path, a text, or something in memory (d2v.data.given).

        Raises UserError with the name of one that cannot be read.
        """
        raise NotImplementedError

    def size(self, value: np.ndarray) -> int:
        """Share of `portion` that an input takes."""
        return len(value)

    def batch(self, values: list[np.ndarray]) -> dict[str, Tensor]:
        """The batch of several inputs, as the encoder takes it."""
        raise NotImplementedError

"""Sounds with any number of classes, mixed during training (paper 5.2, AudioSet)."""

from collections.abc import Sequence

import numpy as np
import torch

from d2v import params
from d2v.data.examples import Batch, Example, Picked, Place, Source
from d2v.data.speech import Waves, padded
from d2v.model.masking import rng
from d2v.util.errors import UserError


class TaggedSounds(Waves):
    """Clips of a prepared AudioSet and their classes."""

    kinds = ("audioset",)

    def __init__(
        self,
        source: Source,
        view: params.WaveAugment,
        encoder: params.WaveEncoder,
        dim: int,
        task: params.Tag,
    ) -> None:
        super().__init__(source, view, encoder, dim)
        if task.classes != len(self.meta["classes"]):
            raise UserError(
                f"{source.prepared}: {len(self.meta['classes'])} classes, but task.classes is"
                f" {task.classes}"
            )
        self.task = task
        self.whole()
        self.mixed = view.mixup if self.train else 0.0  # probability

    @property
    def references(self) -> Sequence[str]:
        """Class numbers of each clip, in the form 3,17."""
        return Picked(self.shards.texts("labels"), self.rows)

    def __getitem__(self, place: Place) -> Example:
        """Return a waveform (S,) and its classes (C,), 1 if present.

        In training, a second clip is mixed in with probability view.mixup.
        """
        epoch, index = place
        wave, labels = self._clip(place)
        if self.mixed:
            random = rng(self.seed, epoch, index)
            if random.random() < self.mixed:
                other, more = self._clip((epoch, int(random.integers(len(self)))))
                share = random.random()
                start = int(random.random() * max(len(other) - len(wave) + 1, 1))
                wave = mix(wave, other[start : start + len(wave)], share)
                labels = share * labels + (1 - share) * more
        return {"place": place, "id": self.ids[index], "wave": wave, "labels": labels}

    def collate(self, examples: list[Example]) -> Batch:
        """`waves` (B, S), `samples` (B,), `labels` (B, C) float32 and, in training, masks."""
        waves, samples = padded([e["wave"] for e in examples], 0.0, np.float32)
        batch: Batch = {
            "ids": [e["id"] for e in examples],
            "waves": torch.from_numpy(waves),
            "samples": torch.from_numpy(samples),
            "labels": torch.tensor(np.stack([e["labels"] for e in examples]), dtype=torch.float32),
        }
        return batch | self.hidden(samples, self.keys(examples))

    def _clip(self, place: Place) -> tuple[np.ndarray, np.ndarray]:
        labels = np.zeros(self.task.classes)
        labels[[int(number) for number in self.references[place[1]].split(",") if number]] = 1.0
        return self.heard(place), labels


def mix(wave: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Mix two waveforms of unit variance into one of unit variance (S,), `share` of it the first.

    If the second is shorter, the rest of the first stays unchanged. This is between-class learning
    (Tokozume et al. 2017, equation 2, with equal gains, which normalised waveforms have). The paper
    applies it with probability .7 and mixes the classes in the same shares. fairseq:
    audio_classification.py.
    """
    mixed = wave.copy()
    both = share * wave[: len(other)] + (1 - share) * other
    mixed[: len(other)] = both / np.sqrt(share**2 + (1 - share) ** 2)
    return mixed

"""Utterances for training: normalisation, crops, padding, span masks, letters (paper 4.2)."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from d2v import params
from d2v.data.examples import Batch, Decoded, Example, Examples, Place, Source, hiding, removing
from d2v.data.files import Files, Prepared
from d2v.data.given import wave_of
from d2v.data.letters import LETTERS, PADDING, encode, ids_of, letters_of
from d2v.data.sound import FLAC, RATE, normalise, range_of, samples_of
from d2v.model.exact_masks import copied, removed_masks
from d2v.model.frames import frame_count
from d2v.model.masking import Key, channel_masks, rng, span_masks
from d2v.util.errors import UserError

__all__ = ["LETTERS", "Utterances", "Waves", "encode", "normalise", "padded"]


class Waves(Examples):
    """Waveforms with zero mean and unit variance, and masks for their frames and channels."""

    mask: params.SpanMask | None = None
    channels: params.ChannelMask | None = None

    def __init__(
        self, source: Source, view: params.WaveAugment, encoder: params.WaveEncoder, dim: int
    ) -> None:
        """Open the split; `dim` is D, the width of the encoder's outputs."""
        super().__init__(source)
        self.view, self.dim, self.conv_layers = view, dim, encoder.conv_layers
        if self.train and view.min_samples:
            long = self.shards.numbers("samples")[self.rows] >= view.min_samples
            self.keep(long, f"all are shorter than view.min_samples {view.min_samples}")
        self.samples = self.shards.numbers("samples")[self.rows]
        self.speed = view.speed if self.train else None
        shortest = int(self.samples.argmin())
        fewest = self.samples[shortest] / (self.speed[1] if self.speed else 1.0)
        if frame_count(int(fewest), self.conv_layers) < 1:
            raise UserError(
                f"{self.folder}: {self.ids[shortest]} has {self.samples[shortest]} samples, too few"
                f" for one frame{' at the highest view.speed' if self.speed else ''}; set"
                " view.min_samples or remove it"
            )
        self.encoding = self.meta.get("encoding", FLAC)
        self.levels = None  # mean and standard deviation of every row, float32
        if {"mean", "deviation"} <= set(self.shards.columns):
            mean, deviation = (self.shards.numbers(name) for name in ("mean", "deviation"))
            self.levels = mean.astype(np.float32), deviation.astype(np.float32)
        self.waves = Decoded(self._decode, int(self.samples.sum()) * 4)

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Samples (N,) that a batch may keep: at most view.max_samples, in view.lengths lengths.

        With view.speed, they are those at the lowest speed.
        """
        if self.speed:
            slowest: npt.NDArray[np.int64] = np.ceil(self.samples / self.speed[0]).astype(np.int64)
            return slowest
        sizes = np.minimum(self.samples, self.view.max_samples or self.samples)
        return sizes if self.view.lengths is None else rounded_down(sizes, self.view.lengths)

    def whole(self) -> None:
        """Set up for a labelled task: no crops, and in training the masks of the view.

        Raises UserError if view.max_samples or view.lengths is set.
        """
        for name in ("max_samples", "lengths"):
            if getattr(self.view, name):
                raise UserError(f"view.{name} crops waveforms, which then lack part of their text")
        if self.train:
            self.mask, self.channels = self.view.mask, self.view.mask_channels

    def hidden(self, samples: npt.NDArray[Any], keys: list[Key]) -> Batch:
        """Frame masks (`hiding`) and `channel_mask` (B, D) for waveforms of `samples` (B,)."""
        masks: Batch = {}
        if self.mask is not None:
            frames = frame_count(samples, self.conv_layers)
            masks |= hiding(span_masks(self.mask, frames, keys))
        if self.channels is not None:
            masks["channel_mask"] = torch.from_numpy(channel_masks(self.channels, self.dim, keys))
        return masks

    def heard(self, place: Place) -> np.ndarray:
        """Waveform (S,) of an example; in training, at a speed drawn from view.speed."""
        wave = self.waves[int(self.rows[place[1]])]
        if not self.speed:
            return wave
        random = rng(self.seed, *place).spawn(1)[0]  # masks and mixing draw from the parent
        slowest, fastest = self.speed
        return at_speed(wave, random.uniform(slowest, fastest))

    def _decode(self, row: int) -> np.ndarray:
        return normalise(samples_of(self.shards.payload(row), self.encoding, self._name(row)))

    def _part(self, row: int, start: int, count: int, length: int) -> np.ndarray:
        """`count` of `length` samples, normalised with the level of the whole utterance."""
        payload, name = self.shards.payload(row), self._name(row)
        if count == length:
            wave = samples_of(payload, self.encoding, name)  # also verifies the checksum
        else:
            wave = range_of(payload, self.encoding, start, count, name)
        assert self.levels is not None
        return normalise(wave, (self.levels[0][row], self.levels[1][row]))

    def _name(self, row: int) -> str:
        return f"{self.folder}: {self.shards.texts('id')[row]}"


class Utterances(Waves):
    """Waveforms of prepared speech or, for pre-training, of any prepared sounds.

    Without a task (pre-training), a batch is cropped to the smallest of its items' `sizes`, so
    nothing is padded. With a task, utterances stay whole and are padded with zeros.
    """

    def __init__(
        self,
        source: Source,
        view: params.WaveAugment,
        encoder: params.WaveEncoder,
        dim: int,
        mask: params.SpanMask | None = None,
        task: params.CTC | None = None,
        copies: int = 1,
    ) -> None:
        self.kinds = ("librispeech",) if task is not None else ("librispeech", "audioset")
        super().__init__(source, view, encoder, dim)
        if view.mixup:
            raise UserError("view.mixup mixes classes: it is for a task of kind tag")
        self.task, self.copies = task, copies
        self.removed = encoder.hidden == "removed"  # then nothing is padded in pre-training
        if task is None:
            self.mask = mask
        else:
            self.whole()
            self.letter_ids = ids_of(self.letters)
            if "text" not in self.shards.columns:
                raise UserError(f"{self.folder}: has no transcripts, which a ctc task needs")

    @cached_property
    def references(self) -> list[str]:
        """Transcript of each example."""
        texts = self.shards.texts("text")
        return [texts[int(row)] for row in self.rows]

    def __getitem__(self, place: Place) -> Example:
        """Return the whole normalised waveform (S,) with its letters (U,), or where to crop it."""
        row = int(self.rows[place[1]])
        example: Example = {"place": place, "id": self.ids[place[1]], "wave": self.heard(place)}
        if self.task is not None:
            example["letters"] = encode(self.shards.texts("text")[row], self.letter_ids)
        else:
            example["crop"] = self._crop(place)
        return example

    def __getitems__(self, places: list[Place]) -> list[Example]:
        """Return the examples of a batch; pre-training decodes only what the batch keeps of them.

        Partial decoding needs the level of each utterance, which preparation with --headers does
        not measure. Utterances of sets that are kept in memory are decoded whole, and only once.
        """
        if self.task is not None or self.waves.kept or self.levels is None:
            return super().__getitems__(places)
        lengths = [int(self.samples[index]) for _, index in places]
        size = self._size(places)
        examples = []
        for place, length in zip(places, lengths, strict=True):
            start = _start(self._crop(place), length, size)
            wave = self._part(int(self.rows[place[1]]), start, size, length)
            examples.append({"place": place, "id": self.ids[place[1]], "wave": wave, "crop": 0.0})
        return examples

    def _size(self, places: list[Place]) -> int:
        """Number of samples that a batch keeps of each waveform."""
        return int(self.sizes[[index for _, index in places]].min())

    def _crop(self, place: Place) -> float:
        """Relative position of a crop, in [0, 1)."""
        return rng(self.seed, *place).random() if self.train else 0.5

    def collate(self, examples: list[Example]) -> Batch:
        """`waves` (B, S) float32 and, if masking is on, `hiding` of their frames (B, T).

        If hidden frames are removed, it is `removing` of all copies (B * copies, T). With a task,
        also `samples` (B,), `letters` (B, U) padded with 1, `letter_counts` (B,) and, if channels
        are masked, `channel_mask` (B, D).
        """
        batch: Batch = {"ids": [e["id"] for e in examples]}
        if self.task is None:
            waves = _cropped(examples, self._size([e["place"] for e in examples]))
            samples = np.full(len(waves), waves.shape[1])
        else:
            waves, samples = padded([e["wave"] for e in examples], 0.0, np.float32)
            batch["samples"] = torch.from_numpy(samples)
            letters, counts = padded([e["letters"] for e in examples], PADDING, np.int64)
            batch["letters"], batch["letter_counts"] = map(torch.from_numpy, (letters, counts))
        batch["waves"] = torch.from_numpy(waves)
        keys = self.keys(examples)
        if self.task is None and self.mask is not None and self.removed:
            keys, samples = copied(keys, self.copies), np.repeat(samples, self.copies)
            frames = frame_count(samples, self.conv_layers)
            return batch | removing(removed_masks(self.mask, frames, keys))
        return batch | self.hidden(samples, keys)


def at_speed(wave: np.ndarray, factor: float) -> np.ndarray:
    """Speed a waveform (S,) up to about S / factor samples; its pitch rises with its tempo."""
    import soxr  # only training needs it, not d2v.load

    # a third of the time of HQ, and as precise as 16-bit samples
    found: np.ndarray = soxr.resample(wave, RATE * factor, RATE, quality="MQ")
    return found.astype(np.float32, copy=False)


def padded(rows: Sequence[Any], padding: float, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Pad rows of numbers to (B, longest); return them and their lengths (B,)."""
    counts = np.array([len(row) for row in rows])
    found = np.full((len(rows), counts.max()), padding, dtype)
    for target, row in zip(found, rows, strict=True):
        target[: len(row)] = row
    return found, counts


def rounded_down(sizes: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Sizes (N,), each rounded down to one of at most `count` of them: their quantiles."""
    kept = np.unique(np.sort(sizes)[np.arange(count) * len(sizes) // count])
    found: npt.NDArray[np.int64] = kept[np.searchsorted(kept, sizes, side="right") - 1]
    return found


def _cropped(examples: list[Example], size: int) -> np.ndarray:
    """Crop waveforms to (B, size)."""
    waves = [e["wave"] for e in examples]
    starts = [_start(e["crop"], len(e["wave"]), size) for e in examples]
    return np.stack([w[start : start + size] for w, start in zip(waves, starts, strict=True)])


def _start(crop: float, length: int, size: int) -> int:
    """Index of the first sample kept when `length` samples are cropped to `size`."""
    return int(crop * (length - size + 1))


def dataset(
    source: Source,
    view: params.WaveAugment,
    encoder: params.WaveEncoder,
    dim: int,
    mask: params.Mask | None,
    task: params.Task | None,
    copies: int,
) -> Examples | None:
    """The data set for a mask and a task; None if there is none for them."""
    match mask, task:
        case (None | params.SpanMask()) as spans, (None | params.CTC()) as letters:
            return Utterances(source, view, encoder, dim, spans, letters, copies)
    return None


# --- inputs from files, and their record ------------------------------------------------------


def inputs_of(prepared: Prepared) -> params.WaveInput:
    """Record of a prepared set of sounds."""
    letters = list(letters_of(prepared.meta)) if isinstance(prepared.task, params.CTC) else None
    rate = prepared.meta.get("rate", RATE)
    return params.WaveInput(rate=rate, letters=letters, classes=prepared.classes)


class WaveFiles(Files):
    """Sound files as waveforms (S,)."""

    portion = 60 * RATE
    # the miniature's encoder is fastest with 10 to 20 s; 4 s and 30 s take a third longer
    portion_on_cpu = 15 * RATE

    def __init__(self, encoder: params.WaveEncoder, how: params.WaveInput) -> None:
        self.encoder, self.how = encoder, how

    def read(self, content: Any, name: str) -> np.ndarray:
        """A waveform (S,); raises UserError for what is no sound, or too short."""
        encoder, how = self.encoder, self.how
        if how.rate != RATE:
            raise UserError(f"this model takes {how.rate} Hz, but audio is read at {RATE} Hz")
        try:
            wave = wave_of(content, RATE, name)
        except OSError as error:
            raise UserError(f"{name}: not a readable audio file ({error.strerror})") from None
        if frame_count(len(wave), encoder.conv_layers) < 1:
            raise UserError(f"{name}: {len(wave)} samples, too few for one frame")
        return normalised(wave, how.eps) if how.normalise else wave

    def batch(self, values: list[np.ndarray]) -> dict[str, Tensor]:
        """`waves` (B, S) and, if lengths differ, `samples` (B,)."""
        waves, samples = padded(values, 0.0, np.float32)
        batch = {"waves": torch.from_numpy(waves)}
        if len(set(samples.tolist())) > 1:
            batch["samples"] = torch.from_numpy(samples)
        return batch


def normalised(wave: np.ndarray, eps: float) -> np.ndarray:
    """Return the waveform (S,) as float32 with zero mean and unit variance."""
    return ((wave - wave.mean()) / np.sqrt(wave.var() + np.float32(eps))).astype(np.float32)

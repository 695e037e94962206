"""Number of frames of a waveform, without importing torch, so that data preparation stays light."""

from collections.abc import Sequence
from typing import Any, TypeVar

Counts = TypeVar("Counts")  # int, array or tensor of integers


def frame_count(samples: Counts, conv_layers: Sequence[Sequence[int]]) -> Counts:
    """Number of frames that unpadded convolutions produce from `samples` samples.

    `samples` is an integer, or an array or tensor of integers; the result has the same type. It is
    0 where the waveform is shorter than the receptive field. Layers are (channels, kernel, stride)
    or (kernel, stride). Each layer maps n to floor((n - kernel) / stride) + 1 (fairseq wav2vec2.py,
    _get_feat_extract_output_lengths).
    """
    counts: Any = samples
    for *_, kernel, stride in conv_layers:
        counts = (counts - kernel) // stride + 1
        counts = counts * (counts > 0)  # a sequence that is empty once stays empty
    return counts

"""How many frames a waveform gives; no torch here, so that data preparation stays light."""

from collections.abc import Sequence
from typing import Any, TypeVar

Counts = TypeVar("Counts")  # int, array or tensor of integers


def frame_count(samples: Counts, conv_layers: Sequence[Sequence[int]]) -> Counts:
    """Frames of `samples` samples after unpadded convolutions.

    An integer, an array or a tensor of them in, the same out; 0 where the waveform is shorter than
    the receptive field. Layers are (channels, kernel, stride) or (kernel, stride). Each layer:
    floor((n - kernel) / stride) + 1 (fairseq wav2vec2.py, _get_feat_extract_output_lengths).
    """
    counts: Any = samples
    for *_, kernel, stride in conv_layers:
        counts = (counts - kernel) // stride + 1
        counts = counts * (counts > 0)  # once empty, empty
    return counts

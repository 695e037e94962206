"""How many frames a waveform gives; no torch here, so that data preparation stays light."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Counts = TypeVar("Counts", int, np.ndarray)


def frame_count(samples: Counts, conv_layers: Sequence[Sequence[int]]) -> Counts:
    """Frames of `samples` samples after unpadded convolutions (channels, kernel, stride).

    An integer or an array of them in, the same out; 0 where the waveform is shorter than the
    receptive field. Each layer: floor((n - kernel) / stride) + 1 (fairseq wav2vec2.py,
    _get_feat_extract_output_lengths).
    """
    for _, kernel, stride in conv_layers:
        samples = (samples - kernel) // stride + 1
        samples = samples * (samples > 0)  # once empty, empty
    return samples

"""Targets from the spectrum of a waveform, one for each frame of the front end.

Windows lie where the front end's receptive fields lie: with wav2vec 2.0's convolutions, frame t
covers the samples from 320 t to 320 t + 400 (25 ms every 20 ms at 16 kHz).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from d2v.model.encoders.base import Batch, InputTargets

RATE = 16000
BANDS = 80  # mel bands of log-mel targets
MFCC_BANDS, CEPSTRA = 23, 13  # Kaldi's defaults, which HuBERT uses
FLOOR = 1e-6  # smallest power that is told from silence, for waveforms of unit variance
ConvLayers = Sequence[Sequence[int]]


class LogMel(InputTargets):
    """80 log-mel bands, each normalised over the frames of the utterance (or of its crop)."""

    def __init__(self, conv_layers: ConvLayers) -> None:
        super().__init__()
        self.outputs = BANDS
        self.bands = MelBands(*reach(conv_layers), BANDS)

    def forward(self, batch: Batch) -> Tensor:
        """Map `waves` (B, S) to bands (B, T, 80)."""
        found = self.bands(batch["waves"].float())
        spread, mean = torch.var_mean(found, 1, keepdim=True, correction=0)
        return (found - mean) / (spread + 1e-5).sqrt()


class Units(InputTargets):
    """The nearest of K centres of MFCCs with first and second differences (HuBERT, iteration 1).

    The centres are not trained: they are fitted to the training split beforehand
    (d2v.training.units) and loaded as a state; until then, they are zero.
    """

    def __init__(self, conv_layers: ConvLayers, units: int) -> None:
        super().__init__()
        self.centres: Tensor
        self.mean: Tensor
        self.std: Tensor
        self.outputs = units
        self.mfcc = MFCC(conv_layers)
        self.register_buffer("centres", torch.zeros(units, self.mfcc.outputs))
        self.register_buffer("mean", torch.zeros(self.mfcc.outputs))
        self.register_buffer("std", torch.ones(self.mfcc.outputs))

    def forward(self, batch: Batch) -> Tensor:
        """Map `waves` (B, S) to units (B, T)."""
        x = (self.mfcc(batch) - self.mean) / self.std
        return torch.cdist(x, self.centres.expand(len(x), -1, -1)).argmin(-1)


class MFCC(InputTargets):
    """13 MFCCs with first and second differences (B, T, 39), one vector per frame.

    Like HuBERT's, they are computed twice per frame of the front end (every 10 ms), so that the
    differences span short times, and every other one is kept.
    """

    def __init__(self, conv_layers: ConvLayers) -> None:
        super().__init__()
        self.cosines: Tensor
        window, hop = reach(conv_layers)
        self.outputs = 3 * CEPSTRA
        self.finer = 2 if hop % 2 == 0 else 1
        self.bands = MelBands(window, hop // self.finer, MFCC_BANDS)
        from torchaudio.functional import create_dct

        with torch.device("cpu"):
            cosines = create_dct(CEPSTRA, MFCC_BANDS, norm="ortho")
        self.register_buffer("cosines", cosines, persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """Map `waves` (B, S) to coefficients (B, T, 39)."""
        from torchaudio.functional import compute_deltas

        still = self.bands(batch["waves"].float()) @ self.cosines
        speed = compute_deltas(still.transpose(1, 2))
        found = [still, *(x.transpose(1, 2) for x in (speed, compute_deltas(speed)))]
        return torch.cat(found, -1)[:, :: self.finer]


class MelBands(nn.Module):
    """Logarithm of the power in triangular mel bands, in Hann windows."""

    def __init__(self, window: int, hop: int, bands: int) -> None:
        super().__init__()
        self.shape: Tensor
        self.triangles: Tensor
        self.window, self.hop = window, hop
        self.size = 2 ** math.ceil(math.log2(window))  # length of the Fourier transform
        self.register_buffer("shape", torch.hann_window(window), persistent=False)
        from torchaudio.functional import melscale_fbanks

        with torch.device("cpu"):  # torchaudio looks at the values, which a meta device lacks
            triangles = melscale_fbanks(self.size // 2 + 1, 20.0, RATE / 2, bands, RATE)
        self.register_buffer("triangles", triangles, persistent=False)

    def forward(self, waves: Tensor) -> Tensor:
        """Map waveforms (B, S) to log powers (B, T, bands)."""
        frames = waves.unfold(1, self.window, self.hop) * self.shape
        power = torch.fft.rfft(frames, self.size).abs().square() / self.window
        return (power @ self.triangles).clamp(min=FLOOR).log()


def reach(conv_layers: ConvLayers) -> tuple[int, int]:
    """Receptive field and stride, in samples, of stacked (channels, kernel, stride)."""
    window, hop = 1, 1
    for _, kernel, stride in conv_layers:
        window += (kernel - 1) * hop
        hop *= stride
    return window, hop

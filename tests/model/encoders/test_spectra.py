"""Spectra as targets: against torchaudio's Kaldi features, and one per frame of the front end."""

import pytest
import torch
from torchaudio.compliance import kaldi

from d2v import params
from d2v.model.encoders.spectra import MFCC, LogMel, Units, reach
from d2v.model.frames import frame_count

BASE = [[8, 10, 5], *[[8, 3, 2]] * 4, *[[8, 2, 2]] * 2]  # wav2vec 2.0, with fewer channels


def test_windows_are_the_receptive_fields_of_the_front_end() -> None:
    assert reach(BASE) == (400, 320)


@pytest.mark.parametrize("samples", [400, 719, 720, 16000, 16159, 16161])
def test_one_target_per_frame(samples: int) -> None:
    batch = {"waves": torch.randn(2, samples)}
    frames = frame_count(samples, BASE)
    assert LogMel(BASE)(batch).shape == (2, frames, 80)
    assert Units(BASE, 5)(batch).shape == (2, frames)


def test_log_mel_bands_are_normalised_per_utterance() -> None:
    waves = torch.randn(2, 16000) * torch.tensor([[1.0], [50.0]])
    found = LogMel(BASE)({"waves": waves})
    assert found.mean(1).abs().max() < 1e-4
    assert torch.allclose(found.std(1, correction=0), torch.ones(2, 80), atol=1e-3)


def test_bands_follow_kaldis() -> None:
    """Kaldi's triangles are linear in mel, ours in Hz, so that bands agree but are not equal."""
    wave = torch.randn(1, 16000).cumsum(1).sin()
    theirs = kaldi.fbank(
        wave, num_mel_bins=80, frame_shift=20, dither=0, window_type="hanning",
        preemphasis_coefficient=0, remove_dc_offset=False, high_freq=8000,
    )  # fmt: skip
    ours = LogMel(BASE).bands(wave)[0]
    both = torch.stack([theirs.flatten(), ours.flatten()])
    assert ours.shape == theirs.shape
    assert torch.corrcoef(both)[0, 1] > 0.97


def test_differences_are_slopes_of_the_coefficients() -> None:
    """A tone that grows by a constant factor: the first coefficient rises evenly."""
    time = torch.arange(16000) / 16000
    wave = (0.05 * torch.exp(2 * time) * torch.sin(2 * torch.pi * 440 * time))[None]
    found = MFCC(BASE)({"waves": wave})[0, 5:-5]
    slope = found[1:, 0] - found[:-1, 0]  # over 20 ms, twice the step of the differences
    assert torch.allclose(found[1:, 13], slope / 2, atol=0.02)
    assert found[:, 26].abs().max() < 0.02


def test_units_are_the_nearest_centres() -> None:
    units = Units(BASE, 3)
    batch = {"waves": torch.randn(1, 16000)}
    vectors = units.mfcc(batch)[0]
    units.load_state_dict(
        {"centres": (vectors[[3, 9, 30]] - 1.5) / 2.0, "mean": torch.full((39,), 1.5),
         "std": torch.full((39,), 2.0)}
    )  # fmt: skip
    found = units(batch)[0]
    assert found[[3, 9, 30]].tolist() == [0, 1, 2]
    nearest = torch.cdist(vectors, vectors[[3, 9, 30]]).argmin(-1)
    assert torch.equal(found, nearest)


def test_the_number_of_units_is_asked_for() -> None:
    with pytest.raises(ValueError, match="of: units needs units"):
        params.InputTarget(kind="input", of="units")
    with pytest.raises(ValueError, match="units has no effect with of: log_mel"):
        params.InputTarget(kind="input", of="log_mel", units=3)

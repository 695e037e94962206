"""Examples in memory are checked as inputs of inference are, and refused by their number."""

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from d2v.data import in_memory
from d2v.util.errors import UserError

WAVE = (np.random.default_rng(0).standard_normal(16_000) / 10).astype(np.float32)


def with_a(value: float) -> np.ndarray:
    wave = WAVE.copy()
    wave[100] = value
    return wave


UNUSABLE = [
    (with_a(np.nan), "corrupt audio .samples that are not numbers"),
    (with_a(-np.inf), "corrupt audio .samples that are not numbers"),
    (WAVE * 32767, "a sample of .* but full scale is 1"),
    ((WAVE * 1e9).astype(np.int32), "samples are int32; give floating-point numbers or int16"),
    ((WAVE * 99 + 128).astype(np.uint8), "samples are uint8"),
    (np.stack([WAVE, WAVE]), r"samples of shape \(2, 16000\)"),
    (WAVE[:0], r"samples of shape \(0,\)"),
    ((WAVE, None), "a rate of None"),
    ((WAVE, 0), "a rate of 0"),
    ((WAVE, 2e9), "not usable at 2000000000 Hz"),
    ((WAVE, 16_000, 1), "give a pair of samples and rate, not 3 values"),
    ({"array": WAVE}, "a recording needs array and sampling_rate"),
    (torch.zeros(9, dtype=torch.bfloat16), r"not usable as an array .* with \.float\(\)"),
    ([[0.0], [0.0, 0.1]], "not usable as an array"),
    (WAVE * 0, r"silent \(its peak is 0\.00000 of full scale\)"),
    (np.sign(WAVE), r"clipped \(100 % of its samples are at full scale\)"),
]


@pytest.mark.parametrize(("item", "said"), UNUSABLE)
@pytest.mark.parametrize("labelled", [True, False])
def test_an_unusable_recording_is_named_by_its_number(tmp_path, item, said, labelled):
    texts = ("yes", "no") if labelled else (None, None)
    examples = list(zip((WAVE, item), texts, strict=True))
    with pytest.raises(UserError, match=rf"^train: example 1: {said}") as found:
        in_memory.write(tmp_path / "prepared", "speech", {"train": examples})
    assert str(tmp_path) not in str(found.value)
    assert "skip_bad" not in str(found.value)
    assert "manifest" not in str(found.value)


def test_the_numbers_of_usable_recordings_are_kept(tmp_path):
    whole = (WAVE * 2**15).astype(np.int16)
    items = [
        whole,
        WAVE,
        (WAVE[:8000, None].astype(np.float64), 8000),
        torch.from_numpy(WAVE)[None],
    ]
    examples = [(item, "a") for item in items]
    in_memory.write(tmp_path / "prepared", "speech", {"train": examples})
    read = [
        soundfile.read(tmp_path / f"source/train/train-{i:07d}.flac", dtype="int16")
        for i in range(4)
    ]
    rounded = np.rint(WAVE * 2.0**15)
    assert [rate for _, rate in read] == [16_000, 16_000, 8000, 16_000]
    for (found, _), wanted in zip(read, (whole, rounded, rounded[:8000], rounded), strict=True):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (np.zeros((0, 8, 3), np.uint8), r"a picture without pixels \(of shape \(0, 8, 3\)\)"),
        (Image.new("RGB", (0, 8)), r"a picture without pixels \(0 x 8\)"),
        (np.zeros((8, 8, 3)), "pixels float64"),
    ],
)
def test_an_unusable_picture_is_named_by_its_number(tmp_path, item, said):
    pixels = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UserError, match=f"^train: example 1: {said}"):
        in_memory.write(tmp_path / "prepared", "vision", {"train": [(pixels, "a"), (item, "b")]})

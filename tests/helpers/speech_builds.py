"""Sounds, and `d2v prepare` that must work or must fail."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from preparing import run

from d2v.data.sound import RATE
from d2v.util.errors import UserError


def sound(path: Path, seconds: float, seed: int = 0, rate: int = RATE, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (round(seconds * rate), channels)
    wave = np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)
    soundfile.write(path, wave.squeeze(), rate)


def fails(message: str, out: Path, *words: object) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(*words, "-o", out)
    assert "\n" not in str(caught.value)
    assert not out.exists()

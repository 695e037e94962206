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


def audioset(root: Path) -> Path:
    """AudioSet's lists and five short clips, in their official layout."""
    root.mkdir()
    (root / "class_labels_indices.csv").write_text(
        'index,mid,display_name\n0,/m/a,"Speech"\n1,/m/b,"Male speech, man speaking"\n2,/t/c,Dog\n'
    )
    head = "# Segments csv created ...\n# num_ytids=2\n# YTID, start_seconds, end_seconds, labels\n"
    lists = {
        "balanced_train": 'abc, 30.000, 40.000, "/t/c,/m/a"\n-de, 0.000, 10.000, "/m/b"\n',
        "unbalanced_train": 'ghi, 5.000, 15.000, "/m/a"\n',
        "eval": 'jkl, 0.000, 10.000, "/t/c"\nmno, 0.000, 10.000, "/m/b"\n',
    }
    for name, text in lists.items():
        (root / f"{name}_segments.csv").write_text(head + text)
    for k, name in enumerate(("abc.wav", "Y-de.flac", "ghi_5.flac", "jkl.flac", "mno.flac")):
        sound(root / "clips" / str(k % 2) / name, 0.2, k)
    return root

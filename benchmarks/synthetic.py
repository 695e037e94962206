"""Synthetic data in official layouts: photograph-like JPEG, speech-like FLAC, random words."""

import io
import random
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

FOLDER = 50  # files in one
KINDS = 64  # different files; the others have the content of one of them
WORDS = 3000  # of the corpus


def write_images(root: Path, count: int) -> list[Path]:
    """JPEG files as ImageFolder wants them; about 100 KB each."""
    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(KINDS):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
        pixels = (smooth + rng.normal(0, 14, smooth.shape)).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        kinds.append(buffer.getvalue())
    paths = []
    for n in range(count):
        group = root / "train" / f"n{n // FOLDER:08d}"
        group.mkdir(parents=True, exist_ok=True)
        paths.append(group / f"{group.name}_{n}.JPEG")
        paths[-1].write_bytes(kinds[n % KINDS])
    return paths


def write_speech(root: Path, count: int) -> list[Path]:
    """FLAC files and transcripts as in LibriSpeech."""
    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(KINDS):
        samples = int(rng.uniform(2, 16) * 16_000)
        noise = rng.normal(0, 1, samples).cumsum()
        loud = np.interp(np.arange(samples), np.linspace(0, samples, 40), rng.uniform(0, 1, 40))
        wave = np.sin(0.02 * noise) * loud * 0.4 + rng.normal(0, 0.004, samples)
        buffer = io.BytesIO()
        soundfile.write(buffer, (wave * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16), 16_000,
                        format="FLAC", subtype="PCM_16")  # fmt: skip
        kinds.append(buffer.getvalue())
    paths = []
    for first in range(0, count, FOLDER):
        chapter = root / "train" / f"{first}" / "1"
        chapter.mkdir(parents=True)
        names = [f"{first}-1-{n:04d}" for n in range(min(FOLDER, count - first))]
        lines = "".join(f"{name} ONE TWO THREE\n" for name in names)
        (chapter / f"{first}-1.trans.txt").write_text(lines)
        paths += [chapter / f"{name}.flac" for name in names]
    for n, path in enumerate(paths):
        path.write_bytes(kinds[n % KINDS])
    return paths


def write_text(folder: Path, sentences: int) -> Path:
    """A corpus of random words, twenty in a sentence."""
    draw = random.Random(0)
    letters = "etaoinshrdlu"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 8))) for _ in range(WORDS)]
    lines = (" ".join(draw.choices(words, k=20)) for _ in range(sentences))
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("\n".join(lines) + "\n")
    return folder

"""A small prepared set of tagged clips, as `d2v prepare audioset` writes them."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from d2v.data.shards import write_meta, written_whole
from d2v.data.writing import Example, write_split

CLASSES = ["Speech", "Music", "Bark", "Rain"]
# samples and classes of each clip
CLIPS = [(6400, "0,2"), (9600, "1"), (6400, ""), (3200, "3"), (6400, "0,1,3"), (9600, "2")]


def clip(item: tuple[int, int, str]) -> Iterable[Example]:
    """Noise of one length with its classes."""
    number, samples, labels = item
    file = io.BytesIO()
    wave = np.random.default_rng(number).integers(-9000, 9000, samples, np.int16)
    soundfile.write(file, wave, 16_000, format="FLAC")
    columns = {"id": f"clip{number}", "samples": samples, "labels": labels}
    yield Example(file.getvalue(), columns)


SPLITS = ("unbalanced", "balanced", "eval")


def write(out: Path, splits: Iterable[str] = SPLITS, kind: str = "audioset") -> Path:
    """The prepared set; every split has the same clips under numbers of its own."""
    with written_whole(out) as temporary:
        for place, split in enumerate(splits):
            items = [(10 * place + i, *c) for i, c in enumerate(CLIPS)]
            sizes = [samples for _, samples, _ in items]
            write_split(temporary / split, items, clip, sizes=sizes, label=split, workers=1)
        counts = {split: {"examples": len(CLIPS)} for split in splits}
        write_meta(temporary, dataset=out.name, kind=kind, splits=counts, classes=CLASSES)
    return out

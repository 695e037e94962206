"""Small prepared sets of random examples, and experiments that pre-train on them (through.py).

Sets are written as `d2v prepare` writes them, with the sizes that a recipe's model expects: 256 x
256 JPEG files, raw samples of one length, full blocks of token ids.
"""

import io
from pathlib import Path
from typing import Any

import batches
import numpy as np
import yaml
from PIL import Image

from d2v import params
from d2v.data.readers.imagefolder import image_example, write_images_meta
from d2v.data.shards import write_meta, written_whole
from d2v.data.sound import PCM, RATE, level_columns
from d2v.data.writing import Columns, Example, Written, write_split

SOURCE = Path("random")
SIDE = 256  # pixels of an image, more than its view needs
COARSE = 16  # of these an image is enlarged, so that JPEG takes it for a photograph
# name and split of the set, as the recipe's group of `data:` makes them
NAMES = {"speech": "librispeech", "vision": "imagenet", "text": "corpus"}
SPLITS = {"speech": "train-clean-100", "vision": "train", "text": "train"}


def write(kind: str, p: params.Pretrain, size: int, count: int, folder: Path) -> None:
    """Write `count` examples of a size (samples, pixels a side, tokens) as the set of a recipe."""
    with written_whole(folder) as temporary:
        made = {"speech": _sound, "vision": _image, "text": _tokens}[kind]
        written = write_split(
            temporary / SPLITS[kind],
            range(count),
            lambda number: [made(p, size, number)],
            sizes=[1] * count,
            label=kind,
            workers=1,
        )
        _describe(kind, p, size, temporary, written)


def experiment(name: str, kind: str, p: params.Pretrain, train: dict[str, Any]) -> str:
    """A parameter file with the pre-training `kind` alone, on the set in the folder `prepared`."""
    one = p.model_dump(mode="json", exclude_none=True)
    one |= {"data": NAMES[kind], "split": SPLITS[kind], "seeds": [0], "train": train}
    if kind == "speech":
        one["view"].pop("min_samples", None)  # examples may be shorter
    # updates as they are after 1,819 steps: the first ones cannot be captured (FairseqAdamW)
    one["optimiser"].pop("eps_before_correction", None)
    return yaml.safe_dump(
        {
            "name": name, "title": "random data", "scale": "own", "prepared": "prepared",
            "data": _group(p), "pretrain": {kind: one}, "finetune": {},
        }
    )  # fmt: skip


def _group(p: params.Pretrain) -> dict[str, Any]:
    """The group of `data:` that would make such a set."""
    source = {"source": SOURCE.as_posix()}
    if isinstance(p.encoder, params.WaveEncoder):
        return {"librispeech": {"kind": "librispeech", "limited": "", **source}}
    if isinstance(p.encoder, params.PatchEncoder):
        return {"imagenet": {"kind": "imagenet", **source}}
    assert isinstance(p.view, params.TokenAugment)
    sizes = {"vocab_size": p.encoder.vocab_size, "block": p.view.max_tokens}
    return {"text": {"kind": "plain_text", **source, **sizes}}


# --- examples -------------------------------------------------------------------------------------


def _image(p: params.Pretrain, size: int, number: int) -> Example:
    pixels = np.random.default_rng(number).integers(0, 256, (COARSE, COARSE, 3), np.uint8)
    side = SIDE if size > COARSE**2 // 2 else size
    file = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(file, "JPEG", quality=90)
    return image_example(file.getvalue(), f"a/{number}", 0, f"image {number}", headers=False)


def _sound(p: params.Pretrain, size: int, number: int) -> Example:
    wave = np.random.default_rng(number).normal(0, 3000, size).clip(-(2**15), 2**15 - 1)
    samples = wave.astype("<i2")
    columns: Columns = {"id": f"0-0-{number:04d}", "text": "A", "speaker": "0"}
    return Example(samples.tobytes(), columns | level_columns(samples))


def _tokens(p: params.Pretrain, size: int, number: int) -> Example:
    assert isinstance(p.encoder, params.TokenEncoder)
    ids = np.random.default_rng(number).integers(batches.SPECIAL, p.encoder.vocab_size - 1, size)
    return Example(ids.astype("<i4").tobytes(), {"id": f"a:1#{number}", "tokens": size})


def _describe(kind: str, p: params.Pretrain, size: int, folder: Path, written: Written) -> None:
    name, count = NAMES[kind], len(written.shards)
    if kind == "vision":
        write_images_meta(folder, name, SOURCE, {"train": written}, ["a"])
        return
    meta: dict[str, Any] = {"dataset": name, "source": SOURCE.as_posix()}
    if kind == "speech":
        samples = int(written.shards.numbers("samples").sum())
        meta |= {"kind": "librispeech", "rate": RATE, "encoding": PCM}
        meta |= {"splits": {SPLITS[kind]: {"examples": count, "samples": samples}}}
    else:
        assert isinstance(p.encoder, params.TokenEncoder)
        meta |= {"kind": "corpus", "block": size, "dtype": "<i4", "tokenizer": ""}
        meta |= {"vocab_size": p.encoder.vocab_size, "splits": {"train": {"examples": count}}}
    write_meta(folder, **meta)

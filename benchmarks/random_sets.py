"""Small prepared sets of random examples, and experiments that pre-train on them (through.py).

Sets are written as `d2v prepare` writes them, with the sizes that a recipe's model expects: 256 x
256 JPEG files, raw samples of one length, full blocks of token ids.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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


class Set(NamedTuple):
    """A kind of set."""

    name: str  # as the recipe's group of `data:` makes it, like the split
    split: str
    # an example from the recipe, its size and its number
    example: Callable[[params.Pretrain, int, int], Example]
    # writes meta.json into a folder, for a size and what was written
    describe: Callable[[params.Pretrain, int, Path, Written], None]
    group: Callable[[params.Pretrain], dict[str, Any]]  # of `data:` that would make it


def write(kind: str, p: params.Pretrain, size: int, count: int, folder: Path) -> None:
    """Write `count` examples of a size (samples, pixels a side, tokens) as the set of a recipe."""
    with written_whole(folder) as temporary:
        made = SETS[kind]
        written = write_split(
            temporary / made.split,
            range(count),
            lambda number: [made.example(p, size, number)],
            sizes=[1] * count,
            label=kind,
            workers=1,
        )
        made.describe(p, size, temporary, written)


def experiment(name: str, kind: str, p: params.Pretrain, train: dict[str, Any]) -> str:
    """A parameter file with the pre-training `kind` alone, on the set in the folder `prepared`."""
    one = p.model_dump(mode="json", exclude_none=True)
    made = SETS[kind]
    one |= {"data": made.name, "split": made.split, "seeds": [0], "train": train}
    one["view"].pop("min_samples", None)  # recordings may be shorter
    # updates as they are after 1,819 steps: the first ones cannot be captured (FairseqAdamW)
    one["optimiser"].pop("eps_before_correction", None)
    return yaml.safe_dump(
        {
            "name": name, "title": "random data", "scale": "own", "prepared": "prepared",
            "data": made.group(p), "pretrain": {kind: one}, "finetune": {},
        }
    )  # fmt: skip


# --- images ---------------------------------------------------------------------------------------


def _image(p: params.Pretrain, size: int, number: int) -> Example:
    pixels = np.random.default_rng(number).integers(0, 256, (COARSE, COARSE, 3), np.uint8)
    side = SIDE if size > COARSE**2 // 2 else size
    file = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(file, "JPEG", quality=90)
    return image_example(file.getvalue(), f"a/{number}", 0, f"image {number}", headers=False)


def _describe_images(p: params.Pretrain, size: int, folder: Path, written: Written) -> None:
    write_images_meta(folder, "imagenet", SOURCE, {"train": written}, ["a"])


def _images(p: params.Pretrain) -> dict[str, Any]:
    return {"imagenet": {"kind": "imagenet", "source": SOURCE.as_posix()}}


# --- recordings -----------------------------------------------------------------------------------


def _recording(p: params.Pretrain, size: int, number: int) -> Example:
    wave = np.random.default_rng(number).normal(0, 3000, size).clip(-(2**15), 2**15 - 1)
    samples = wave.astype("<i2")
    columns: Columns = {"id": f"0-0-{number:04d}", "text": "A", "speaker": "0"}
    return Example(samples.tobytes(), columns | level_columns(samples))


def _describe_recordings(p: params.Pretrain, size: int, folder: Path, written: Written) -> None:
    samples = int(written.shards.numbers("samples").sum())
    splits = {SPEECH_SPLIT: {"examples": len(written.shards), "samples": samples}}
    write_meta(folder, dataset="librispeech", source=SOURCE.as_posix(), kind="librispeech",
               rate=RATE, encoding=PCM, splits=splits)  # fmt: skip


def _recordings(p: params.Pretrain) -> dict[str, Any]:
    group = {"kind": "librispeech", "limited": "", "source": SOURCE.as_posix()}
    return {"librispeech": group}


# --- blocks of text -------------------------------------------------------------------------------


def _block(p: params.Pretrain, size: int, number: int) -> Example:
    assert isinstance(p.encoder, params.TokenEncoder)
    ids = np.random.default_rng(number).integers(batches.SPECIAL, p.encoder.vocab_size - 1, size)
    return Example(ids.astype("<i4").tobytes(), {"id": f"a:1#{number}", "tokens": size})


def _describe_blocks(p: params.Pretrain, size: int, folder: Path, written: Written) -> None:
    assert isinstance(p.encoder, params.TokenEncoder)
    splits = {"train": {"examples": len(written.shards)}}
    write_meta(folder, dataset="corpus", source=SOURCE.as_posix(), kind="corpus", block=size,
               dtype="<i4", tokenizer="", vocab_size=p.encoder.vocab_size,
               splits=splits)  # fmt: skip


def _blocks(p: params.Pretrain) -> dict[str, Any]:
    assert isinstance(p.encoder, params.TokenEncoder)
    assert isinstance(p.view, params.TokenAugment)
    sizes = {"vocab_size": p.encoder.vocab_size, "block": p.view.max_tokens}
    return {"text": {"kind": "plain_text", "source": SOURCE.as_posix(), **sizes}}


SPEECH_SPLIT = "train-clean-100"
SETS = {
    "vision": Set("imagenet", "train", _image, _describe_images, _images),
    "speech": Set("librispeech", SPEECH_SPLIT, _recording, _describe_recordings, _recordings),
    "text": Set("corpus", "train", _block, _describe_blocks, _blocks),
}

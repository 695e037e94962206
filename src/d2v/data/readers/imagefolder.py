"""ImageFolder trees (ImageNet's layout) to shards: SPLIT/CLASS/NAME.JPEG, and lists/*.txt."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from d2v.data.layout import copy_lists, split_folders, subfolders, visible_files
from d2v.data.pixels import as_rgb, check_mode
from d2v.data.shards import write_meta, written_whole
from d2v.data.walk import refuse_twice, warn_unused
from d2v.data.writing import Columns, Example, Written, write_split
from d2v.util.errors import UserError

SUFFIXES = {".jpeg", ".jpg", ".png"}
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}  # marker in the last bytes of a complete file
LAST = 1024


def prepare_imagefolder(
    source: Path,
    out: Path,
    splits: Sequence[str] | None = None,
    workers: int | None = None,
    *,
    headers: bool = False,
) -> None:
    """Write shards of the unchanged image files; the id of an example is CLASS/NAME.

    meta.json records the sorted class names, and the mean and standard deviation in [0, 1] of red,
    green, blue and grey over the train split (or the first split, if none is called train). With
    `headers`, nothing is decoded: only the start and the end of each file are checked, and the
    colours stay unknown.

    Raises UserError naming the file or folder for: an unreadable image, another kind of file, an
    empty class or split, a class that is not in every split, a duplicate id, a label list that
    names a missing id.
    """
    folders = split_folders(source, splits)
    classes = _classes(folders)
    label = {name: i for i, name in enumerate(classes)}
    with written_whole(out) as temporary:
        written = {}
        for folder in folders:
            files = _image_files(folder)
            written[folder.name] = write_split(
                temporary / folder.name,
                [(path, label[path.parent.name]) for path in files],
                partial(_example, headers),
                sizes=[path.stat().st_size for path in files],
                label=folder.name,
                workers=workers,
            )
        copy_lists(source, temporary, {i for w in written.values() for i in w.shards.texts("id")})
        write_images_meta(temporary, out.name, source, written, classes)


def write_images_meta(
    temporary: Path,
    name: str,
    source: Path,
    written: dict[str, Written],
    classes: list[str],
    more: Mapping[str, Mapping[str, int]] | None = None,
    **entries: object,
) -> None:
    """Write meta.json of a set of images, with the colours of the train or first split.

    `more` are further counts of each split.
    """
    colours = written.get("train") or next(iter(written.values()))
    mean, std = (None, None) if colours.counts is None else statistics(colours.counts)
    write_meta(
        temporary,
        dataset=name,
        kind="imagefolder",
        source=source.as_posix(),
        splits={
            split: {"examples": len(w.shards), **(more or {}).get(split, {})}
            for split, w in written.items()
        },
        classes=classes,
        mean=mean,
        std=std,
        **entries,
    )


def _example(headers: bool, item: tuple[Path, int]) -> Iterator[Example]:
    path, label = item
    name = f"{path.parent.name}/{path.stem}"
    yield image_example(path.read_bytes(), name, label, path, headers)


def image_example(
    payload: bytes,
    name: str,
    label: int,
    where: Path | str,
    headers: bool,
    *,
    upright: bool = False,
) -> Example:
    """Make the example of an image file: its size and, unless `headers`, its colour histograms.

    With `upright`, the size is that after rotation (see `picture`). Raises UserError with `where`
    if the file is broken.
    """
    image = _unread(payload, where) if headers else picture(payload, where, upright=upright)
    columns: Columns = {
        "id": name,
        "label": label,
        "height": image.height,
        "width": image.width,
    }
    return Example(payload, columns, None if headers else _histograms(image))


def decode(payload: bytes | memoryview, name: Path | str) -> np.ndarray:
    """Decode an image file to RGB pixels (H, W, 3) uint8.

    Raises UserError with the name if the file is broken.
    """
    return np.asarray(picture(payload, name))


def picture(
    payload: bytes | memoryview, name: Path | str, by: int = 1, *, upright: bool = False
) -> Image.Image:
    """Open an image file as RGB; JPEG files `by` (1, 2, 4, 8) times smaller, sides rounded up.

    `upright` rotates it according to its EXIF orientation. This is done everywhere for images of
    one's own (`upright` in meta.json), and at inference for all. Training and evaluation on
    official sets do not, like torchvision's ImageFolder.

    Raises UserError with the name if the file is broken.
    """
    with _faults_of(name, payload), Image.open(io.BytesIO(payload)) as image:
        if by > 1:  # formats other than JPEG ignore this
            image.draft(None, (image.width // by, image.height // by))
        return as_rgb(image, upright=upright)


def _unread(payload: bytes, name: Path | str) -> Image.Image:
    """Open an image file without decoding it, checking only its header and its last bytes."""
    with _faults_of(name, payload), Image.open(io.BytesIO(payload)) as image:
        if ENDS.get(image.format or "", b"") not in payload[-LAST:]:
            raise OSError("its end is missing")
        check_mode(image)
        return image


@contextmanager
def _faults_of(name: Path | str, payload: bytes | memoryview) -> Iterator[None]:
    if not len(payload):
        raise UserError(f"{name}: an empty file; replace or remove it")
    try:
        yield
    except UnidentifiedImageError:
        raise UserError(f"{name}: not a readable image; replace or remove it") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.search(r"\d+", str(error))
        raise UserError(
            f"{name}: {int(pixels[0]) if pixels else 'too many':,} pixels, more than Pillow opens"
            f" ({2 * (Image.MAX_IMAGE_PIXELS or 0):,}); make the picture smaller"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{name}: corrupt image ({error}); replace or remove it") from None


def grey(image: np.ndarray) -> np.ndarray:
    """Return the luma (H, W) of an image (H, W, 3), as in Pillow's mode L."""
    return np.asarray(Image.fromarray(image).convert("L"))


def _histograms(image: Image.Image) -> np.ndarray:
    """Count the values of red, green, blue and grey of an RGB image: (4, 256).

    Counts are integers, so that their sum is the same on every machine and in any order.
    """
    counts = image.histogram() + image.convert("L").histogram()
    return np.array(counts, np.int64).reshape(4, 256)


def statistics(histograms: np.ndarray) -> tuple[list[float], list[float]]:
    """Means and standard deviations of red, green, blue and grey, in [0, 1], to six decimals."""
    mean, std = [], []
    for counts in histograms.tolist():
        pixels = sum(counts)
        total = sum(count * value for value, count in enumerate(counts))
        squares = sum(count * value * value for value, count in enumerate(counts))
        mean.append(round(total / pixels / 255, 6))
        std.append(round((squares * pixels - total * total) ** 0.5 / pixels / 255, 6))
    return mean, std


def _classes(folders: list[Path]) -> list[str]:
    """Return the sorted class names; raises UserError unless all splits share them."""
    named = {f: [c.name for c in subfolders(f)] for f in folders}
    for folder, names in named.items():
        if not names:
            raise UserError(f"{folder}: an empty split: it contains no class folders")
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
    warn_unused(folder, visible_files(folder), "not in a class folder")
    refuse_twice(subfolders(folder))
    for group in subfolders(folder):
        found = visible_files(group)
        if inner := subfolders(group):
            raise UserError(
                f"{inner[0]}: a folder inside a class folder; move its images to {group}"
            )
        if not found:
            raise UserError(f"{group}: contains no images")
        stems: set[str] = set()
        for path in found:
            if path.suffix.lower() not in SUFFIXES:
                raise UserError(f"{path}: not an image file ({', '.join(sorted(SUFFIXES))})")
            if path.stem in stems:
                raise UserError(f"{path}: another image in {group} has the same name")
            stems.add(path.stem)
        files += found
    return files

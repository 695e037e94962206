"""ImageNet-1K, as distributed or extracted, to shards; nothing is unpacked to disk.

    SRC/ILSVRC2012_img_train.tar            archives nXXXXXXXX.tar of JPEG files
    SRC/ILSVRC2012_img_val.tar              JPEG files
    SRC/ILSVRC2012_devkit_t12.tar.gz        class names, labels of val

or SRC/train/nXXXXXXXX/*.JPEG, and SRC/val/nXXXXXXXX/*.JPEG or SRC/val/*.JPEG with the devkit.
SRC/lists/*.txt list labelled examples, one SYNSET/NAME per line, as in an ImageFolder tree.
"""

import io
import re
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from d2v.data.layout import LISTS, copy_lists, subfolders, visible_files
from d2v.data.readers.imagefolder import image_example, write_images_meta
from d2v.data.readers.official import IMAGENET_CLASSES, check_counts, tell
from d2v.data.shards import written_whole
from d2v.data.walk import refuse_twice, warn_unused
from d2v.data.writing import Example, progress_of, write_split
from d2v.util.errors import UserError

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12"
SCANS = 8  # synset archives whose headers are read in parallel, because slow storage has latency
SYNSET = re.compile(r"n\d{8}")
Place = tuple[Path, int, int]  # file, offset of the image in it, number of bytes
Images = dict[str, list[tuple[str, Place]]]  # by synset: names and places
Labelled = tuple[Path, int, int, str, int]  # the three of a place, id, label


def prepare_imagenet(
    source: Path,
    out: Path,
    workers: int | None = None,
    allow_partial: bool = False,
    *,
    headers: bool = False,
) -> None:
    """Write the unchanged JPEG files; example ids are SYNSET/NAME, labels the ranks of the synsets.

    With `headers`, nothing is decoded (see prepare_imagefolder).

    Raises UserError naming the file for: neither archives nor folders, a truncated archive, a
    synset without images or in only one split, val without labels, a broken image, a label list
    that names a missing id. Also raises it for counts other than the official ones, unless
    `allow_partial`.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    warn_unused(source, _beside(source), "not read")
    found = {"train": _train(source)}
    if not allow_partial or (source / VAL).exists() or (source / "val").is_dir():
        found["val"] = _val(source)
    classes = sorted(found["train"])
    _check_classes(source, found, allow_partial)
    counts = {split: sum(map(len, images.values())) for split, images in found.items()}
    complete = check_counts("imagenet", counts, allow_partial)
    label = {synset: i for i, synset in enumerate(classes)}
    with written_whole(out) as temporary:
        written = {}
        for split, images in found.items():
            items: list[Labelled] = [
                (*place, f"{synset}/{name}", label[synset])
                for synset in sorted(images)
                for name, place in sorted(images[synset])
            ]
            written[split] = write_split(
                temporary / split,
                items,
                partial(_example, headers),
                sizes=[item[2] for item in items],
                label=split,
                workers=workers,
            )
        copy_lists(source, temporary, {i for w in written.values() for i in w.shards.texts("id")})
        complete = complete and len(classes) == IMAGENET_CLASSES
        write_images_meta(temporary, out.name, source, written, classes, complete=complete)


def _example(headers: bool, item: Labelled) -> Iterator[Example]:
    path, offset, size, name, label = item
    with open(path, "rb") as file:
        file.seek(offset)
        payload = file.read(size)
    where = path if offset == 0 else f"{path}: {name.rpartition('/')[2]}.JPEG"
    yield image_example(payload, name, label, where, headers)


def _check_classes(source: Path, found: dict[str, Images], allow_partial: bool) -> None:
    train, val = set(found["train"]), set(found.get("val", ()))
    if missing := sorted(val - train):
        raise UserError(
            f"{source}: train has no synset {missing[0]} ({len(missing)} missing), which val has"
        )
    faults = []
    if "val" in found and (missing := sorted(train - val)):
        faults.append(f"val has no images of synset {missing[0]} ({len(missing)} missing)")
    if len(train) != IMAGENET_CLASSES:
        faults.append(f"train has {len(train)} of {IMAGENET_CLASSES} synsets")
    tell("imagenet", faults, allow_partial)


def _beside(source: Path) -> set[Path]:
    """Return what is not read in a folder of ImageNet: unknown names, and extracted duplicates."""
    known = {LISTS, DEVKIT, f"{DEVKIT}.tar.gz"}
    for name, archive in (("train", TRAIN), ("val", VAL)):
        known.add(archive if (source / archive).exists() else name)
    return {p for p in (*visible_files(source), *subfolders(source)) if p.name not in known}


def _train(source: Path) -> Images:
    archive, folder = source / TRAIN, source / "train"
    if not archive.exists():
        if not folder.is_dir():
            raise UserError(f"{source}: contains neither {TRAIN} nor a folder train")
        return _folders(folder)
    found: Images = {}
    with _opened(archive) as outer:
        members = _members(outer, archive)
    scan = partial(_synset, archive)
    with progress_of(TRAIN, len(members), 0) as advance, ThreadPoolExecutor(SCANS) as pool:
        for synset, images in pool.map(scan, members):
            found[synset] = images
            advance(1)
    return found


def _synset(archive: Path, member: tarfile.TarInfo) -> tuple[str, list[tuple[str, Place]]]:
    """Return the synset and the images of one archive inside the train archive."""
    synset = member.name.rpartition("/")[2].removesuffix(".tar")
    where = f"{archive}: {member.name}"
    if not SYNSET.fullmatch(synset) or not member.name.endswith(".tar"):
        raise UserError(f"{where}: not a synset archive (nXXXXXXXX.tar)")
    with _opened(archive) as outer:  # open it separately: other threads read at other offsets
        inner = outer.extractfile(member)
        assert inner is not None
        with _opened(inner, where) as images:
            files = _files(images, archive, where)
    if not files:
        raise UserError(f"{where}: contains no images")
    begin = member.offset_data
    return synset, [(name, (archive, begin + start, size)) for name, (_, start, size) in files]


def _val(source: Path) -> Images:
    archive, folder = source / VAL, source / "val"
    if archive.exists():
        with _opened(archive) as images:
            return _by_label(source, _files(images, archive, str(archive)))
    if not folder.is_dir():
        raise UserError(f"{source}: contains neither {VAL} nor a folder val")
    if subfolders(folder):
        return _folders(folder)
    files = [(path.stem, (path, 0, path.stat().st_size)) for path in visible_files(folder)]
    return _by_label(source, files)


def _folders(folder: Path) -> Images:
    found: Images = {}
    warn_unused(folder, visible_files(folder), "not in a synset folder")
    refuse_twice(subfolders(folder))
    for synset in subfolders(folder):
        if not SYNSET.fullmatch(synset.name):
            raise UserError(f"{synset}: not a synset folder (nXXXXXXXX)")
        files = visible_files(synset)
        if inner := subfolders(synset):
            raise UserError(
                f"{inner[0]}: a folder inside a synset folder; move its images to {synset}"
            )
        if odd := [path for path in files if path.suffix != ".JPEG"]:
            raise UserError(f"{odd[0]}: not a JPEG file of ImageNet")
        if not files:
            raise UserError(f"{synset}: contains no images")
        found[synset.name] = [(path.stem, (path, 0, path.stat().st_size)) for path in files]
    if not found:
        raise UserError(f"{folder}: contains no synset folders")
    return found


def _by_label(source: Path, files: list[tuple[str, Place]]) -> Images:
    """Group validation images by synset: line n of the ground truth is the label of image n."""
    synsets, truth = _devkit(source)
    found: Images = {}
    for name, place in files:
        number = name.rpartition("_")[2]
        if not number.isdigit() or not 1 <= int(number) <= len(truth):
            raise UserError(f"{place[0]}: {name} has no line in the devkit's ground truth")
        found.setdefault(synsets[truth[int(number) - 1]], []).append((name, place))
    return found


def _devkit(source: Path) -> tuple[dict[int, str], list[int]]:
    """Return the synsets by ILSVRC2012_ID, and the IDs of the validation images."""
    from scipy.io import loadmat

    names = ("data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt")
    archive, folder = source / f"{DEVKIT}.tar.gz", source / DEVKIT
    if archive.exists():
        with _opened(archive) as devkit:
            held = {m.name.partition("/")[2]: m for m in _members(devkit, archive)}
            if missing := [name for name in names if name not in held]:
                raise UserError(f"{archive}: contains no {missing[0]}")
            mat, text = (devkit.extractfile(held[name]).read() for name in names)  # type: ignore[union-attr]
    elif all((folder / name).is_file() for name in names):
        mat, text = ((folder / name).read_bytes() for name in names)
    else:
        raise UserError(
            f"{source}: the val images are not in synset folders, so {archive.name} is needed"
            " for their labels"
        )
    try:
        table = np.atleast_1d(loadmat(io.BytesIO(mat), squeeze_me=True)["synsets"])
        synsets = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in table}
        truth = [int(line) for line in text.split()]
        if unknown := set(truth) - set(synsets):
            raise ValueError(f"no synset {min(unknown)}")
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise UserError(f"{source}: the devkit's tables are unreadable ({error})") from None
    return synsets, truth


def _opened(archive: Path | object, where: str | None = None) -> tarfile.TarFile:
    try:
        if isinstance(archive, Path):
            return tarfile.open(archive)
        return tarfile.open(fileobj=archive, mode="r:")  # type: ignore[call-overload]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(
            f"{where or archive}: incomplete or damaged tar archive ({error})"
        ) from None


def _members(archive: tarfile.TarFile, where: Path | str) -> list[tarfile.TarInfo]:
    """Return the files of an archive, reading only headers."""
    try:
        return [member for member in archive if member.isfile()]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{where}: truncated archive ({error}); download it again") from None


def _files(archive: tarfile.TarFile, path: Path, where: str) -> list[tuple[str, Place]]:
    """Return the names and places of the JPEG files in an archive."""
    members = _members(archive, where)
    if odd := [m.name for m in members if not m.name.endswith(".JPEG")]:
        raise UserError(f"{where}: {odd[0]}: not a JPEG file of ImageNet")
    return [
        (m.name.rpartition("/")[2].removesuffix(".JPEG"), (path, m.offset_data, m.size))
        for m in members
    ]

"""One's own images to shards: any folder, with classes from folders or a manifest, or without."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from functools import partial
from pathlib import Path

from d2v import params
from d2v.data.layout import copy_lists
from d2v.data.readers.imagefolder import image_example, write_images_meta
from d2v.data.readers.own_files import (
    Found,
    Listed,
    check_place,
    files_below,
    find,
    left_out,
    listed,
    reason_of,
    shard_bytes,
    usable,
    write_left_out,
)
from d2v.data.readers.tables import column_of, is_table, read_table
from d2v.data.shards import written_whole
from d2v.data.walk import walk, warn_unused
from d2v.data.writing import Example, Written, write_split
from d2v.util.errors import UserError, quoted

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
PATHS = (
    "path",
    "file_name",
    "file",
    "image",
)  # usual columns, the first that exists is read
LABELS = ("label", "class", "category")
REMEDY = "repair or remove it, or set skip_bad: true to leave out such images"


def prepare_own_images(group: params.ImageFolder, out: Path, workers: int | None = None) -> None:
    """Write shards of the unchanged image files, as for an ImageFolder.

    The id of an example is its path below the source, without suffix. Classes are numbered in the
    order of their names. Files are stored unchanged; `upright` in meta.json says that every reader
    applies their EXIF orientation.

    Raises UserError naming the file (and the line of the manifest) for: a missing or unreadable
    image, another number of classes than `classes`, a class that the train split lacks, content
    that two splits share, a split without usable images.
    """
    found = _find(group)
    classes = _classes(group, found)
    number = {name: i for i, name in enumerate(classes)}
    chosen = usable(found, lambda item: "", "images", group.skip_bad, REMEDY)
    written: dict[str, Written] = {}
    with written_whole(out) as temporary:
        for split, items in chosen.kept.items():
            sizes = [item.path.stat().st_size for item in items]
            written[split] = write_split(
                temporary / split,
                [(item, number.get(item.label, 0)) for item in items],
                partial(_examples, group.skip_bad),
                sizes=sizes,
                label=split,
                workers=workers,
                shard_bytes=shard_bytes(sizes),
            )
            chosen.left[split] += left_out(split, items, written[split].shards, _reason)
        ids = {name for w in written.values() for name in w.shards.texts("id")}
        copy_lists(Path(group.source), temporary, ids)
        write_left_out(temporary, chosen.left)
        more = {split: chosen.counts(split) for split in written}
        write_images_meta(
            temporary, out.name, Path(group.source), written, classes, more, upright=True
        )


def _in_place(group: params.ImageFolder, place: Path) -> list[Found]:
    """Images of a folder, or of the table that lists them."""
    check_place(place)
    if is_table(place.name):
        return _of_table(group, place, place.parent)
    if group.manifest is not None:
        return _of_table(group, place / group.manifest, place)
    images = files_below(place, SUFFIXES, "images")
    for path in images if group.classes else ():
        if path.parent == place:
            raise UserError(
                f"{path}: not in a class folder; move it to one, or leave out classes to pre-train"
                " without them"
            )
    return [Found(listed(group, path, path.parent.name), None) for path in images]


def _of_table(group: params.ImageFolder, table: Path, folder: Path) -> list[Found]:
    columns, rows = read_table(table)
    path_in = column_of(table, columns, group.path, PATHS)
    label_in = column_of(table, columns, group.label, LABELS) if group.classes else None
    found = []
    for row in rows:
        label = row[label_in].strip() if label_in else ""
        if label_in and not label:
            raise UserError(f"{row.where}: column {label_in!r} is empty")
        path = folder / row[path_in].strip()
        found.append(Found(listed(group, path, label, where=row.where), row))
    return found


def _find(group: params.ImageFolder) -> dict[str, list[Listed]]:
    """Find the images of every split; warns of images next to a manifest that none lists."""
    there: set[str] = set()
    folders: set[Path] = set()

    def in_place(place: Path) -> list[Found]:
        found = _in_place(group, place)
        if found and found[0].row is not None:
            folders.add(place.parent if is_table(place.name) else place)
            there.update(os.path.normpath(f.listed.path) for f in found)
        return found

    chosen = find(group, in_place, lambda f: f.listed.label)
    for folder in sorted(
        folders
    ):  # only now, since one folder may hold the manifests of all splits
        _tell_unlisted(folder, there)
    return chosen


def _tell_unlisted(folder: Path, there: Set[str]) -> None:
    try:
        files = walk(folder).files
    except UserError as error:  # a name that cannot be an id, of a file that is not used
        print(f"warning: {error}", file=sys.stderr)
        return
    images = (path for path in files if path.lower().endswith(SUFFIXES))
    unlisted = [path for path in images if os.path.normpath(path) not in there]
    warn_unused(folder, unlisted, "images that no manifest lists")


def _classes(group: params.ImageFolder, found: Mapping[str, list[Listed]]) -> list[str]:
    """Sorted names of the classes; warns of classes that a split lacks."""
    if group.classes is None:
        return []
    counts = {split: Counter(item.label for item in items) for split, items in found.items()}
    named = sorted(set().union(*counts.values()))
    if len(named) != group.classes:
        shown = ", ".join(quoted(name, 30) for name in named[:20])
        raise UserError(
            f"{group.source}: {len(named)} classes ({shown}{', ...' if len(named) > 20 else ''}),"
            f" but classes is {group.classes}"
        )
    for split, there in counts.items():
        missing = [name for name in named if name not in there]
        if missing and split == "train":
            other = next(s for s in counts if missing[0] in counts[s])
            raise UserError(
                f"{group.source}: no image of the train split has the class {quoted(missing[0])},"
                f" which split {other} has"
            )
        if missing:
            print(
                f"warning: {split}: no image of {len(missing)} of {len(named)} classes, such as"
                f" {quoted(missing[0])}",
                file=sys.stderr,
            )
    return named


def _examples(skip_bad: bool, item: tuple[Listed, int]) -> Iterator[Example]:
    image, label = item
    try:
        yield _example(image, label)
    except UserError as error:
        if not skip_bad:
            said = reason_of(error, image)
            raise UserError(f"{image.path}: {said}{image.at}; {REMEDY}") from None


def _example(item: Listed, label: int) -> Example:
    payload = item.path.read_bytes()
    return image_example(payload, item.name, label, item.path, headers=False, upright=True)


def _reason(item: Listed) -> str:
    """Why an image is unusable; it is read again."""
    try:
        _example(item, 0)
    except UserError as error:
        return reason_of(error, item)
    return "unreadable when the set was written; it has changed since"

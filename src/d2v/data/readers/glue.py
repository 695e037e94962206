"""TSV files of GLUE tasks to shards: train.tsv, dev.tsv and test.tsv with the official columns.

lists/*.txt may name labelled examples, as SPLIT-ROW, of which a fine-tuning uses only these.

MRPC is also read as released by Microsoft, together with GLUE's list of the ids for dev.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from d2v.data.layout import LISTS, copy_lists, subfolders, visible_files
from d2v.data.pieces import Piece, cut_file, lines_of
from d2v.data.readers.glue_tasks import GlueTask, SplitFile, find_task, open_split, pair_of
from d2v.data.readers.official import check_counts
from d2v.data.shards import Shards, write_meta, written_whole
from d2v.data.tokenizer import Tokenizer
from d2v.data.walk import warn_unused
from d2v.data.writing import Columns, Example, write_split
from d2v.util.errors import UserError, quoted

PIECE_BYTES = 2**18  # part of a file that is encoded at a time
SHARD_BYTES = 8 * 2**20  # small, so that processes share the work on a task
MSR_TRAIN, MSR_TEST = "msr_paraphrase_train.txt", "msr_paraphrase_test.txt"
DEV_IDS = ("mrpc_dev_ids.tsv", "dev_ids.tsv")  # the first is the published name
DEV_IDS_URL = "https://dl.fbaipublicfiles.com/glue/data/mrpc_dev_ids.tsv"


def prepare_glue(
    name: str,
    source: Path,
    tokenizer: Path,
    out: Path,
    workers: int | None = None,
    *,
    official: bool = False,
    allow_partial: bool = False,
) -> None:
    """Write the token ids of a task's texts, without special ids, and its labels.

    Example ids are SPLIT-ROW, where rows of the file count from 0 without the header. Splits
    without a file are skipped; a test file without labels gives a split without labels. `official`
    compares the counts with those of GLUE; `allow_partial` turns a mismatch from an error into a
    warning.

    Raises UserError naming file and line for: a missing or extra column, an invalid label, an empty
    text, a line that is not UTF-8, an example on a list that no split has. Also raises it for a
    file without rows, for a folder without files, for MRPC without its list, and for an unknown
    task.
    """
    task = find_task(name)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    files = find_splits(source, task)
    counts = {file.name: file.count() for file in files}  # checks all before writing anything
    for file in files:
        if broken := counts[file.name][1]:
            print(f"{file.path}: {broken} broken rows are skipped", file=sys.stderr)
    entries: dict[str, Any] = {}
    if official:
        good = {split: rows for split, (rows, _) in counts.items()}
        entries["complete"] = check_counts(name, good, allow_partial)
    model = Tokenizer(tokenizer)
    with written_whole(out) as temporary:
        written = [_write_split(temporary / file.name, file, model, workers) for file in files]
        copy_lists(source, temporary, {i for shards in written for i in shards.texts("id")})
        write_meta(
            temporary,
            dataset=out.name,
            kind="glue",
            task=name,
            source=source.as_posix(),
            splits={file.name: _split_meta(file, *counts[file.name]) for file in files},
            classes=task.classes,
            pairs=len(task.texts) == 2,
            dtype=model.dtype.str,
            vocab_size=model.size,
            tokenizer=model.meta["sha256"],
            **entries,
        )


def find_splits(source: Path, task: GlueTask) -> list[SplitFile]:
    """Find the splits of a task in a folder; warns of other files and folders.

    Raises UserError if there are none, for a link whose target does not exist, or as opening the
    files does.
    """
    paths = {split: _path(source, split) for split in task.splits}
    found = {split: path for split, path in paths.items() if path.exists()}
    released: list[SplitFile] = []
    if task.dataset == "mrpc" and "train" not in found and (source / MSR_TRAIN).exists():
        found.pop("dev", None)
        released = _cut_mrpc(source, task)
    if task.dataset == "mrpc" and "test" not in found and (source / MSR_TEST).exists():
        found["test"] = source / MSR_TEST
    used = {file.path for file in released} | set(found.values())
    lists = {source / LISTS, *(map(source.joinpath, DEV_IDS) if released else ())}
    beside = {*visible_files(source), *subfolders(source)}
    warn_unused(source, beside - used - lists, f"not split files of {task.dataset}")
    files = released + [open_split(path, split, task) for split, path in found.items()]
    if not files:
        raise UserError(f"{source}: contains none of {', '.join(p.name for p in paths.values())}")
    return files


def _path(source: Path, split: str) -> Path:
    """Return the file of a split; dev may be called validation, as Hugging Face does."""
    official = source / f"{split}.tsv"
    other = source / f"{split.replace('dev', 'validation')}.tsv"
    return other if other.exists() and not official.exists() else official


def _cut_mrpc(source: Path, task: GlueTask) -> list[SplitFile]:
    """Divide Microsoft's training file into train and dev, by GLUE's list of the ids for dev."""
    lists = [path for path in (source / name for name in DEV_IDS) if path.exists()]
    if not lists:
        raise UserError(
            f"{source}: contains {MSR_TRAIN}, but not GLUE's list of the pairs for dev; get"
            f" {DEV_IDS_URL} and save it there as {DEV_IDS[0]}"
        )
    whole = open_split(source / MSR_TRAIN, "train", task)
    if missing := sorted({"#1 ID", "#2 ID"} - set(whole.columns)):
        raise UserError(f"{whole.path}:1: no column {missing[0]!r} in the header")
    rows = (line.split("\t") for _, line in lines_of(Piece(whole.path)))
    known = {pair_of(cells, whole.columns) for cells in rows if len(cells) == len(whole.columns)}
    listed: dict[tuple[str, str], None] = {}
    for number, line in lines_of(Piece(lists[0])):
        first, _, second = line.strip().partition("\t")
        where = f"{lists[0]}:{number}"
        if (first, second) not in known:
            raise UserError(f"{where}: {MSR_TRAIN} has no pair with the ids {quoted(line.strip())}")
        if (first, second) in listed:
            raise UserError(f"{where}: {first} and {second} are listed twice")
        listed[first, second] = None
    if not listed:
        raise UserError(f"{lists[0]}: an empty list")
    return [
        replace(whole, listed=tuple(listed), others=True),
        replace(whole, name="dev", listed=tuple(listed)),
    ]


def _split_meta(file: SplitFile, good: int, broken: int) -> dict[str, Any]:
    meta = {"examples": good, "labelled": file.labelled}
    return meta | {"broken_rows_left_out": broken} if broken else meta


def _write_split(folder: Path, file: SplitFile, model: Tokenizer, workers: int | None) -> Shards:
    pieces = cut_file(file.path, PIECE_BYTES)
    written = write_split(
        folder,
        pieces,
        partial(_examples, model, file),
        sizes=[(piece.stop or 0) - piece.start for piece in pieces],
        label=folder.name,
        workers=workers,
        shard_bytes=SHARD_BYTES,
    )
    return written.shards


def _examples(model: Tokenizer, file: SplitFile, piece: Piece) -> Iterator[Example]:
    for row in filter(None, file.rows(piece)):
        encoded = [model.encode(text) for text in row.texts]
        ids = np.array([i for text in encoded for i in text], model.dtype)
        # `first`: number of tokens of the first text; the others belong to the second
        columns: Columns = {"id": f"{file.name}-{row.number}", "first": len(encoded[0])}
        label: Columns = {} if row.label is None else {"label": row.label}
        yield Example(ids.tobytes(), columns | label)

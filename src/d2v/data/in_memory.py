"""Prepared sets from examples in memory: written as files, and read like data sets of one's own."""

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from d2v import params
from d2v.data.given import payload_of, picture_of, samples_in
from d2v.data.sound import RATE, reason
from d2v.params import ImageInput
from d2v.util.errors import UserError
from d2v.util.files import read_json, write_json

SET = "given"  # name of the prepared set
Example = tuple[Any, Any]  # what is read and its label; the label of unlabelled data is None
FORMATS = {
    b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"fLaC": ".flac", b"RIFF": ".wav", b"OggS": ".ogg",
}  # fmt: skip


def pairs(data: Any) -> list[Example]:
    """Inputs with labels: pairs, or rows of a table with two columns; else raises UserError."""
    rows = data.itertuples(index=False, name=None) if hasattr(data, "itertuples") else data
    if isinstance(rows, Mapping) or isinstance(data, str | bytes):
        raise UserError("data must be pairs of an input and its label")
    found = []
    for number, row in enumerate(rows):
        if isinstance(row, Mapping):
            row = tuple(row.values())
        if not isinstance(row, tuple | list) or len(row) != 2:
            raise UserError(f"example {number}: not a pair of an input and its label")
        found.append((row[0], row[1]))
    if not found:
        raise UserError("no examples")
    return found


def write(
    prepared: Path,
    kind: str,
    splits: Mapping[str, list[Example]],
    inputs: params.Inputs | None = None,
    tokenizer: Callable[[Path], None] | None = None,
    **more: Any,
) -> None:
    """Write the set SET below `prepared` for an encoder of this kind.

    Images and recordings are copied, or written as PNG and FLAC. `inputs` are those of the weights:
    their colours replace those of the set. `tokenizer` writes the tokenizer of labelled texts;
    `more` has their `classes`, or `vocab_size` and `block` of a corpus. Raises UserError as the
    readers of data sets of one's own do.
    """
    source = prepared.with_name("source")
    labelled = splits["train"][0][1] is not None
    for split, examples in splits.items():
        (source / split).mkdir(parents=True)
        _WRITERS[kind](source / split, examples, labelled)
    with _named_as_examples(source):
        _prepare(prepared, source, kind, splits, inputs, tokenizer, **more)


def _prepare(
    prepared: Path,
    source: Path,
    kind: str,
    splits: Mapping[str, list[Example]],
    inputs: params.Inputs | None,
    tokenizer: Callable[[Path], None] | None,
    **more: Any,
) -> None:
    """Read what `write` has written as a data set of one's own."""
    labelled = splits["train"][0][1] is not None
    group = {"source": str(source)}
    if kind == "vision":
        from d2v.data.readers.own_images import prepare_own_images

        folders = {split: split for split in splits}
        listed: dict[str, Any] = {"manifest": "manifest.csv"} if labelled else {}
        classes = len({str(label) for _, label in splits["train"]}) if labelled else None
        prepare_own_images(
            params.ImageFolder.model_validate(
                {**group, **listed, "kind": "image_folder", "splits": {"folders": folders},
                 "classes": classes}
            ),
            prepared / SET,
            workers=1,
        )  # fmt: skip
        _with_colours(prepared / SET / "meta.json", inputs)
    elif kind == "speech":
        from d2v.data.readers.own_audio import prepare_own_audio

        listed = {"manifest": "manifest.csv"} if labelled else {}
        prepare_own_audio(
            params.AudioFolder.model_validate(
                {**group, **listed, "kind": "audio_folder", "resample": True,
                 "splits": {"folders": {split: split for split in splits}}}
            ),
            prepared / SET,
            workers=1,
        )  # fmt: skip
    elif labelled:
        from d2v.data.readers.own_text import prepare_labelled_text

        assert tokenizer is not None
        tokenizer(prepared / "tokenizer")
        first = next(iter(splits["train"]))
        two = isinstance(first[0], tuple | list)
        prepare_labelled_text(
            params.LabelledText.model_validate(
                {**group, "kind": "labelled_text", "texts": ["text", "text2"][: 1 + two],
                 "splits": {"folders": {split: f"{split}/manifest.csv" for split in splits}},
                 "classes": more["classes"]}
            ),
            prepared / "tokenizer",
            prepared / SET,
            workers=1,
        )  # fmt: skip
    else:
        from d2v.data.readers.own_text import prepare_own_corpus, prepare_own_tokenizer

        corpus = params.TextFolder.model_validate(
            {**group, "kind": "text_folder", "splits": {"folders": {"train": "train"}}, **more}
        )
        prepare_own_tokenizer(corpus, prepared / "tokenizer")
        prepare_own_corpus(corpus, prepared / "tokenizer", prepared / SET, workers=1)


@contextmanager
def _named_as_examples(source: Path) -> Iterator[None]:
    """Let errors name examples, not the files written for them nor keys of parameter files."""
    try:
        yield
    except UserError as error:
        said = str(error).replace(f"{source}{os.sep}", "")
        said = re.sub(r" \(\w+/manifest\.csv:\d+\)", "", said)
        said = re.sub(r"\b(\w+)/\1-(\d{7})(\.\w+)?", lambda m: f"{m[1]}: example {int(m[2])}", said)
        said = re.sub(r"(or remove it), or set skip_bad: true to leave out such \w+", r"\1", said)
        raise UserError(said) from None


def _with_colours(path: Path, inputs: Any) -> None:
    """Record the mean and deviation that the weights were trained with, instead of the set's."""
    meta = read_json(path)
    if meta is None or not isinstance(inputs, ImageInput) or inputs.mean is None:
        return
    for name, values in (("mean", inputs.mean), ("std", inputs.std)):
        assert values is not None
        meta[name] = [*values, values[-1]] if len(values) == 3 else [*[values[0]] * 3, values[0]]
    write_json(path, meta)


# --- files of a split: a folder with a manifest -----------------------------------------------


def _images(folder: Path, examples: Iterable[Example], labelled: bool) -> None:
    def content(item: Any, name: str) -> tuple[bytes, str]:
        payload = payload_of(item, name)
        if payload is None:
            buffer = io.BytesIO()
            picture_of(item, name).save(buffer, "PNG")
            payload = buffer.getvalue()
        return payload, ".png"

    _files(folder, examples, labelled, "label", content)


def _recordings(folder: Path, examples: Iterable[Example], labelled: bool) -> None:
    def content(item: Any, name: str) -> tuple[bytes, str]:
        payload = payload_of(item, name)
        return (_flac(item, name) if payload is None else payload), ".flac"

    _files(folder, examples, labelled, "text", content)


def _flac(item: Any, name: str) -> bytes:
    """Samples with or without a rate, as 16-bit FLAC of the same rate."""
    import soundfile

    wave, rate = samples_in(item, RATE, name)
    if wave.dtype != np.int16:
        wave = np.clip(np.rint(wave * 2.0**15), -(2**15), 2**15 - 1).astype(np.int16)
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, wave, rate, format="FLAC", subtype="PCM_16")
    except soundfile.LibsndfileError as error:
        raise UserError(f"{name}: not usable at {rate} Hz ({reason(error)}); resample it") from None
    return buffer.getvalue()


def _files(
    folder: Path, examples: Iterable[Example], labelled: bool, column: str, content: Any
) -> None:
    rows = []
    for number, (item, label) in enumerate(examples):
        example = f"{folder.name}: example {number}"
        try:
            payload, usual = content(item, example)
        except OSError as error:
            raise UserError(f"{example}: {error}") from None
        suffix = next((s for head, s in FORMATS.items() if payload.startswith(head)), usual)
        name = f"{folder.name}-{number:07d}{suffix}"
        (folder / name).write_bytes(payload)
        rows.append((name, str(label)))
    if labelled:
        _table(folder / "manifest.csv", ["path", column], rows)


def _texts(folder: Path, examples: Iterable[Example], labelled: bool) -> None:
    if not labelled:
        lines = ("\n".join(str(text).split("\n")) + "\n\n" for text, _ in examples)
        (folder / "given.txt").write_text("".join(lines), encoding="utf-8")
        return
    first, *rest = examples
    two = isinstance(first[0], tuple | list)
    rows = ((*(item if two else (item,)), label) for item, label in chain([first], rest))
    _table(folder / "manifest.csv", [*["text", "text2"][: 1 + two], "label"], rows)


def _table(path: Path, columns: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


_WRITERS = {"vision": _images, "speech": _recordings, "text": _texts}

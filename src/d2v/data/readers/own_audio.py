"""One's own recordings to shards: any format and rate, any alphabet, with transcripts or without.

Recordings become FLAC files of 16 kHz and one channel; files that are already so stay unchanged.
Unusable ones are errors or, with `skip_bad`, left out and listed in OUT/left_out.tsv.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2v import params
from d2v.data.layout import copy_lists
from d2v.data.letters import LETTERS, frames_needed
from d2v.data.readers.own_files import (
    Listed,
    left_out,
    reason_of,
    shard_bytes,
    usable,
    write_left_out,
)
from d2v.data.readers.recordings import find_recordings
from d2v.data.resampling import cut_at_pauses, read_recording
from d2v.data.shards import write_meta, written_whole
from d2v.data.sound import FLAC, RATE, as_flac, level_columns
from d2v.data.transcripts import alphabet, unknown
from d2v.data.writing import Columns, Example, Written, write_split
from d2v.model.frames import frame_count
from d2v.util.errors import UserError

# (kernel, stride) of wav2vec 2.0's convolutions, used by all recipes: 20 ms per frame
WAV2VEC = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
REMEDY = "repair or remove it, or set skip_bad: true to leave out such recordings"
COUNTED = ("cut_at_pauses", "cut_at_limit", "rounded")  # counts of an example


class How(NamedTuple):
    """What every recording needs to satisfy, and what is done to it."""

    resample: bool
    shortest: int  # samples
    longest: int  # samples
    transcribed: bool
    skip_bad: bool


def prepare_own_audio(group: params.AudioFolder, out: Path, workers: int | None = None) -> None:
    """Write shards of FLAC files with transcripts, sample counts and levels, as for LibriSpeech.

    The id of an example is its path below the source, without suffix; pieces of long recordings are
    numbered (NAME#0). meta.json records the letters of the training transcripts, and what was
    resampled, cut and left out.

    Raises UserError naming file and line as `find_recordings` and `read_recording` do, and for: a
    missing file, an empty transcript, one that is too long for its recording, recordings that are
    too short or too long, content that two splits share, a split without usable recordings.
    """
    how = How(
        group.resample,
        round(group.min_seconds * RATE),
        round(group.max_seconds * RATE),
        group.transcribed,
        group.skip_bad,
    )
    chosen = usable(
        find_recordings(group), partial(_fault, how), "recordings", how.skip_bad, REMEDY
    )
    found, left = chosen.kept, chosen.left
    letters = _letters(group, found) if group.transcribed else None
    written: dict[str, Written] = {}
    with written_whole(out) as temporary:
        for split, items in found.items():
            sizes = [item.path.stat().st_size for item in items]
            written[split] = write_split(
                temporary / split,
                items,
                partial(_examples, how),
                sizes=sizes,
                label=split,
                workers=workers,
                shard_bytes=shard_bytes(sizes),
            )
            left[split] += left_out(split, items, written[split].shards, partial(_reason, how))
        ids = {name for w in written.values() for name in w.shards.texts("id")}
        copy_lists(Path(group.source), temporary, ids)
        write_left_out(temporary, left)
        entries: dict[str, Any] = {}
        if letters is not None:
            # in a file, too, because the results of a run depend on them, and on sha256
            text = "".join(f"{letter}\n" for letter in letters)
            (temporary / "letters.txt").write_text(text, encoding="utf-8")
            entries["letters"] = letters
            if odd := _unknown_letters(found, letters):
                entries["unknown_letters"] = odd
        write_meta(
            temporary,
            dataset=out.name,
            kind="librispeech",
            source=group.source,
            splits={
                split: _split_meta(split, w) | chosen.counts(split) for split, w in written.items()
            },
            rate=RATE,
            encoding=FLAC,
            **entries,
        )


# --- before anything is decoded -------------------------------------------------------------------


def _fault(how: How, item: Listed) -> str:
    """Why a recording is unusable, by what is known before it is decoded; empty if it is not."""
    if how.transcribed and not item.label:
        return "its transcript is empty, or has only punctuation"
    return ""


def _letters(group: params.AudioFolder, found: Mapping[str, list[Listed]]) -> list[str]:
    """Letters of the training transcripts; for LibriSpeech's, refuse transcripts with others."""
    if group.letters == "auto":
        return alphabet(item.label for item in found["train"])
    for item in found["train"]:
        if odd := unknown([item.label], LETTERS):
            raise UserError(
                f"{item.where or item.path}: {next(iter(odd))!r} is not one of the letters A to Z"
                " and '; set letters: auto"
            )
    return list(LETTERS)


def _unknown_letters(
    found: Mapping[str, list[Listed]], letters: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Report letters that the training transcripts lack, by split."""
    odd = {
        split: counts
        for split, items in found.items()
        if (counts := unknown((item.label for item in items), letters))
    }
    for split, counts in odd.items():
        listed = ", ".join(f"{letter!r} ({count})" for letter, count in counts.items())
        print(
            f"warning: {split}: {sum(counts.values()):,} letter(s) that no training transcript has,"
            f" so they count as errors: {listed}",
            file=sys.stderr,
        )
    return odd


# --- one recording --------------------------------------------------------------------------------


def _examples(how: How, item: Listed) -> Iterator[Example]:
    try:
        examples = list(_pieces(how, item))
    except UserError as error:
        if not how.skip_bad:
            said = reason_of(error, item)
            raise UserError(f"{item.path}: {said}{item.at}; {REMEDY}") from None
        return
    yield from examples


def _pieces(how: How, item: Listed) -> Iterator[Example]:
    """Yield the examples of a recording; raises UserError with the path if it is unusable."""
    found = read_recording(item.path, how.resample)
    wave, seconds = found.wave, len(found.wave) / RATE
    if len(wave) < how.shortest:
        raise UserError(
            f"{item.path}: too short ({seconds:.2f} s; min_seconds is {how.shortest / RATE:g})"
        )
    if how.transcribed:
        _check_transcript(how, item, len(wave))
    cuts = cut_at_pauses(wave, how.longest)
    for number, cut in enumerate(cuts):
        piece = wave[cut.start : cut.stop]
        if len(piece) < how.shortest:
            continue
        whole = len(cuts) == 1
        payload = found.file if whole and found.file is not None else as_flac(piece)
        columns: Columns = {
            "id": item.name if whole else f"{item.name}#{number}",
            "speaker": item.speaker,
            "change": found.change,
        }
        if how.transcribed:
            columns["text"] = item.label
        last = number == len(cuts) - 1
        counts = (not last and cut.pause, not last and not cut.pause, last and found.rounded)
        yield Example(payload, columns | level_columns(piece), np.array(counts, np.int64))


def _check_transcript(how: How, item: Listed, samples: int) -> None:
    if samples > how.longest:
        raise UserError(
            f"{item.path}: too long ({samples / RATE:.1f} s; max_seconds is"
            f" {how.longest / RATE:g}), and a recording with a transcript cannot be cut"
        )
    frames, needed = int(frame_count(np.array(samples), WAV2VEC)), frames_needed(item.label)
    if frames < needed:
        raise UserError(
            f"{item.path}: its transcript is too long for it ({needed} letters with their"
            f" separators, {frames} frames of 20 ms)"
        )


# --- after a split is written ---------------------------------------------------------------------


def _reason(how: How, item: Listed) -> str:
    try:
        list(_pieces(how, item))
    except UserError as error:
        return reason_of(error, item)
    return "unreadable when the set was written; it has changed since"


def _split_meta(split: str, written: Written) -> dict[str, Any]:
    """Entry of a split in meta.json; reports what was changed."""
    shards, counts = written
    meta: dict[str, Any] = {
        "examples": len(shards),
        "samples": int(shards.numbers("samples").sum()),
    }
    changes = Counter(filter(None, shards.texts("change")))
    if changes:
        meta["resampled"] = dict(sorted(changes.items()))
        kinds = ", ".join(f"{kind}: {count:,}" for kind, count in sorted(changes.items()))
        print(f"{split}: converted to 16000 Hz mono ({kinds})", file=sys.stderr)
    named = dict(zip(COUNTED, counts.tolist() if counts is not None else (0, 0, 0), strict=True))
    meta |= {name: count for name, count in named.items() if count}
    if cuts := named["cut_at_pauses"] + named["cut_at_limit"]:
        print(
            f"{split}: {cuts:,} cuts in long recordings, {named['cut_at_pauses']:,} at pauses and"
            f" {named['cut_at_limit']:,} at the limit",
            file=sys.stderr,
        )
    if named["rounded"]:
        print(f"{split}: {named['rounded']:,} recordings rounded to 16 bits", file=sys.stderr)
    return meta

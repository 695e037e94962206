"""LibriSpeech to shards: SPLIT/SPEAKER/CHAPTER/*.flac with .trans.txt, and lists/*.txt."""

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from d2v.data.layout import copy_lists, lines, split_folders, subfolders, visible_files
from d2v.data.letters import ALPHABET, LETTERS, frames_needed, spell
from d2v.data.readers.depth import note_rounded, rounded
from d2v.data.readers.limited import write_limited
from d2v.data.readers.official import check_counts
from d2v.data.shards import Shards, write_meta, written_whole
from d2v.data.sound import FLAC, PCM, RATE, as_pcm, decode, level_columns, opened
from d2v.data.walk import walk, warn_unused
from d2v.data.writing import Columns, Example, write_split
from d2v.model.frames import frame_count
from d2v.util.errors import UserError, counted, quoted

# (kernel, stride) of wav2vec 2.0's convolutions, used by all recipes: 20 ms per frame
WAV2VEC = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
LIMITED = "limited"  # split of the utterances that only Libri-light's small subsets have
NAMED = 10  # utterances listed in a warning


def prepare_librispeech(
    source: Path,
    out: Path,
    splits: Sequence[str] | None = None,
    workers: int | None = None,
    *,
    limited: Path | None = None,
    official: bool = False,
    allow_partial: bool = False,
    headers: bool = False,
    pcm: bool = False,
    limited_audio: bool = False,
) -> None:
    """Write shards of the unchanged FLAC files with transcripts, sample counts and levels.

    With `pcm`, the raw samples are written instead, which training need not decode. With `headers`,
    nothing is decoded now: only the header of each file is read. Levels then stay unknown, and
    training must decode whole utterances.

    `limited` is Libri-light's folder of limited supervision: its lists of utterances are written as
    the label lists 10min, 1h and 10h. With `limited_audio`, those of its utterances that no split
    has become a split `limited`, so that few subsets are enough. `official` compares the counts
    with those of LibriSpeech, for the `splits` if they are given; `allow_partial` turns a mismatch
    from an error into a warning.

    Raises UserError naming the file (and line) for: broken FLAC, a rate other than 16 kHz, more
    than one channel, audio without a transcript or the reverse, an empty transcript, a letter
    outside the alphabet, an utterance that occurs twice or is in the wrong folder, an empty split,
    a label list that names a missing utterance.
    """
    folders = split_folders(source, splits)
    splits_meta: dict[str, dict[str, int]] = {}
    ids: set[str] = set()
    with written_whole(out) as temporary:
        for name, transcripts in _splits(folders, ids, limited if limited_audio else None):
            folder = source / name
            written = write_split(
                temporary / folder.name,
                transcripts,
                partial(_example, headers, pcm),
                sizes=[path.stat().st_size for path, _ in transcripts],
                label=folder.name,
                workers=workers,
            )
            samples = int(written.shards.numbers("samples").sum())
            splits_meta[folder.name] = {"examples": len(transcripts), "samples": samples}
            splits_meta[folder.name] |= note_rounded(folder, written.counts, len(transcripts))
            if short := _warn_of_short(folder, written.shards):
                splits_meta[folder.name]["unaligned"] = short
        copy_lists(source, temporary, ids)
        whole = limited is None or write_limited(limited, temporary, ids, allow_partial)
        counts = {split: found["examples"] for split, found in splits_meta.items()}
        entries = {} if whole else {"complete": False}
        if official:
            known = check_counts("librispeech", counts, allow_partial, splits)
            entries["complete"] = known and whole
        write_meta(
            temporary,
            dataset=out.name,
            kind="librispeech",
            source=source.as_posix(),
            splits=splits_meta,
            rate=RATE,
            encoding=PCM if pcm else FLAC,
            **entries,
        )


def _splits(
    folders: Sequence[Path], ids: set[str], limited: Path | None
) -> Iterator[tuple[str, list[tuple[Path, str]]]]:
    """Yield the name and the transcripts of each split, and add its utterances to `ids`."""
    for folder in folders:
        transcripts = read_transcripts(folder)
        for path, _ in transcripts:
            if path.stem in ids:
                raise UserError(f"{path}: another split has an utterance of the same name")
            ids.add(path.stem)
        yield folder.name, transcripts
    if limited is not None:
        others = [pair for pair in read_limited(limited) if pair[0].stem not in ids]
        ids.update(path.stem for path, _ in others)
        if others:
            yield LIMITED, others


def _example(headers: bool, pcm: bool, item: tuple[Path, str]) -> Iterator[Example]:
    path, text = item
    payload = path.read_bytes()
    counts = rounded(payload, path)
    columns: Columns = {"id": path.stem, "text": text, "speaker": path.parts[-3]}
    if headers:
        with opened(payload, path) as file:
            columns["samples"] = file.frames
    else:
        wave = decode(payload, path)
        columns |= level_columns(wave)
        payload = as_pcm(wave) if pcm else payload
    yield Example(payload, columns, counts)


def _warn_of_short(folder: Path, shards: Shards) -> int:
    """Warn of utterances with too few frames for CTC to align their letters; return the count."""
    frames = frame_count(shards.numbers("samples"), WAV2VEC)
    needed = [frames_needed(text) for text in shards.texts("text")]
    short = [
        f"{name} ({has} frames, needs {needs})"
        for name, has, needs in zip(shards.texts("id"), frames.tolist(), needed, strict=True)
        if has < needs
    ]
    if short:
        more = f" and {len(short) - NAMED} more" if len(short) > NAMED else ""
        print(
            f"warning: {folder}: {len(short)} of {len(needed)} transcripts are too long for their"
            f" audio, so CTC training learns nothing from them: {', '.join(short[:NAMED])}{more};"
            " check or remove them",
            file=sys.stderr,
        )
    return len(short)


def prepare_lm(split: Path, out: Path, order: int) -> None:
    """Write lm.arpa, lexicon.txt and tokens.txt for beam search, from the transcripts of a split.

    Raises UserError as prepare_librispeech does for transcripts, and for an order below 2.
    """
    from d2v.data.ngram import report_known, unigrams, write_arpa

    sentences = [text for _, text in read_transcripts(split)]
    words = sorted({word for sentence in sentences for word in sentence.split()})
    with written_whole(out) as temporary:
        write_arpa(sentences, order, temporary / "lm.arpa")
        report_known(temporary / "lm.arpa", unigrams(temporary / "lm.arpa"), words)
        _write(temporary / "lexicon.txt", [f"{word}\t{spell(word)}" for word in words])
        _write(temporary / "tokens.txt", LETTERS)
        write_meta(
            temporary,
            dataset=out.name,
            kind="lm",
            source=split.as_posix(),
            order=order,
            sentences=len(sentences),
            words=len(words),
        )


def read_transcripts(folder: Path) -> list[tuple[Path, str]]:
    """Return the audio files and transcripts of a split, sorted by speaker, chapter and utterance.

    Does not decode audio. Raises UserError as prepare_librispeech does for transcripts.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    warn_unused(
        folder, _strays(folder), "not FLAC files in a SPEAKER/CHAPTER folder with a transcript"
    )
    pairs = [
        pair
        for speaker in subfolders(folder)
        for chapter in subfolders(speaker)
        for pair in _chapter(chapter)
    ]
    if not pairs:
        raise UserError(
            f"{folder}: an empty split: it contains no SPEAKER/CHAPTER folders with audio"
        )
    return pairs


def _strays(folder: Path) -> Iterator[Path]:
    """Yield the files and folders of a split that are not read."""
    yield from visible_files(folder)
    for speaker in subfolders(folder):
        yield from visible_files(speaker)
        for chapter in subfolders(speaker):
            yield from subfolders(chapter)
            known = f"{speaker.name}-{chapter.name}.trans.txt"
            for path in visible_files(chapter):
                if path.suffix != ".flac" and path.name != known:
                    yield path


def read_limited(source: Path) -> list[tuple[Path, str]]:
    """Return the audio files and transcripts of Libri-light's limited supervision, by name.

    A chapter's transcripts may include utterances that are not in the folder. Raises UserError as
    prepare_librispeech does for transcripts.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    tree = walk(source)
    chapters = {Path(path).parent for path in tree.files if path.endswith(".flac")}
    found = {
        path.stem: (path, text)
        for chapter in sorted(chapters)
        for path, text in _chapter(chapter, some=True)
    }
    if not found:
        raise UserError(f"{source}: contains no FLAC files")
    return [found[name] for name in sorted(found)]


def _chapter(chapter: Path, *, some: bool = False) -> Iterator[tuple[Path, str]]:
    """Yield the utterances of a chapter; with `some`, others may have transcripts, too."""
    prefix = f"{chapter.parent.name}-{chapter.name}"
    path = chapter / f"{prefix}.trans.txt"
    files = {p.stem: p for p in visible_files(chapter) if p.suffix == ".flac"}
    if not path.exists():
        raise UserError(f"{path}: missing; {chapter} has {counted(len(files), 'FLAC file')}")
    texts: dict[str, str] = {}
    for number, line in lines(path):
        if not line.strip():
            continue
        name, _, text = line.partition(" ")
        where, shown = f"{path}:{number}", name[:60]
        if not name.startswith(prefix + "-"):
            raise UserError(f"{where}: {quoted(name)} is not an utterance of {prefix}")
        if name in texts:
            raise UserError(f"{where}: {shown} already has a transcript")
        if name not in files and some:
            continue
        if name not in files:
            raise UserError(f"{where}: {shown} has a transcript but no FLAC file")
        if not text.strip():
            raise UserError(f"{where}: {shown} has an empty transcript")
        if odd := sorted(set(text) - ALPHABET - {" "}):
            raise UserError(f"{where}: {odd[0]!r} is not one of the letters A to Z or '")
        texts[name] = " ".join(text.split())
    if silent := sorted(set(files) - set(texts)):
        raise UserError(f"{files[silent[0]]}: no transcript in {path.name}")
    for name in sorted(files):
        yield files[name], texts[name]


def _write(path: Path, rows: Sequence[str]) -> None:
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")

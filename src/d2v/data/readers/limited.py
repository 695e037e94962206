"""Libri-light's limited supervision: the lists of utterances for 10 min, 1 h and 10 h.

    SRC/1h/{0..5}/{clean,other}/SPEAKER/CHAPTER/*.flac      10 min each; the list 10min is 1h/0
    SRC/9h/{clean,other}/SPEAKER/CHAPTER/*.flac             the list 10h is 1h and 9h

This is the content of librispeech_finetuning.tgz. SRC/{10min,1h,10h}.txt, with one utterance per
line, work as well. Only names are read: audio and transcripts come from LibriSpeech. Another random
subset of 10 minutes changes the WER by 0.3 (fairseq#3041).
"""

import itertools
from collections.abc import Collection
from pathlib import Path

from d2v.data.layout import LISTS, lines
from d2v.data.readers.official import tell
from d2v.data.walk import refuse_dangling, walk, warn_unused
from d2v.util.errors import UserError

# folders of the official archive that make up each list
FOLDERS = {"10min": ("1h/0",), "1h": ("1h",), "10h": ("1h", "9h")}


def write_limited(
    source: Path, out: Path, ids: Collection[str], allow_partial: bool = False
) -> bool:
    """Write lists/{10min,1h,10h}.txt into a prepared LibriSpeech; return whether they are whole.

    Raises UserError if there are neither folders nor lists, or if a list is empty, has an utterance
    twice, or names one that the prepared set lacks. `allow_partial` drops missing utterances with a
    warning instead.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    known = frozenset(ids)
    (out / LISTS).mkdir(exist_ok=True)
    whole = True
    for name in FOLDERS:
        listed = sorted(_utterances(source, name))
        if len(set(listed)) < len(listed):
            double = next(a for a, b in itertools.pairwise(listed) if a == b)
            raise UserError(f"{source}: {double} is listed twice in {name}")
        absent = [utterance for utterance in listed if utterance not in known]
        if absent:
            fault = f"{absent[0]} of {name} ({len(absent)} of {len(listed)}) in no split"
            whole = tell(f"{source}: LibriSpeech", [fault], allow_partial)
        kept = [utterance for utterance in listed if utterance in known]
        text = "".join(f"{utterance}\n" for utterance in kept)
        (out / LISTS / f"{name}.txt").write_text(text)
    return whole


def _utterances(source: Path, name: str) -> list[str]:
    path = source / f"{name}.txt"
    if path.exists():
        found = [line.strip() for _, line in lines(path) if line.strip()]
    else:
        missing = [folder for folder in FOLDERS[name] if not (source / folder).is_dir()]
        if missing:
            raise UserError(f"{source}: contains neither {path.name} nor a folder {missing[0]}")
        folders = [source / folder for folder in FOLDERS[name]]
        found = [stem for folder in folders for stem in _stems(folder)]
    if not found:
        raise UserError(f"{source}: no utterances of {name}")
    return found


def _stems(folder: Path) -> list[str]:
    """Return the names of the FLAC files below a folder, without suffix."""
    tree = walk(folder)
    refuse_dangling(tree.dangling)
    others = [path for path in tree.files if not path.endswith((".flac", ".txt"))]
    warn_unused(folder, others, "not FLAC files")
    warn_unused(folder, tree.repeated, "links to folders that were already read")
    return [Path(path).stem for path in tree.files if path.endswith(".flac")]

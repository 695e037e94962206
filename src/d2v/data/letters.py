"""The letters of CTC models: fairseq's four special symbols, then its dict.ltr.txt.

A prepared set whose transcripts have other letters records them in its meta.json.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

# index = id; "<s>" is the CTC blank, "|" ends every word
LETTERS = ("<s>", "<pad>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
BLANK, PADDING, UNKNOWN = 0, 1, 3
SPECIAL = 5  # number of symbols before the letters proper; every alphabet starts with them

_IDS = {letter: index for index, letter in enumerate(LETTERS)}
ALPHABET = frozenset(letter for letter in LETTERS if len(letter) == 1 and letter != "|")


def letters_of(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the letters of a prepared set, by its meta.json."""
    return tuple(meta.get("letters") or LETTERS)


def ids_of(letters: Sequence[str]) -> dict[str, int]:
    """Return the id of each letter."""
    return {letter: index for index, letter in enumerate(letters)}


def encode(text: str, ids: Mapping[str, int] = _IDS) -> list[int]:
    """Encode a transcript, with "|" after every word (libri_labels.py, wav2vec 2.0).

    A letter outside the alphabet becomes <unk>; readers check the transcripts of training splits.
    """
    return [ids.get(letter, UNKNOWN) for word in text.split() for letter in (*word, "|")]


def frames_needed(text: str) -> int:
    """Frames that CTC needs for a transcript: one per letter, and one between equal letters."""
    letters = [letter for word in text.split() for letter in (*word, "|")]
    return len(letters) + sum(a == b for a, b in itertools.pairwise(letters))


def spell(word: str) -> str:
    """Spell a word as in a decoder's lexicon: its letters and "|", separated by spaces."""
    return " ".join((*word, "|"))

"""Transcripts of any language: normalisation, and the letters of a CTC model that writes them."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from d2v.data.letters import LETTERS, SPECIAL

if TYPE_CHECKING:
    from d2v import params

# typographic forms of marks that people may want to keep
_PLAIN = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "‐": "-", "‑": "-"})  # fmt: skip


def normalised(text: str, how: "params.Transcripts") -> str:
    """Return a transcript in the form of training and of the error rates.

    Punctuation marks and symbols that are not kept separate words, as does white space. Control and
    format characters, such as soft hyphens, are removed.
    """
    text = unicodedata.normalize(how.form, text).translate(_PLAIN)
    if how.case != "keep":
        text = text.lower() if how.case == "lower" else text.upper()
    # case changes may leave decomposed letters
    text = unicodedata.normalize(how.form, text)
    return " ".join("".join(_written(letter, how.keep) for letter in text).split())


def _written(letter: str, keep: str) -> str:
    kind = unicodedata.category(letter)
    if letter in keep and letter != "|":  # "|" ends words
        return letter
    if kind[0] in "PSZ" or letter.isspace():
        return " "
    return "" if kind[0] == "C" else letter


def alphabet(texts: Iterable[str]) -> list[str]:
    """Return the letters of a CTC model for normalised transcripts, special symbols first.

    The others follow in the order of their code points.
    """
    return [*LETTERS[:SPECIAL], *sorted(set().union(*map(set, texts)) - {" "})]


def unknown(texts: Iterable[str], letters: Sequence[str]) -> dict[str, int]:
    """Count the letters of transcripts that a model with these `letters` cannot write."""
    known = {*letters, " "}
    counts = Counter(letter for text in texts for letter in text if letter not in known)
    return dict(sorted(counts.items()))

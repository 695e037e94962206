"""Decoding of a CTC model's letter log-probabilities into words, greedily or by beam search."""

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from d2v import params
from d2v.data.letters import LETTERS, SPECIAL
from d2v.data.ngram import report_known, unigrams
from d2v.util.errors import UserError

BLANK, SILENCE, UNKNOWN = "<s>", "|", "<unk>"
NEVER_WRITTEN = frozenset({BLANK, "<pad>", "</s>", UNKNOWN})
MODELS = ("lm.bin", "lm.arpa")  # KenLM's binary format, which processes can share, or text


def greedy(log_probs: Tensor, letters: Sequence[str] = LETTERS) -> str:
    """Words of the best path through (T, letters), with repeats merged and blanks dropped."""
    best = (letters[i] for i, _ in groupby(log_probs.argmax(-1).tolist()))
    text = "".join(letter for letter in best if letter not in NEVER_WRITTEN)
    return " ".join(text.replace(SILENCE, " ").split())


class Language:
    """Lexicon, letters and n-gram model of a prepared set, loaded once for any number of searches.

    The folder contains lexicon.txt (one word and its letters per line, `ONE  O N E |`), lm.bin or
    lm.arpa (KenLM's binary or text format; the first is preferred) and tokens.txt (one letter per
    line, in the order of the model's outputs). Raises UserError if a file is missing or invalid, or
    if the letters are not the model's, `letters`.
    """

    def __init__(self, folder: str | Path, letters: Sequence[str] = LETTERS) -> None:
        folder, self.letters = Path(folder), tuple(letters)
        lexicon, model, tokens = _files(folder)
        found = tokens.read_text(encoding="utf-8").split()
        if found != list(letters):
            raise UserError(
                f"{tokens}: not the letters that models predict: {' '.join(found)!r} instead of"
                f" {' '.join(letters)!r}"
            )
        spellings = _spellings(lexicon, self.letters)
        self.searches = _searches()
        self.lexicon = self.searches.Lexicon(spellings, model, self.letters)
        known = unigrams(model) if model.suffix == ".arpa" else self.lexicon.known()
        report_known(model, known, spellings)


def letters_in(folder: str | Path) -> list[str]:
    """The letters of a prepared language model, in their order.

    Raises UserError if the file is missing, or if it does not start with the five special symbols.
    """
    _, _, tokens = _files(Path(folder))
    found = tokens.read_text(encoding="utf-8").split()
    if found[:SPECIAL] != list(LETTERS[:SPECIAL]):
        raise UserError(
            f"{tokens}: does not start with {' '.join(LETTERS[:SPECIAL])}, as the letters of every"
            " prepared language model do"
        )
    return found


class BeamSearch:
    """Beam search over a lexicon with an n-gram language model (paper 4.2).

    `lm` is a folder as `Language` reads it, or a loaded `Language`. Merged hypotheses keep the best
    score instead of adding their scores up, every frame tries all letters, and words outside the
    lexicon are never written. wav2vec 2.0 and torchaudio decode in the same way.
    """

    def __init__(self, lm: str | Path | Language, decode: params.Decode) -> None:
        language = lm if isinstance(lm, Language) else Language(lm)
        self._search = language.searches.Search(language.lexicon, decode)
        self._letters = len(language.letters)

    def __call__(self, log_probs: Tensor) -> str:
        """Words of the best hypothesis for log-probabilities (T, letters)."""
        if log_probs.ndim != 2 or log_probs.shape[1] != self._letters:
            raise ValueError(f"(T, {self._letters}) is expected, got {tuple(log_probs.shape)}")
        if not len(log_probs):
            return ""
        words, _ = self._search(log_probs.to("cpu", torch.float32).contiguous())
        return " ".join(words)


def _searches() -> ModuleType:
    """flashlight-text's search if it is installed, else our own: the same words, but slower."""
    try:
        from d2v.evaluation import flashlight_search
    except ImportError:
        from d2v.evaluation import lexicon_search

        print(lexicon_search.SLOWER, file=sys.stderr, flush=True)
        return lexicon_search
    return flashlight_search


def _spellings(lexicon: Path, known: Sequence[str] = LETTERS) -> dict[str, list[list[str]]]:
    """The spellings of each word; raises UserError that names an invalid line or word."""
    found: dict[str, list[list[str]]] = {}
    try:
        lines = lexicon.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{lexicon}: not a UTF-8 file ({error.reason})") from None
    for line in lines:
        word, *letters = line.split() or [""]
        if not letters:
            raise UserError(f"{lexicon}: Invalid line: {line}")
        if strange := [letter for letter in letters if letter not in known]:
            raise UserError(f"{lexicon}: {word} has {strange[0]!r}, which is not a known letter")
        found.setdefault(word, []).append(letters)
    if not found:
        raise UserError(f"{lexicon}: no words")
    return found


def _files(folder: Path) -> tuple[Path, Path, Path]:
    """Paths of lexicon, language model and letters; raises UserError if one is missing."""
    lexicon, tokens = folder / "lexicon.txt", folder / "tokens.txt"
    models = [folder / name for name in MODELS]
    model = next((path for path in models if path.is_file()), models[-1])
    for path in (lexicon, model, tokens):
        if not path.is_file():
            raise UserError(f"{path}: no such file; run `d2v data {folder.name}` to create it")
    return lexicon, model, tokens

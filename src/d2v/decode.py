"""From the letters' log-probabilities of a CTC model to words: greedily, or by beam search."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2v import params
from d2v.data.letters import LETTERS
from d2v.errors import UserError
from d2v.ngram import report_known, unigrams

BLANK, SILENCE, UNKNOWN = "<s>", "|", "<unk>"
NEVER_WRITTEN = frozenset({BLANK, "<pad>", "</s>", UNKNOWN})
MODELS = ("lm.bin", "lm.arpa")  # KenLM's own format, which processes share; or text


def greedy(log_probs: Tensor, letters: Sequence[str] = LETTERS) -> str:
    """Words of the best path through (T, letters): repeats merged, blanks dropped."""
    best = (letters[i] for i, _ in groupby(log_probs.argmax(-1).tolist()))
    text = "".join(letter for letter in best if letter not in NEVER_WRITTEN)
    return " ".join(text.replace(SILENCE, " ").split())


class Language:
    """Lexicon, letters and n-gram of a prepared set, loaded once for any number of searches.

    The folder has lexicon.txt (a word and its letters a line, `ONE  O N E |`), lm.bin or lm.arpa
    (KenLM's binary or text; the first is preferred) and tokens.txt (a letter a line, in the order
    of the model's outputs). Raises UserError when a file is missing or broken, the letters are not
    the model's, or flashlight-text is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        lexicon, model, tokens = _files(folder)
        found = tokens.read_text(encoding="utf-8").split()
        if found != list(LETTERS):
            raise UserError(
                f"{tokens}: not the letters that models predict here: {' '.join(found)!r} instead"
                f" of {' '.join(LETTERS)!r}"
            )
        try:
            from flashlight.lib.text import dictionary
            from flashlight.lib.text.decoder.kenlm import KenLM
        except ImportError:
            raise UserError(
                "beam search needs flashlight-text: pip install 'd2v[decode]'"
            ) from None
        self.letters = dictionary.Dictionary(list(LETTERS))
        try:
            spellings = dictionary.load_words(str(lexicon))
        except RuntimeError as error:
            raise UserError(f"{lexicon}: {error}") from None
        self.words = dictionary.create_word_dict(spellings)
        try:
            with _quiet():
                self.model = KenLM(str(model), self.words)
        except RuntimeError as error:
            said = str(error).strip().rpartition("threw ")[2].replace("\n", " ")
            raise UserError(f"{model}: not a language model that KenLM can read: {said}") from None
        self.trie = self._trie(lexicon, spellings)
        report_known(model, self._known(model, spellings), spellings)

    def _known(self, model: Path, spellings: dict[str, list[list[str]]]) -> set[str]:
        """Words of the lexicon that the model knows.

        KenLM's binary is asked for scores: a word that it does not know has that of <unk>.
        """
        if model.suffix == ".arpa":
            return unigrams(model)
        start = self.model.start(False)
        unknown = self.model.score(start, self.words.get_index(UNKNOWN))[1]
        scores = {w: self.model.score(start, self.words.get_index(w))[1] for w in spellings}
        return {word for word, score in scores.items() if score != unknown}

    def _trie(self, lexicon: Path, spellings: dict[str, list[list[str]]]) -> Any:
        """The lexicon as a tree of letters, every node with the best unigram score below it."""
        from flashlight.lib.text.decoder import SmearingMode, Trie

        trie, start = Trie(len(LETTERS), LETTERS.index(SILENCE)), self.model.start(False)
        empty = True
        for word, found in spellings.items():
            index = self.words.get_index(word)
            _, score = self.model.score(start, index)
            for letters in found:
                if strange := [letter for letter in letters if letter not in LETTERS]:
                    raise UserError(
                        f"{lexicon}: {word} has {strange[0]!r}, which is no letter here"
                    )
                trie.insert([self.letters.get_index(letter) for letter in letters], index, score)
                empty = False
        if empty:
            raise UserError(f"{lexicon}: no words")
        trie.smear(SmearingMode.MAX)
        return trie


class BeamSearch:
    """Beam search over a lexicon with an n-gram language model (flashlight; paper 4.2).

    `lm` is a folder as `Language` reads it, or one that is loaded already. Scores of hypotheses
    that are merged are not added up but the best one is kept, all letters are tried in every frame,
    and words outside the lexicon are never written: as wav2vec 2.0's decoding and torchaudio's.
    """

    def __init__(self, lm: str | Path | Language, decode: params.Decode) -> None:
        self.language = lm if isinstance(lm, Language) else Language(lm)
        from flashlight.lib.text.decoder import (
            CriterionType,
            LexiconDecoder,
            LexiconDecoderOptions,
        )

        options = LexiconDecoderOptions(
            beam_size=decode.beam,
            beam_size_token=len(LETTERS),
            beam_threshold=decode.beam_threshold,
            lm_weight=decode.lm_weight,
            word_score=decode.word_score,
            unk_score=-float("inf"),
            sil_score=decode.silence_score,
            log_add=False,
            criterion_type=CriterionType.CTC,
        )
        self._search = LexiconDecoder(
            options,
            self.language.trie,
            self.language.model,
            LETTERS.index(SILENCE),
            LETTERS.index(BLANK),
            self.language.words.get_index(UNKNOWN),
            [],
            False,
        )

    def __call__(self, log_probs: Tensor) -> str:
        """Words of the best hypothesis of (T, letters)."""
        if log_probs.ndim != 2 or log_probs.shape[1] != len(LETTERS):
            raise ValueError(f"(T, {len(LETTERS)}) is expected, got {tuple(log_probs.shape)}")
        if not len(log_probs):
            return ""
        emissions = log_probs.to("cpu", torch.float32).contiguous()
        hypotheses = self._search.decode(emissions.data_ptr(), *emissions.shape)
        if not hypotheses:
            return ""
        words = self.language.words
        return " ".join(words.get_entry(index) for index in hypotheses[0].words if index >= 0)


def _files(folder: Path) -> tuple[Path, Path, Path]:
    """Lexicon, language model and letters."""
    lexicon, tokens = folder / "lexicon.txt", folder / "tokens.txt"
    models = [folder / name for name in MODELS]
    model = next((path for path in models if path.is_file()), models[-1])
    for path in (lexicon, model, tokens):
        if not path.is_file():
            raise UserError(f"{path}: no such file; run `d2v data {folder.name}` to make it")
    return lexicon, model, tokens


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without KenLM's progress bar, which it draws on file descriptor 2; its errors are raised."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)

"""Beam search over a lexicon with an n-gram model, by flashlight-text.

It has the same interface as `lexicon_search`, which replaces it where flashlight-text has no wheel.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from flashlight.lib.text.decoder import (
    CriterionType,
    LexiconDecoder,
    LexiconDecoderOptions,
    SmearingMode,
    Trie,
)
from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import Dictionary
from torch import Tensor

from d2v import params
from d2v.data.letters import BLANK, LETTERS, ids_of
from d2v.data.ngram import UNKNOWN
from d2v.util.errors import UserError

SILENCE = LETTERS.index("|")


class Lexicon:
    """Spellings as a tree of letters; every node has the best unigram score below it."""

    def __init__(
        self, spellings: dict[str, list[list[str]]], model: Path, letters: Sequence[str] = LETTERS
    ) -> None:
        self.letters = len(letters)
        self.words = Dictionary()
        for word in spellings:
            self.words.add_entry(word)
        if UNKNOWN not in spellings:
            self.words.add_entry(UNKNOWN)
        try:
            with _quiet():
                self.model = KenLM(str(model), self.words)
        except RuntimeError as error:
            said = str(error).strip().rpartition("threw ")[2].replace("\n", " ")
            raise UserError(f"{model}: not a language model that KenLM can read: {said}") from None
        self.trie, start = Trie(self.letters, SILENCE), self.model.start(False)
        number = ids_of(letters)
        for word, ways in spellings.items():
            index = self.words.get_index(word)
            _, score = self.model.score(start, index)
            for spelling in ways:
                self.trie.insert([number[letter] for letter in spelling], index, score)
        self.trie.smear(SmearingMode.MAX)

    def known(self) -> set[str]:
        """Words that the model knows; unknown words have the score of <unk>."""
        start, indices = self.model.start(False), range(self.words.index_size())
        unknown = self.model.score(start, self.words.get_index(UNKNOWN))[1]
        scores = {self.words.get_entry(i): self.model.score(start, i)[1] for i in indices}
        return {word for word, score in scores.items() if score != unknown}


class Search:
    """Searches for the best words of an utterance, with fixed decoding weights."""

    def __init__(self, lexicon: Lexicon, decode: params.Decode) -> None:
        options = LexiconDecoderOptions(
            beam_size=decode.beam,
            beam_size_token=lexicon.letters,
            beam_threshold=decode.beam_threshold,
            lm_weight=decode.lm_weight,
            word_score=decode.word_score,
            unk_score=-float("inf"),
            sil_score=decode.silence_score,
            log_add=False,
            criterion_type=CriterionType.CTC,
        )
        self.words = lexicon.words
        self._decoder = LexiconDecoder(
            options,
            lexicon.trie,
            lexicon.model,
            SILENCE,
            BLANK,
            lexicon.words.get_index(UNKNOWN),
            [],
            False,
        )

    def __call__(self, emissions: Tensor) -> tuple[list[str], float]:
        """Words and score for (T, letters); no words and minus infinity without a hypothesis."""
        hypotheses = self._decoder.decode(emissions.data_ptr(), *emissions.shape)
        if not hypotheses:
            return [], -float("inf")
        best = hypotheses[0]
        return [self.words.get_entry(index) for index in best.words if index >= 0], best.score


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress KenLM's progress bar, which goes to file descriptor 2; errors are still raised."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)

"""Beam search over a lexicon with an n-gram model, where flashlight-text has no wheel.

This is the search of flashlight's LexiconDecoder (flashlight-text 0.0.7, LexiconDecoder.cpp,
Trie.cpp, Utils.h) in Python, with the same words and scores. Letters may follow each other only
along the tree of the lexicon's spellings. A word's language-model score is not added only at its
end: while the word is spelt, the best score that is still possible counts already.
"""

import math
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

from torch import Tensor

from d2v import params
from d2v.data.letters import BLANK, LETTERS, ids_of
from d2v.data.ngram import END, Gram
from d2v.evaluation.arpa import Arpa, single
from d2v.util.errors import UserError

MAX_WORDS = 6  # words per spelling; flashlight leaves out further ones
SLOWER = (
    "flashlight-text has no wheel for this Python, so beam search is slower (the words are the"
    " same); Python 3.11 and 3.12 have one"
)
SILENCE = LETTERS.index("|")
AFTER_BLANK = -1  # replaces a hypothesis's last letter after a blank


class Node:
    """A prefix of spellings: the letters that may follow, and the words that end here."""

    __slots__ = ("best", "children", "following", "words")

    def __init__(self) -> None:
        self.children: dict[int, Node] = {}
        self.words: list[str] = []
        self.best = -math.inf  # unigram score of the best word with this prefix
        # letter, its node, and the change in the best score
        self.following: list[tuple[int, Node, float]] = []


class State:
    """The words of a hypothesis from the beginning on, and the scores of words that may follow."""

    __slots__ = ("_after", "before", "history", "model", "word")

    def __init__(
        self, model: Arpa, history: Gram, before: "State | None" = None, word: str = ""
    ) -> None:
        self.model, self.history, self.before, self.word = model, history, before, word
        self._after: dict[str, tuple[State, float]] = {}

    def after(self, word: str) -> "tuple[State, float]":
        """The state after one more word (always the same object), and the word's score."""
        if word not in self._after:
            history, score = self.model.score(self.history, word)
            self._after[word] = State(self.model, history, self, word), score
        return self._after[word]

    def words(self) -> list[str]:
        """All words of the hypothesis, in order."""
        found, state = [], self
        while state.before is not None:
            found.append(state.word)
            state = state.before
        return found[::-1]


# score, words so far, position in the word being spelt, last letter
Hypothesis = tuple[float, State, Node, int]


class Lexicon:
    """Spellings as a tree of letters; every node has the best unigram score below it."""

    def __init__(
        self, spellings: dict[str, list[list[str]]], model: Path, letters: Sequence[str] = LETTERS
    ) -> None:
        if model.suffix != ".arpa":
            raise UserError(
                f"{model}: KenLM's own format needs flashlight-text, which has no wheel for this"
                " Python; use the ARPA file, or install with Python 3.11 or 3.12"
            )
        self.model, self.root = Arpa(model), Node()
        nodes = [self.root]  # every node after its parent
        number = ids_of(letters)
        for word, ways in spellings.items():
            for spelling in ways:
                node = self.root
                for letter in map(number.__getitem__, spelling):
                    if letter not in node.children:
                        nodes.append(Node())
                        node.children[letter] = nodes[-1]
                    node = node.children[letter]
                if len(node.words) < MAX_WORDS:
                    node.words.append(word)
        for node in reversed(nodes):
            self._score(node)

    def _score(self, node: Node) -> None:
        """Set the best scores of a node after those of its children.

        `_log_add` combines the scores of words with the same spelling. At the root nothing has been
        added to a hypothesis yet.
        """
        start = self.model.start()
        for word in node.words:
            node.best = single(_log_add(node.best, self.model.score(start, word)[1]))
        node.best = max([node.best, *(child.best for child in node.children.values())])
        paid = 0.0 if node is self.root else node.best
        for letter, child in node.children.items():
            node.following.append((letter, child, single(child.best - paid)))


class Search:
    """Searches for the best words of an utterance, with fixed decoding weights."""

    def __init__(self, lexicon: Lexicon, decode: params.Decode) -> None:
        self.lexicon, self.decode = lexicon, decode

    def __call__(self, emissions: Tensor) -> tuple[list[str], float]:
        """Words and score for (T, letters); no words and minus infinity without a hypothesis."""
        model, root = self.lexicon.model, self.lexicon.root
        beam: list[Hypothesis] = [(0.0, State(model, model.start()), root, SILENCE)]
        for frame in emissions.tolist():
            beam = self._best(self._extended(beam, frame))
        if any(node is root for _, _, node, _ in beam):  # otherwise no word is complete
            beam = [hypothesis for hypothesis in beam if hypothesis[2] is root]
        weight = self.decode.lm_weight
        ended = [
            (score + weight * model.score(state.history, END)[1], state)
            for score, state, _, _ in beam
        ]
        if not ended:
            return [], -math.inf
        score, state = max(ended, key=itemgetter(0))
        return state.words(), score

    def _extended(self, beam: list[Hypothesis], frame: list[float]) -> list[Hypothesis]:
        """Every hypothesis, extended by each letter or blank possible in `frame` (letters,)."""
        root, decode = self.lexicon.root, self.decode
        frame = [*frame]
        blank = frame[BLANK]
        frame[SILENCE] += decode.silence_score
        found: list[Hypothesis] = []
        for score, state, node, last in beam:
            paid = 0.0 if node is root else node.best
            for letter, child, gain in node.following:
                heard = score + frame[letter]
                if child.following and letter != last:
                    found.append((heard + decode.lm_weight * gain, state, child, letter))
                if node is root and letter == last:
                    continue  # a one-letter word, held: not a second word
                for word in child.words:
                    longer, said = state.after(word)
                    scored = decode.lm_weight * single(said - paid) + decode.word_score
                    found.append((heard + scored, longer, root, letter))
            if node is root:
                found.append((score + frame[SILENCE], state, root, SILENCE))
            elif last != AFTER_BLANK:
                found.append((score + frame[last], state, node, last))
            found.append((score + blank, state, node, AFTER_BLANK))
        return found

    def _best(self, found: list[Hypothesis]) -> list[Hypothesis]:
        """The beam, best first; only the best of hypotheses equal in words, position and letter."""
        found.sort(key=itemgetter(0), reverse=True)
        kept: dict[tuple[State, Node, int], Hypothesis] = {}
        for hypothesis in found:
            if len(kept) == self.decode.beam:
                break
            if not hypothesis[0] >= found[0][0] - self.decode.beam_threshold:
                break
            kept.setdefault(hypothesis[1:], hypothesis)
        return list(kept.values())


def _log_add(a: float, b: float) -> float:
    """log(exp a + exp b), without the smaller term where it makes no difference (flashlight)."""
    larger, smaller = max(a, b), min(a, b)
    return larger if smaller - larger < -39.14 else larger + math.log1p(math.exp(smaller - larger))

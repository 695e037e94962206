"""Log-probabilities of letters, a lexicon and a small language model."""

import random

import pytest
import torch

from d2v import params
from d2v.data import ngram
from d2v.data.letters import LETTERS, spell


def spoken(*letters, p=0.97):
    """Log-probabilities (T, letters), each frame sure of one symbol, or split over several."""
    probs = torch.full((len(letters), len(LETTERS)), (1 - p) / len(LETTERS))
    for t, options in enumerate(letters):
        for symbol in options if isinstance(options, tuple) else (options,):
            probs[t, LETTERS.index(symbol)] += p / (
                len(options) if isinstance(options, tuple) else 1
            )
    return probs.log()


def lm_folder(folder, sentences):
    words = sorted({w for s in sentences for w in s.split()})
    lines = [f"{word}\t{spell(word)}" for word in words]
    (folder / "lexicon.txt").write_text("\n".join(lines) + "\n")
    (folder / "tokens.txt").write_text("\n".join(LETTERS) + "\n")
    ngram.write_arpa(sentences, 2, folder / "lm.arpa")
    return folder


@pytest.fixture(scope="session")
def many_words(tmp_path_factory):
    """A language of 500 random words, many of them prefixes of others."""
    draw = random.Random(0)
    words = ["".join(draw.choices("ETAONIHS", k=draw.randint(1, 5))) for _ in range(500)]
    sentences = [" ".join(draw.choices(words, k=6)) for _ in range(1000)]
    return lm_folder(tmp_path_factory.mktemp("lm"), sentences)


def noise(count, frames=60):
    """Log-probabilities of random letters, of 0 to `frames` frames."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(frames + 1, (count,), generator=generator).tolist()
    lengths[0] = 0
    return [
        (3 * torch.randn(t, len(LETTERS), generator=generator)).log_softmax(-1) for t in lengths
    ]


WEIGHTS = [
    params.Decode(beam=5, lm_weight=1.0, word_score=0.0),
    params.Decode(beam=30, beam_threshold=15.0, lm_weight=2.5, word_score=-1.5),
    params.Decode(beam=30, lm_weight=0.0, word_score=2.0, silence_score=-3.0),
]

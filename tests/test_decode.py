"""Greedy reading and beam search: the rules of CTC, and that lexicon and n-gram have a say."""

import pytest
import torch

from d2v import decode, ngram, params
from d2v.data.letters import LETTERS, spell
from d2v.errors import UserError


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


@pytest.fixture
def lm(tmp_path):
    return lm_folder(tmp_path, ["ONE TWO"] * 20 + ["TWO TEN", "TEN ONE", "THREE"])


@pytest.mark.parametrize(
    ("letters", "text"),
    [
        (["O", "O", "<s>", "N", "E", "|"], "ONE"),
        (["T", "H", "R", "E", "<s>", "E", "|"], "THREE"),
        (["T", "H", "R", "E", "E", "|"], "THRE"),
        (["|", "|", "O", "N", "E", "|", "<s>", "|", "T", "W", "O"], "ONE TWO"),
        (["<s>", "<s>"], ""),
        (["<pad>", "O", "</s>", "N", "<unk>", "E"], "ONE"),
        ([], ""),
    ],
)
def test_greedy(letters, text):
    assert decode.greedy(spoken(*letters)) == text


def test_beam_search_reads_clear_speech(lm):
    search = decode.BeamSearch(lm, params.Decode())
    heard = spoken(*"ONE|T", "<s>", *"WO|")
    assert decode.greedy(heard) == search(heard) == "ONE TWO"


def test_the_lexicon_mends_a_misspelling(lm):
    heard = spoken("O", ("M", "N"), "E", "|", p=0.9)
    heard[1, LETTERS.index("M")] += 0.1  # the greedy reading is no word
    assert decode.greedy(heard) == "OME"
    assert decode.BeamSearch(lm, params.Decode())(heard) == "ONE"


def test_the_language_model_decides_between_words_and_its_weight_matters(lm):
    heard = spoken(*"ONE|T", ("W", "E"), ("O", "N"), "|")
    heard[5, LETTERS.index("E")] += 0.2
    heard[6, LETTERS.index("N")] += 0.2
    assert decode.greedy(heard) == "ONE TEN"
    without = params.Decode(lm_weight=0.0, word_score=0.0)
    assert decode.BeamSearch(lm, without)(heard) == "ONE TEN"
    assert decode.BeamSearch(lm, params.Decode(lm_weight=2.0))(heard) == "ONE TWO"


def test_nothing_heard_is_nothing_said(lm):
    search = decode.BeamSearch(lm, params.Decode())
    assert search(torch.empty(0, len(LETTERS))) == ""
    assert search(spoken("<s>", "<s>")) == ""


def test_half_precision_and_a_view_are_taken(lm):
    heard = spoken(*"ONE|").to(torch.bfloat16).T.contiguous().T
    assert decode.BeamSearch(lm, params.Decode())(heard) == "ONE"


def test_loading_is_quiet(lm, capfd):
    decode.BeamSearch(lm, params.Decode())
    assert capfd.readouterr() == ("", "")


def test_a_missing_or_foreign_folder_is_told(lm):
    (lm / "tokens.txt").write_text("\n".join(reversed(LETTERS)))
    with pytest.raises(UserError, match=r"tokens\.txt: not the letters"):
        decode.BeamSearch(lm, params.Decode())
    (lm / "lm.arpa").unlink()
    with pytest.raises(UserError, match=r"lm\.arpa: no such file"):
        decode.BeamSearch(lm, params.Decode())

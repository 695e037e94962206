"""The n-gram model: a distribution after every history, and the same one in KenLM's eyes."""

import itertools
import math
import random

import pytest

from d2v.data import ngram
from d2v.util.errors import UserError

DIGITS = ["ZERO", "ONE", "TWO", "THREE", "FOUR"]


def corpus(n=200):
    draw = random.Random(3)
    return [" ".join(draw.choices(DIGITS, [5, 4, 3, 2, 1], k=draw.randint(1, 5))) for _ in range(n)]


def read_arpa(path):
    """{n-gram: (log10 probability, log10 back-off)} of an ARPA file, read independently."""
    grams = {}
    for line in path.read_text().splitlines():
        fields = line.split("\t")
        if len(fields) > 1:
            backoff = float(fields[2]) if len(fields) == 3 else 0.0
            grams[tuple(fields[1].split())] = float(fields[0]), backoff
    return grams


def log10_prob(grams, word, history):
    if (*history, word) in grams:
        return grams[(*history, word)][0]
    if not history:
        return grams[("<unk>",)][0]
    return grams.get(history, (0, 0.0))[1] + log10_prob(grams, word, history[1:])


def test_values_by_hand(tmp_path):
    ngram.write_arpa(["A B", "A"], 2, tmp_path / "lm.arpa")
    grams = read_arpa(tmp_path / "lm.arpa")
    # unigrams: A 2, B 1, </s> 2: 5 events of 3 types; uniform over 3 + <unk>
    p_a = (2 + 3 * 1 / 4) / (5 + 3)
    assert grams[("A",)][0] == pytest.approx(math.log10(p_a), abs=1e-6)
    assert grams[("<unk>",)][0] == pytest.approx(math.log10(3 / 8 / 4), abs=1e-6)
    # after <s>: A twice, one type
    assert grams[("<s>", "A")][0] == pytest.approx(math.log10((2 + p_a) / 3), abs=1e-6)
    assert grams[("<s>",)] == (-99.0, pytest.approx(math.log10(1 / 3), abs=1e-6))
    assert ("B", "A") not in grams


def test_sums_to_one_after_every_history(tmp_path):
    ngram.write_arpa(corpus(), 3, tmp_path / "lm.arpa")
    grams = read_arpa(tmp_path / "lm.arpa")
    words = [*DIGITS, "</s>", "<unk>"]
    histories = [(), ("<s>",), ("FIVE",), ("<s>", "FIVE"), ("FIVE", "ONE")]
    histories += list(itertools.product(["<s>", *DIGITS], DIGITS))
    assert max(map(len, grams)) == 3
    for history in histories:
        total = sum(10 ** log10_prob(grams, word, history) for word in words)
        assert total == pytest.approx(1, abs=1e-5), history


def test_every_history_and_suffix_is_listed(tmp_path):
    ngram.write_arpa(corpus(), 4, tmp_path / "lm.arpa")
    grams = read_arpa(tmp_path / "lm.arpa")
    assert all(g[:-1] in grams and g[1:] in grams for g in grams if len(g) > 1)


def test_the_order_of_sentences_does_not_matter(tmp_path):
    ngram.write_arpa(corpus(), 3, tmp_path / "a.arpa")
    ngram.write_arpa(corpus()[::-1], 3, tmp_path / "b.arpa")
    assert (tmp_path / "a.arpa").read_bytes() == (tmp_path / "b.arpa").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.arpa", "b.arpa"]


def test_kenlm_reads_it_and_gives_the_same_scores(tmp_path):
    decoder = pytest.importorskip("flashlight.lib.text.decoder")
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    assert decoder
    ngram.write_arpa(corpus(), 3, tmp_path / "lm.arpa")
    grams = read_arpa(tmp_path / "lm.arpa")
    words = Dictionary()
    for word in [*DIGITS, "<unk>"]:
        words.add_entry(word)
    model = KenLM(str(tmp_path / "lm.arpa"), words)
    for sentence in [*corpus(20), "FOUR FOUR FOUR FOUR", "<unk> ONE"]:
        state = model.start(False)
        found, expected, history = 0.0, 0.0, ("<s>",)
        for word in sentence.split():
            state, step = model.score(state, words.get_index(word))
            found += step
            expected += log10_prob(grams, word, history[-2:])
            history += (word,)
        found += model.finish(state)[1]
        expected += log10_prob(grams, "</s>", history[-2:])
        assert found == pytest.approx(expected, abs=1e-3), sentence


def test_orders_beyond_the_longest_sentence_are_left_out(tmp_path):
    ngram.write_arpa(["ONE", "TWO"], 5, tmp_path / "lm.arpa")
    assert max(map(len, read_arpa(tmp_path / "lm.arpa"))) == 3


@pytest.mark.parametrize(
    ("sentences", "order", "message"),
    [
        (["ONE"], 1, "at least 2"),
        ([], 3, "no words"),
        (["", " "], 3, "no words"),
        (["ONE", "ONE <s>"], 3, r"sentence 2 .*<s>"),
    ],
)
def test_faults_are_told_and_nothing_is_written(tmp_path, sentences, order, message):
    with pytest.raises(UserError, match=message):
        ngram.write_arpa(sentences, order, tmp_path / "lm.arpa")
    assert not list(tmp_path.iterdir())

"""The beam search of one's own: the words and scores of flashlight's, in whose place it stands."""

# ruff: noqa: F811  a fixture that is imported is a parameter of its tests

import builtins
import random
import sys

import pytest
import torch
from letter_builds import WEIGHTS, lm_folder, many_words, noise, spoken  # noqa: F401

from d2v import params
from d2v.data import ngram
from d2v.data.letters import LETTERS, spell
from d2v.evaluation import arpa, beam_search, ctc, lexicon_search
from d2v.util.errors import UserError

WAYS = [  # without a say of the language model, homophones would be equally good
    *WEIGHTS[:2],
    params.Decode(beam=1, lm_weight=0.5),
    params.Decode(beam=7, beam_threshold=4.0, lm_weight=1.3, word_score=-0.7, silence_score=0.9),
    params.Decode(beam=90, lm_weight=4.0, word_score=3.0, silence_score=-1.0),
    params.Decode(beam=20, lm_weight=-0.5, word_score=-4.0),
]


def both(folder):
    """flashlight's search and ours, with the same lexicon and model."""
    theirs = pytest.importorskip("d2v.evaluation.flashlight_search")
    found = []
    for module in (theirs, lexicon_search):
        spellings = ctc._spellings(folder / "lexicon.txt")
        found.append((module.Search, module.Lexicon(spellings, folder / "lm.arpa")))
    return found


def odd_words(folder, seed):
    """Homophones, several spellings, words of one letter, words without an end; a 3-gram."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("ETAON", k=draw.randint(1, 4))) for _ in range(60)]
    lines = [f"{word}\t{spell(word)}" for word in words]
    lines += [f"{word}\t{' '.join(draw.choices('ETAON', k=2))} |" for word in words[::3]]
    lines += [f"{word}\t{' '.join(word)}" for word in words[::4]]
    lines += [f"SAME{n}\tE T |" for n in range(4)] + ["UNKNOWN\tN O |", "E\tE", "|\t|"]
    sentences = [" ".join(draw.choices(words, k=draw.randint(1, 5))) for _ in range(300)]
    sentences += [f"SAME{n} SAME{n - 1}" for n in range(1, 4) for _ in range(3 * n)]
    (folder / "lexicon.txt").write_text("\n".join(lines) + "\n")
    (folder / "tokens.txt").write_text("\n".join(LETTERS) + "\n")
    ngram.write_arpa(sentences, 3, folder / "lm.arpa")
    return folder


def heard(seed, count=12):
    """Log-probabilities of few letters, so that words are found, from sure to unsure."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for n in range(count):
        rows = (1 + n / 2) * torch.randn(10 + 4 * n, len(LETTERS), generator=generator)
        rows[:, [0, 4, *range(5, 10)]] += 4.0
        found.append(rows.log_softmax(-1))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("way", WAYS)
def test_words_and_scores_are_flashlights(tmp_path, seed, way):
    searches = [search(lexicon, way) for search, lexicon in both(odd_words(tmp_path, seed))]
    said = set()
    for emissions in heard(seed):
        (words, score), (own_words, own_score) = (search(emissions) for search in searches)
        assert own_words == words
        assert own_score == pytest.approx(score, rel=1e-9)
        said.update(words)
    assert len(said) > 3


@pytest.mark.parametrize("way", WEIGHTS)
def test_words_are_flashlights_with_many_words(many_words, way):
    theirs, own = (search(lexicon, way) for search, lexicon in both(many_words))
    texts = [theirs(emissions) for emissions in noise(15)[1:]]
    assert [own(emissions)[0] for emissions in noise(15)[1:]] == [words for words, _ in texts]


def test_the_model_scores_as_kenlm(tmp_path):
    """Back-offs over one and two words, unknown words, the end: the same bits."""
    ((_, theirs), (_, own)) = both(odd_words(tmp_path, 0))
    draw = random.Random(1)
    words = [theirs.words.get_entry(i) for i in range(theirs.words.index_size())]
    for _ in range(200):
        state, history = theirs.model.start(False), own.model.start()
        for word in draw.choices(words, k=6):
            state, score = theirs.model.score(state, theirs.words.get_index(word))
            history, found = own.model.score(history, word)
            assert found == score
        assert own.model.score(history, "</s>")[1] == theirs.model.finish(state)[1]


def test_values_by_hand(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA)
    model = arpa.Arpa(path)
    history, score = model.score(model.start(), "A")
    assert (history, score) == (("<s>", "A"), pytest.approx(-0.25))
    history, score = model.score(history, "B")  # trigram
    assert (history, score) == (("A", "B"), pytest.approx(-0.125))
    history, score = model.score(history, "C")  # -0.5 and -0.75 of the back-offs, -2.0 of C
    assert (history, score) == (("C",), pytest.approx(-3.25))
    assert model.score(history, "D") == (("<unk>",), pytest.approx(-100.0))


ARPA = """
a comment
\\data\\
ngram 1=5
ngram 2=3
ngram 3=1

\\1-grams:
-99\t<s>\t-0.25
-1.0\t</s>
-1.5\tA\t-0.5
-1.75\tB\t-0.75
-2.0\tC

\\2-grams:
-0.25\t<s> A\t-0.125
-0.375\tA B\t-0.5
-0.5\tB </s>

\\3-grams:
-0.125\t<s> A B

\\end\\
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("\\data\\", "data", "cut off"),
        ("ngram 1=5", "ngram 1=6", "not an n-gram of 1 words: ''"),
        ("ngram 1=5", "ngram 1=4", r"no \\2-grams: where it is expected"),
        ("ngram 1=5", "ngram 1=five", "invalid literal"),
        ("\n\\end\\", "", "cut off"),
        ("\\end\\", "\\4-grams:", r"\\end\\ is expected"),
        ("-1.0\t</s>", "-1.0\tX", "no </s> in it"),
        ("-2.0\tC", "2.0\tC", "not a log-probability"),
        ("-2.0\tC", "nan\tC", "not a log-probability"),
        ("-2.0\tC", "x\tC", "could not convert"),
        ("ngram 2=3\nngram 3=1\n", "", "order of at least 2"),
    ],
)
def test_a_broken_model_is_told(tmp_path, old, new, said):
    path = tmp_path / "lm.arpa"
    assert old in ARPA
    path.write_text(ARPA.replace(old, new, 1))
    with pytest.raises(UserError, match=r"lm\.arpa: not a language model .*" + said) as raised:
        arpa.Arpa(path)
    assert "\n" not in str(raised.value)


def test_a_model_that_memory_may_not_hold_is_told(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA.replace("ngram 1=5", "ngram 1=50000000"))
    with pytest.raises(UserError, match=r"50,000,004 n-grams, more than .* Python 3\.11 or 3\.12"):
        arpa.Arpa(path)


def test_a_model_in_another_encoding_is_told(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_bytes(ARPA.replace("C", "Ä").encode("latin-1"))
    with pytest.raises(UserError, match="utf-8"):
        arpa.Arpa(path)


# --- without flashlight -----------------------------------------------------------------------


@pytest.fixture
def without_flashlight(monkeypatch):
    """As on a Python that flashlight-text has no wheel for."""
    original = builtins.__import__

    def refuse(name, *rest, **more):
        if name.partition(".")[0] == "flashlight":
            raise ImportError(name)
        return original(name, *rest, **more)

    import d2v

    monkeypatch.delitem(sys.modules, "d2v.evaluation.flashlight_search", raising=False)
    monkeypatch.delattr(d2v.evaluation, "flashlight_search", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.smoke
def test_our_own_is_taken_and_the_log_says_that_it_is_slower(
    many_words,
    without_flashlight,
    capfd,
):
    language = ctc.Language(many_words)
    assert language.searches is lexicon_search
    said = capfd.readouterr().err.splitlines()
    assert "beam search is slower (the words are the same); Python 3.11 and 3.12" in said[0]
    assert len(said) == 2
    named = [(str(n), emissions) for n, emissions in enumerate(noise(12))]
    one = beam_search.decode_all(named, WEIGHTS[0], language)
    assert one == beam_search.decode_all(named, WEIGHTS[0].model_copy(update={"cpus": 2}), language)
    assert any(one)


@pytest.mark.smoke
def test_clear_speech_without_flashlight(tmp_path, without_flashlight):
    lm = lm_folder(tmp_path, ["ONE TWO"] * 20 + ["TWO TEN", "TEN ONE", "THREE"])
    search = ctc.BeamSearch(lm, params.Decode())
    assert search(spoken(*"ONE|T", "<s>", *"WO|")) == "ONE TWO"
    assert search(spoken("<s>", "<s>")) == ""
    assert search(torch.full((5, len(LETTERS)), float("nan"))) == ""


def test_a_binary_model_without_flashlight_is_told(tmp_path, without_flashlight):
    lm = lm_folder(tmp_path, ["ONE TWO"])
    (lm / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code")
    with pytest.raises(UserError, match=r"lm\.bin: .* use the ARPA file, or .* 3\.11 or 3\.12"):
        ctc.Language(lm)

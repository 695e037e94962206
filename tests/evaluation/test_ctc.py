"""Greedy reading and beam search: the rules of CTC, and that lexicon and n-gram have a say."""

# ruff: noqa: F811  a fixture that is imported is a parameter of its tests

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from letter_builds import WEIGHTS, lm_folder, many_words, noise, spoken  # noqa: F401

from d2v import params
from d2v.data.letters import LETTERS
from d2v.evaluation import beam_search, ctc, lexicon_search
from d2v.util import locks
from d2v.util.errors import UserError


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
    assert ctc.greedy(spoken(*letters)) == text


@pytest.mark.smoke
def test_beam_search_reads_clear_speech(lm):
    search = ctc.BeamSearch(lm, params.Decode())
    heard = spoken(*"ONE|T", "<s>", *"WO|")
    assert ctc.greedy(heard) == search(heard) == "ONE TWO"


def test_the_lexicon_mends_a_misspelling(lm):
    heard = spoken("O", ("M", "N"), "E", "|", p=0.9)
    heard[1, LETTERS.index("M")] += 0.1  # the greedy reading is no word
    assert ctc.greedy(heard) == "OME"
    assert ctc.BeamSearch(lm, params.Decode())(heard) == "ONE"


def test_the_language_model_decides_between_words_and_its_weight_matters(lm):
    heard = spoken(*"ONE|T", ("W", "E"), ("O", "N"), "|")
    heard[5, LETTERS.index("E")] += 0.2
    heard[6, LETTERS.index("N")] += 0.2
    assert ctc.greedy(heard) == "ONE TEN"
    without = params.Decode(lm_weight=0.0, word_score=0.0)
    assert ctc.BeamSearch(lm, without)(heard) == "ONE TEN"
    assert ctc.BeamSearch(lm, params.Decode(lm_weight=2.0))(heard) == "ONE TWO"


def test_nothing_heard_is_nothing_said(lm):
    search = ctc.BeamSearch(lm, params.Decode())
    assert search(torch.empty(0, len(LETTERS))) == ""
    assert search(spoken("<s>", "<s>")) == ""


def test_half_precision_and_a_view_are_taken(lm):
    heard = spoken(*"ONE|").to(torch.bfloat16).T.contiguous().T
    assert ctc.BeamSearch(lm, params.Decode())(heard) == "ONE"


def test_loading_is_quiet(lm, capfd):
    ctc.BeamSearch(lm, params.Decode())
    said = capfd.readouterr()
    assert said.out == ""
    lines = said.err.removeprefix(lexicon_search.SLOWER + "\n")
    assert re.fullmatch(r".*: the language model knows 4 of the lexicon's 4 .*\n", lines)


def test_a_missing_or_foreign_folder_is_told(lm):
    (lm / "tokens.txt").write_text("\n".join(reversed(LETTERS)))
    with pytest.raises(UserError, match=r"tokens\.txt: not the letters"):
        ctc.BeamSearch(lm, params.Decode())
    (lm / "lm.arpa").unlink()
    with pytest.raises(UserError, match=r"lm\.arpa: no such file"):
        ctc.BeamSearch(lm, params.Decode())


# --- many utterances, many weights ------------------------------------------------------------


@pytest.mark.parametrize("weights", WEIGHTS)
def test_words_are_those_of_torchaudios_decoder(many_words, weights):
    pytest.importorskip("flashlight")
    from torchaudio.models.decoder import ctc_decoder

    reference = ctc_decoder(
        lexicon=str(many_words / "lexicon.txt"),
        tokens=list(LETTERS),
        lm=str(many_words / "lm.arpa"),
        beam_size=weights.beam,
        beam_threshold=weights.beam_threshold,
        lm_weight=weights.lm_weight,
        word_score=weights.word_score,
        sil_score=weights.silence_score,
        blank_token="<s>",
        sil_token="|",
        unk_word="<unk>",
    )
    heard = [emissions for emissions in noise(20) if len(emissions)]
    expected = [" ".join(reference(emissions[None])[0][0].words) for emissions in heard]
    assert any(expected)
    search = ctc.BeamSearch(many_words, weights)
    assert [search(emissions) for emissions in heard] == expected


def test_many_weights_need_one_language(many_words):
    language, heard = ctc.Language(many_words), noise(10)
    for weights in (*WEIGHTS, WEIGHTS[0]):
        shared, own = ctc.BeamSearch(language, weights), ctc.BeamSearch(many_words, weights)
        assert [shared(e) for e in heard] == [own(e) for e in heard]


@pytest.mark.slow
@pytest.mark.parametrize("cpus", [1, 2, 3])
def test_processes_change_nothing(many_words, cpus):
    heard = noise(200)
    search = ctc.BeamSearch(many_words, WEIGHTS[0])
    named = [(str(n), emissions) for n, emissions in enumerate(heard)]
    found = beam_search.decode_all(named, WEIGHTS[0].model_copy(update={"cpus": cpus}), many_words)
    assert found == [search(emissions) for emissions in heard]
    assert found[0] == ""


def test_nothing_to_decode(many_words):
    assert beam_search.decode_all([], params.Decode(cpus=2), many_words) == []


def test_jobs_of_several_weights_keep_their_order(many_words):
    heard = noise(60)
    jobs = [(weights, [n, n + 1]) for n in range(0, 60, 2) for weights in WEIGHTS]
    language = ctc.Language(many_words)
    with (
        beam_search.Decoders(language, heard, 1) as one,
        beam_search.Decoders(language, heard, 2) as two,
    ):
        assert list(two.run(jobs)) == list(one.run(jobs))


def test_portions_hold_every_utterance_once_and_the_longest_come_first(many_words):
    with beam_search.Decoders(ctc.Language(many_words), noise(200), 1) as found:
        chunks = found.chunks()
        assert sorted(n for chunk in chunks for n in chunk) == list(range(200))
        lengths = [len(found.searches.emissions[n]) for chunk in chunks for n in chunk]
        assert lengths == sorted(lengths, reverse=True)
        assert len(chunks) > 1
        assert found.chunks([3, 1]) in ([[3, 1]], [[1, 3]])


def test_a_killed_process_is_told(many_words):
    jobs = ((weights, list(range(60))) for weights in WEIGHTS * 1000)
    with beam_search.Decoders(ctc.Language(many_words), noise(60), 2) as found:
        running = found.run(jobs)
        next(running)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        with pytest.raises(UserError, match="a decoding process was killed"):
            list(running)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_processes_end_with_a_killed_parent(many_words):
    code = f"""
import multiprocessing, sys
sys.path[:0] = [{str(Path(__file__).parents[1] / "helpers")!r}]
from letter_builds import WEIGHTS, noise
from d2v.evaluation import ctc as decode, beam_search as decoders
with decoders.Decoders(decode.Language({str(many_words)!r}), noise(100), 2) as found:
    for _ in found.run((WEIGHTS[2], list(range(100))) for _ in range(10**6)):
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        started = [int(pid) for pid in process.stdout.readline().split()]
        assert len(started) == 2
        process.kill()
    until = time.monotonic() + 20
    while any(locks.process_start(pid) is not None for pid in started):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("lexicon.txt", "ONE O N E |\nTWO\n", r"lexicon\.txt: .*Invalid line: TWO"),
        ("lexicon.txt", "ONE O N Ä |\n", r"lexicon\.txt: ONE has 'Ä', which is not a known letter"),
        ("lexicon.txt", "", r"lexicon\.txt: no words"),
        (
            "lm.arpa",
            "\\data\\\nnonsense",
            r"lm\.arpa: not a language model that KenLM can read: .+",
        ),
        ("lm.bin", "cut off", r"lm\.bin: (not a language model|KenLM's own format needs)"),
    ],
)
def test_a_broken_file_is_told(lm, name, content, said):
    (lm / name).write_text(content)
    with pytest.raises(UserError, match=said) as raised:
        ctc.Language(lm)
    assert "\n" not in str(raised.value)


def test_outputs_of_another_alphabet_are_told(lm):
    with pytest.raises(UserError, match=r"utterance 1: .* of 32 letters .* shape \(5, 31\)"):
        beam_search.decode_all(
            [("a", torch.zeros(5, 32)), ("b", torch.zeros(5, 31))], WEIGHTS[0], lm
        )
    with pytest.raises(ValueError, match="32"):
        ctc.BeamSearch(lm, WEIGHTS[0])(torch.zeros(5, 31))


def test_a_word_outside_the_lexicon_is_never_written(lm):
    heard = spoken(*"ONE|SEVEN|TEN|")
    assert ctc.greedy(heard) == "ONE SEVEN TEN"
    words = ctc.BeamSearch(lm, params.Decode())(heard).split()
    assert words
    assert set(words) <= {"ONE", "TWO", "TEN", "THREE"}

"""Normalised transcripts of several languages, and their letters."""

import pytest

from d2v import params
from d2v.data import transcripts
from d2v.data.letters import LETTERS, UNKNOWN, encode, ids_of


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("Don’t – stop!", "don't stop"),
        ("Straße, ÄÖÜ", "straße äöü"),
        ("  Zaz\u0307o\u0301łc\u0301 \n", "zażółć"),  # decomposed letters
        ("ﬁne Ａ①", "fine a1"),  # a ligature, a wide letter, a number in a circle
        ("soft\u00adhyphen a\u200bb | c", "softhyphen ab c"),
        ("İstanbul", "i̇stanbul"),
        ("100 % sure…", "100 sure"),
        ("…!", ""),
    ],
)  # fmt: skip
def test_case_punctuation_and_unicode_form(said: str, written: str) -> None:
    assert transcripts.normalised(said, params.Transcripts()) == written


def test_upper_case_and_kept_marks() -> None:
    how = params.Transcripts(case="upper", keep="-?", form="NFC")
    assert transcripts.normalised("E-Mail? Don't, ﬁ", how) == "E-MAIL? DON T FI"
    assert transcripts.normalised("ß", params.Transcripts(case="keep")) == "ß"


def test_normalising_twice_changes_nothing() -> None:
    for case in ("lower", "upper", "keep"):
        how = params.Transcripts(case=case)  # type: ignore[arg-type]
        once = transcripts.normalised("İ ǆ ﬃ ß Ὀδυσσεύς’ naïve", how)
        assert transcripts.normalised(once, how) == once


def test_letters_start_with_the_special_symbols_and_spell_every_transcript() -> None:
    texts = ["zażółć", "straße ü"]
    letters = transcripts.alphabet(texts)
    assert tuple(letters[:5]) == LETTERS[:5]
    assert letters[5:] == sorted(set("zażółćstraßeü"))
    ids = ids_of(letters)
    assert "".join(letters[i] for i in encode("straße ü", ids)) == "straße|ü|"
    assert encode("ñ", ids) == [UNKNOWN, 4]
    assert transcripts.unknown(["ñ a ñ", "b"], letters) == {"b": 1, "ñ": 2}

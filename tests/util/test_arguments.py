"""Errors of the command line are one sentence, and options may stand anywhere."""

import pytest

from d2v.util import verbosity
from d2v.util.arguments import Parser, UsageError


@pytest.fixture
def parser() -> Parser:
    made = Parser(prog="d2v x")
    made.add_argument("file", nargs="?")
    made.add_argument("run", metavar="RUN")
    made.add_argument("--launch")
    return made


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "d2v x: missing RUN; see `d2v x --help`"),
        (
            ["a", "--lanch=b"],
            "d2v x: unrecognized argument --lanch=b (did you mean --launch?); see",
        ),
        (["a", "b", "c"], "d2v x: unrecognized argument c; see `d2v x --help`"),
        (["a", "--launch"], "d2v x: argument --launch: expected one argument; see"),
    ],
)
def test_an_error_is_one_sentence(
    parser: Parser, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        parser.parse(words)
    assert str(caught.value).startswith(said)
    assert caught.value.exit_code == 2
    assert capsys.readouterr() == ("", "")  # no usage text


@pytest.mark.parametrize("words", [["f", "r", "--launch", "x"], ["--launch", "x", "f", "r"]])
def test_options_may_stand_anywhere(parser: Parser, words: list[str]) -> None:
    args = parser.parse(words)
    assert (args.file, args.run, args.launch) == ("f", "r", "x")
    between = parser.parse(["f", "--launch", "x", "r"])
    assert between == args


def test_verbosity_is_an_option_of_every_parser(
    parser: Parser, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        parser.parse(["r", "-q"])
        assert verbosity.quiet()
        verbosity.notice("said")
        parser.parse(["--verbose", "r"])
        assert verbosity.verbose()
        verbosity.notice("told")
        assert capsys.readouterr().err == "told\n"
    finally:
        verbosity.choose(verbosity.USUAL)

"""The argument parser of all commands: one-sentence errors, and -q and -v everywhere."""

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from d2v.util import verbosity
from d2v.util.errors import UserError


class UsageError(UserError):
    """The command line is wrong; the message names the command whose help explains it."""


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are UsageError and whose options may stand between arguments."""

    def __init__(self, *, raw_epilog: bool = False, **given: Any) -> None:
        """With `raw_epilog`, the lines of the epilog stay as they are."""
        given.setdefault("formatter_class", _Raw if raw_epilog else _Formatter)
        super().__init__(**given)
        for names, text in (
            (("-q", "--quiet"), "print results, warnings and errors only"),
            (("-v", "--verbose"), "also print the output of started programs, and tracebacks"),
        ):
            self.add_argument(*names, action=_Level, help=text)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError, with the closest option for an unknown one."""
        if found := re.fullmatch(r"unrecognized arguments: (.*)", message):
            word = found[1].split()[0]
            message = f"unrecognized argument {word}{self._nearest(word)}"
        message = message.replace("the following arguments are required:", "missing")
        raise UsageError(f"{self.prog}: {message}; see `{self.prog} --help`")

    def _nearest(self, word: str) -> str:
        options = self._option_string_actions
        close = difflib.get_close_matches(word.partition("=")[0], options, n=1, cutoff=0.6)
        return f" (did you mean {close[0]}?)" if word.startswith("-") and close else ""

    def parse(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Parse the words; options may stand before, between and after the arguments."""
        if any(isinstance(a, argparse._SubParsersAction) for a in self._actions):
            return self.parse_args(argv)
        return self.parse_intermixed_args(argv)


class _Formatter(argparse.HelpFormatter):
    """Help with one line per command, as long as names have up to 20 characters."""

    def __init__(self, prog: str, **given: Any) -> None:
        super().__init__(prog, max_help_position=26, **given)


class _Raw(_Formatter, argparse.RawDescriptionHelpFormatter):
    """The same, without filling the lines of description and epilog."""


class _Level(argparse.Action):
    """Sets the verbosity when it is read."""

    def __init__(self, option_strings: Sequence[str], dest: str, **given: Any) -> None:
        given |= {"nargs": 0, "default": argparse.SUPPRESS}
        super().__init__(option_strings, dest, **given)

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        verbosity.choose(verbosity.FLAGS[option or self.option_strings[0]])

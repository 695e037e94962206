"""`d2v completion SHELL`: print the script that completes commands and options in a shell."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from d2v.util.arguments import Parser

SHELLS = ("bash", "zsh", "tcsh")
FILES = {"FILE", "CKPT", "INPUT", "SRC", "CORPUS", "PATH", "FOLDER|FILE"}
FOLDERS = {"FOLDER", "OUT", "DIR", "SET", "A", "B", "T", "LIBRISPEECH_SPLIT"}


def parser() -> Parser:
    """Argument parser of `d2v completion`."""
    made = Parser(
        prog="d2v completion",
        description="Print a script that completes commands, options and files. For bash, add"
        ' `eval "$(d2v completion bash)"` to ~/.bashrc.',
    )
    made.add_argument("shell", choices=SHELLS, help="shell that will use the script")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v completion SHELL`; the script does not run d2v, so completion is immediate."""
    args = parser().parse(argv)
    import shtab

    top = whole()
    _mark_files(top, shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(top, args.shell))


def whole() -> Parser:
    """The parser of `d2v` with the arguments of all commands."""
    from d2v.cli import commands

    top = commands.parser()
    for choices in _subcommands(top):
        for name in choices:
            made = commands.function(name, "parser")
            assert callable(made)
            choices[name] = made()
    return top


def _subcommands(parser: argparse.ArgumentParser) -> list[dict[str, argparse.ArgumentParser]]:
    kinds = (argparse._SubParsersAction,)
    return [action.choices for action in parser._actions if isinstance(action, kinds)]


def _mark_files(parser: argparse.ArgumentParser, file: object, folder: object) -> None:
    """Mark the arguments that are files or folders, also those of subcommands."""
    for action in parser._actions:
        if isinstance(action.metavar, str) and (action.metavar in FILES or action.type is Path):
            action.complete = folder if action.metavar in FOLDERS else file  # type: ignore[attr-defined]
    for choices in _subcommands(parser):
        for inner in choices.values():
            _mark_files(inner, file, folder)

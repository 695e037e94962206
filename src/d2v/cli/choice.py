"""How every command names its experiment: [FILE] or --params FILE, and --set KEY=VALUE."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from d2v.util.arguments import Parser, UsageError

if TYPE_CHECKING:
    from d2v.params import Experiment

EXPERIMENT = Path("params/mini.yaml")
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Chosen:
    """The parameter file that a command is about, with its overrides."""

    file: Path
    sets: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The file and its overrides, for messages."""
        from d2v.params import overrides

        return f"{self.file} with {overrides.described(self.sets)}" if self.sets else f"{self.file}"

    def load(self) -> "Experiment":
        """The validated parameters; nothing is written."""
        from d2v.params import overrides

        return overrides.load_overridden(self.file, self.sets)

    def path(self) -> Path:
        """A file with these parameters, for other processes; with overrides, it is written."""
        if not self.sets:
            return self.file
        from d2v.experiment import overridden
        from d2v.util.verbosity import notice

        path = overridden.write(self.file, self.sets)
        notice(f"{self.label}: the experiment {path.parent.name}, results in {path.parent}/")
        return path


def add(parser: Parser, sets: bool = True, default: Path | None = EXPERIMENT) -> None:
    """Add the arguments that name the experiment."""
    shown = f" (default: {default})" if default else ""
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help=f"parameter file of the experiment{shown}"
    )
    parser.add_argument("--params", metavar="FILE", help="the same as FILE")
    if sets:
        parser.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="override a parameter, for example pretrain.vision.optimiser.lr=1e-3 (repeatable);"
            " the variant gets its own name and folders",
        )


def of(args: argparse.Namespace, default: Path = EXPERIMENT) -> Chosen:
    """The experiment that the parsed arguments name.

    Raises UsageError if they name two files.
    """
    if args.file and args.params and args.file != args.params:
        raise UsageError(f"{args.file} and --params {args.params}: name one parameter file")
    return Chosen(Path(args.file or args.params or default), tuple(getattr(args, "set", ())))


def shift(args: argparse.Namespace, names: list[str]) -> list[str]:
    """Arguments after [FILE], which also takes the first of them if it is not a parameter file."""
    if args.file is not None and not args.file.endswith(SUFFIXES):
        names, args.file = [args.file, *names], None
    return names


def add_json(parser: Parser) -> None:
    """Add --json; d2v.cli.schemas describes what is printed."""
    parser.add_argument(
        "--json", action="store_true", help="print a JSON report (described in the documentation)"
    )

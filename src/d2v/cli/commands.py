"""Prepare data, run experiments and build result tables. Heavy imports are deferred."""

import difflib
import errno
import importlib
import io
import os
import platform
import sys
import traceback
from collections.abc import Sequence

import d2v
from d2v.util import verbosity
from d2v.util.arguments import Parser, UsageError
from d2v.util.errors import EXIT_CODES, UserError, printable
from d2v.util.extras import explained

# commands, in the order of their use: name to (module:function that runs it with its words, what it
# does); of a function NAME_main (or main), the argument parser is NAME_parser (or parser)
COMMANDS = {
    "check": ("d2v.cli.check", "check a parameter file and count its runs"),
    "plan": ("d2v.cli.plan", "estimate the cost of an experiment: updates, FLOP, GPU-hours, disk"),
    "data": ("d2v.cli.data", "fetch sources and update the prepared sets with DVC"),
    "reproduce": (
        "d2v.cli.reproduce",
        "run the whole workflow of an experiment and print its tables",
    ),
    "status": ("d2v.cli.status", "show the state of every run of the experiment"),
    "run": (
        "d2v.cli.running:run_main",
        "start one run as a job, or attach to its job if it is already running",
    ),
    "select": (
        "d2v.cli.running:select_main",
        "choose the best setting of a task from its finished grid",
    ),
    "units": (
        "d2v.cli.running:units_main",
        "fit the k-means units that a pre-training run predicts",
    ),
    "tables": ("d2v.cli.tables", "build the result tables and print them"),
    "clean": ("d2v.cli.clean", "list or remove checkpoints that are no longer needed"),
    "verify": ("d2v.cli.verify", "recompute all metrics from the stored predictions"),
    "compare": (
        "d2v.cli.compare",
        "compare two runs on the same examples: difference, confidence interval, p-value",
    ),
    "features": ("d2v.cli.inference:features_main", "write hidden states and logits to a file"),
    "transcribe": ("d2v.cli.inference:transcribe_main", "print transcripts of audio files"),
    "classify": ("d2v.cli.inference:classify_main", "print the predicted class of files or texts"),
    "probe": ("d2v.cli.probe", "probe the frozen features of a checkpoint, layer by layer"),
    "convert": ("d2v.interop.convert", "convert a checkpoint between supported formats"),
    "push": ("d2v.cli.hub:push_main", "publish a converted checkpoint on the Hugging Face hub"),
    "pull": ("d2v.cli.hub:pull_main", "fetch a checkpoint from the Hugging Face hub"),
    "fetch": (
        "d2v.data.fetch.fetch",
        "download the raw sources of the miniature or of an official set",
    ),
    "layout": ("d2v.data.mini.mini", "write a miniature set in its official on-disk layout"),
    "prepare": ("d2v.cli.prepare", "convert a data set from its official layout to shards"),
    "doctor": ("d2v.cli.doctor", "check this machine or, with --nodes, those of a Slurm job"),
    "completion": ("d2v.cli.completion", "print a script that completes commands in a shell"),
    "init": ("d2v.cli.init", "write a project of your own: parameters, workflow, data stages"),
}

MENDED_BY = {
    errno.EROFS: "; work/, results/ and the path given with -o must be on a writable disk",
    errno.EACCES: "; request access to it, or work in a folder of your own",
    errno.EPERM: "; request access to it, or work in a folder of your own",
    errno.ENOSPC: "; free up space on that disk",
    errno.EDQUOT: "; free up space in your quota",
}


def parser() -> Parser:
    """Argument parser of `d2v` without its commands' arguments."""
    codes = "\n".join(f"  {code:<3}  {text}" for code, text in EXIT_CODES.items())
    top = Parser(
        prog="d2v",
        description=__doc__.split(". ")[0] + ".",
        epilog=f"exit codes:\n{codes}\n\n`d2v COMMAND --help` describes a command.",
        raw_epilog=True,
    )
    top.add_argument("--version", action="version", version=version())
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return top


def version() -> str:
    """Version of d2v and of the Python that runs it."""
    return f"d2v {d2v.__version__} (Python {platform.python_version()})"


def function(command: str, what: str = "main") -> "object":
    """The function of a command that runs it (`main`), or the one that makes its `parser`."""
    module, _, name = COMMANDS[command][0].partition(":")
    return getattr(importlib.import_module(module), (name or "main").replace("main", what))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `d2v` and return the exit code.

    An error that the user can fix is one line on standard error; with -v, its traceback precedes
    it. With D2V_DEBUG=1, it is raised.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    verbosity.choose(verbosity.USUAL)
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names are not necessarily UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        while words and words[0] in verbosity.FLAGS:
            verbosity.choose(verbosity.FLAGS[words.pop(0)])
        if not words or words[0] not in COMMANDS:
            _no_command(words)
        run = function(words[0])
        assert callable(run)
        return run(words[1:]) or 0
    except UserError as error:
        if os.environ.get("D2V_DEBUG"):
            raise
        if verbosity.verbose():
            traceback.print_exc()
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except ImportError as error:
        told = explained(error)
        if told is None or os.environ.get("D2V_DEBUG"):
            raise
        print(f"error: {told}", file=sys.stderr)
        return told.exit_code
    except KeyboardInterrupt:
        print("cancelled", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `d2v status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        if os.environ.get("D2V_DEBUG") or error.errno is None:
            raise
        if verbosity.verbose():
            traceback.print_exc()
        print(f"error: {_of_disk(error)}", file=sys.stderr)
        return 2


def _no_command(words: Sequence[str]) -> None:
    """Show the help or the version; raise UsageError for anything that is no command."""
    if words and not words[0].startswith("-"):
        close = difflib.get_close_matches(words[0], COMMANDS, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else "; `d2v --help` lists all commands"
        raise UsageError(f"d2v has no command {words[0]}{hint}")
    parser().parse_args(words)


def _of_disk(error: OSError) -> str:
    """Describe a file system error in one line: the file, the reason and the remedy."""
    file = error.filename if error.filename2 is None else error.filename2
    where = "" if file is None else f"{os.fsdecode(file) if isinstance(file, bytes) else file}: "
    return f"{where}{error.strerror}{MENDED_BY.get(error.errno or 0, '')}"


if __name__ == "__main__":
    sys.exit(main())

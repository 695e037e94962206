"""`d2v push` and `d2v pull`: checkpoints to and from the Hugging Face hub.

Modules that import PyTorch are imported only after the command line has been parsed.
"""

from collections.abc import Sequence
from pathlib import Path

from d2v.util.arguments import Parser

NAME = "ORGANISATION/NAME"


def push_parser() -> Parser:
    """Argument parser of `d2v push`."""
    parser = Parser(
        prog="d2v push",
        description="Publish a folder that `d2v convert` wrote on the Hugging Face hub:"
        " safetensors, configuration, tokenizer and model card, in one commit. Log in first, with"
        " `hf auth login`.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the checkpoint")
    parser.add_argument("name", metavar=NAME, help="repository; created if it does not exist")
    parser.add_argument("--public", action="store_true", help="make a new repository public")
    parser.add_argument("-m", "--message", help="commit message")
    return parser


def push_main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v push FOLDER NAME`."""
    a = push_parser().parse(argv)
    from d2v.interop.hub import push

    push(a.folder, a.name, not a.public, a.message, say=True)


def pull_parser() -> Parser:
    """Argument parser of `d2v pull`."""
    parser = Parser(
        prog="d2v pull",
        description="Fetch a checkpoint from the Hugging Face hub: safetensors, configuration,"
        " tokenizer and model card; never pickles or code.",
    )
    parser.add_argument("name", metavar=NAME, help="repository on the hub")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="folder to write (default: ./NAME)"
    )
    parser.add_argument("--revision", help="branch, tag or commit (default: the main branch)")
    return parser


def pull_main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v pull NAME`."""
    a = pull_parser().parse(argv)
    from d2v.interop.hub import pull

    pull(a.name, a.out, a.revision, say=True)

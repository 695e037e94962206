"""`d2v convert SRC --to FORMAT [-o DIR]`: convert a checkpoint to another format.

Modules that import PyTorch are imported only after the command line has been validated.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from d2v.util.arguments import Parser
from d2v.util.files import sha256
from d2v.util.outputs import check_folder, check_new

if TYPE_CHECKING:
    from d2v.interop.content import Content


def convert(
    source: str | Path,
    to: Literal["d2v", "hf", "tokenizer", "torch-export"],
    out: str | Path | None = None,
    drop_head: bool = False,
    say: bool = False,
) -> Path:
    """Write a checkpoint as a folder of d2v or of Hugging Face; returns the folder.

    `to="tokenizer"` writes the tokenizer of a text model as a set that `d2v prepare glue` reads,
    `to="torch-export"` a program that runs without d2v (`torch.export.load`). By
    default, the folder is named after the source and created in the current folder. Raises
    UserError as `reading.read` does, for a model that Hugging Face's classes cannot express, or if
    the folder exists; only a tokenizer that d2v wrote is replaced, like any prepared set.
    """
    source = Path(source)
    out = Path(out) if out is not None else Path(f"{_name(source)}-{to}")
    (check_folder if to == "tokenizer" else check_new)(out, [source])
    from d2v.interop import exporting, hf_export, own
    from d2v.interop.module import empty_of, whole
    from d2v.interop.reading import read
    from d2v.interop.tokenizing import write_tokenizer

    content = read(source)
    whole(content, empty_of(content).state_dict())
    content.provenance.setdefault("format", content.format)
    content.provenance.setdefault("source", content.source.name)
    if content.source.is_file():
        content.provenance.setdefault("sha256", sha256(content.source))
    if say:
        print(f"{source}: {describe(content)}")
    if to == "hf":
        notes = [*content.notes, *hf_export.write(content, out, drop_head)]
    elif to == "tokenizer":
        write_tokenizer(content, out)
        notes = content.notes
    elif to == "torch-export":
        notes = [*content.notes, *exporting.write(content, out)]
    else:
        own.write(content, out)
        notes = content.notes
    if say:
        for note in notes:
            print(f"  {note}")
        print(f"written: {out}")
    return out


def describe(content: "Content") -> str:
    """Summary of a checkpoint in one line: format, sizes and parts."""
    a, b = content.architecture, content.architecture.backbone
    parts = [f"{a.task.kind} head with {a.outputs} outputs"] if a.task else []
    parts += ["regression head"] if a.regression not in (None, "none") else []
    parts += ["decoder"] if a.decoder is not None else []
    parts += ["teacher"] if a.shared is not None else []
    extra = f", with {' and '.join(parts)}" if parts else ""
    numbers = sum(tensor.numel() for tensor in content.tensors.values())
    return (
        f"{content.format}, {a.encoder.kind}, {b.depth} blocks of {b.dim}, {b.heads} heads"
        f"{extra}; {numbers:,} parameters"
    )


def parser() -> Parser:
    """Command line of `d2v convert`."""
    top = Parser(prog="d2v convert", description="Convert a checkpoint to another format.")
    top.add_argument("source", type=Path, metavar="SRC", help="checkpoint file or folder")
    top.add_argument(
        "--to",
        choices=("d2v", "hf", "tokenizer", "torch-export"),
        required=True,
        help="format to write; torch-export: a program that runs without d2v",
    )
    top.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="folder to write (default: <SRC>-<format>)"
    )
    top.add_argument(
        "--drop-head",
        action="store_true",
        help="with --to hf: drop a head that Hugging Face's classes do not support",
    )
    return top


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v convert`."""
    a = parser().parse(argv)
    convert(a.source, a.to, a.out, a.drop_head, say=True)


def _name(source: Path) -> str:
    return source.stem if source.is_file() else source.resolve().name

"""Tokenizers of checkpoints: encode texts, or write the tokenizer as a prepared set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from d2v.data.encodings import FILES, encoding
from d2v.data.shards import write_meta, written_whole
from d2v.interop.content import Content
from d2v.params import TokenInput
from d2v.util.errors import UserError

Encode = Callable[[str], list[int]]


def tokenizer(content: Content) -> Encode:
    """Function that encodes a text as the checkpoint's model expects it.

    Raises UserError if the checkpoint has no tokenizer, or if the package for it is missing.
    """
    kind = _inputs(content).tokenizer
    with readable_tokenizer(content):
        return encoding(kind, content.files).encode  # type: ignore[arg-type]


@contextmanager
def readable_tokenizer(content: Content) -> Iterator[None]:
    """Turn any error in the block into a UserError: the tokenizer's files cannot be read."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each tokenizer package raises its own
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{content.source}: its tokenizer cannot be read ({reason})") from error


def write_tokenizer(content: Content, out: Path) -> None:
    """Write a checkpoint's tokenizer in the form of one from `d2v prepare tokenizer`.

    Raises UserError if the checkpoint has none.
    """
    kind = _inputs(content).tokenizer
    assert kind is not None
    with written_whole(out) as temporary:
        for name in FILES[kind]:
            (temporary / name).write_bytes(content.files[name])
        write_meta(
            temporary,
            dataset=out.name,
            kind="tokenizer",
            encoding=kind,
            source=content.source.as_posix(),
            vocab_size=content.architecture.encoder.vocab_size,  # type: ignore[union-attr]
        )


def _inputs(content: Content) -> TokenInput:
    inputs = content.inputs
    if not isinstance(inputs, TokenInput) or inputs.tokenizer is None:
        raise UserError(
            f"{content.source}: it has no tokenizer, so texts cannot be read; convert it again with"
            " its tokenizer's files in the same folder"
        )
    return inputs

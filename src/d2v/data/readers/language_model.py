"""The official LibriSpeech language model (openslr.org/11), prepared for decoding.

SRC/4-gram.arpa.gz, 4-gram.arpa or 4-gram.bin           ARPA text, or KenLM's binary format
SRC/librispeech-lexicon.txt or librispeech-vocab.txt    the words
"""

import gzip
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

from d2v.data.layout import lines
from d2v.data.letters import ALPHABET, LETTERS, spell
from d2v.data.shards import write_meta, written_whole
from d2v.util.errors import UserError

KENLM = b"mmap lm http://kheafield.com/code"  # start of KenLM's binary files
MODELS = ("4-gram.bin", "4-gram.arpa", "4-gram.arpa.gz")
WORDS = ("librispeech-lexicon.txt", "librispeech-vocab.txt")


def prepare_official_lm(
    source: Path, out: Path, opened: Callable[[Path], object], *, binary: bool = True
) -> None:
    """Write lm.arpa or lm.bin, lexicon.txt (one word and its letters per line) and tokens.txt.

    Words with letters other than A to Z and ' are dropped, because no model here can spell them.

    `opened` opens the prepared folder as decoding will, so that a truncated list, a wrong count or
    a missing end is found now; it reads KenLM binaries only if `binary`.

    Raises UserError naming the file if there is no model or no word list, if a file has another
    format, if an archive is truncated, or if `opened` does.
    """
    model, words = _one_of(source, MODELS), _one_of(source, WORDS)
    with written_whole(out) as temporary:
        kept, left_out = _lexicon(words)
        rows = "".join(f"{word}\t{spell(word)}\n" for word in kept)
        (temporary / "lexicon.txt").write_text(rows, encoding="utf-8")
        (temporary / "tokens.txt").write_text("".join(f"{x}\n" for x in LETTERS))
        name = "lm.bin" if model.suffix == ".bin" else "lm.arpa"
        _copy(model, temporary / name)
        if name == "lm.arpa" or binary:
            print(f"{model}: opening it as decoding will", file=sys.stderr, flush=True)
            try:
                opened(temporary)  # reports the known words, or rejects the file
            except UserError as error:
                raise UserError(str(error).replace(str(temporary / name), str(model))) from None
        write_meta(
            temporary,
            dataset=out.name,
            kind="lm",
            source=source.as_posix(),
            model=model.name,
            words=len(kept),
            words_left_out=left_out,
        )


def _one_of(source: Path, names: tuple[str, ...]) -> Path:
    found = [source / name for name in names if (source / name).is_file()]
    if not found:
        raise UserError(
            f"{source}: contains none of {', '.join(names)}; run `d2v fetch librispeech-lm`"
        )
    return found[0]


def _lexicon(path: Path) -> tuple[list[str], int]:
    """Return the distinct words of a word list, sorted, and how many words cannot be spelt."""
    words = {line.split()[0] for _, line in lines(path) if line.strip()}
    kept = sorted(word for word in words if set(word) <= ALPHABET)
    if not kept:
        raise UserError(f"{path}: contains no word made up of the letters A to Z and '")
    return kept, len(words) - len(kept)


def _copy(model: Path, target: Path) -> None:
    opened = gzip.open if model.suffix == ".gz" else open
    try:
        with opened(model, "rb") as file, target.open("wb") as out:
            first = file.read(64)
            right = first.startswith(KENLM) if target.suffix == ".bin" else b"\\data\\" in first
            if not right:
                kind = "KenLM binary" if target.suffix == ".bin" else "ARPA"
                raise UserError(f"{model}: not a {kind} file")
            out.write(first)
            shutil.copyfileobj(file, out, 2**24)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{model}: truncated or unreadable ({error}); download it again") from None

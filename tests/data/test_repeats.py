"""Equal contents within a split and across splits."""

import numpy as np

from d2v.data.repeats import BYTES, Leak, content_hash, leaks, repeated


def hashes(*contents: str) -> np.ndarray:
    return np.array([content_hash(text.encode()) for text in contents], f"V{BYTES}")


def test_repeats_count_all_but_the_first() -> None:
    assert repeated(hashes("a", "b", "a", "a")) == 2
    assert repeated(hashes("a", "b")) == 0
    assert repeated(hashes()) == 0


def test_leaks_are_told_from_the_smaller_split() -> None:
    splits = {
        "train": hashes("a", "b", "c", "d"),
        "dev": hashes("x", "c", "c"),
        "test": hashes("y"),
    }
    assert leaks(splits) == [Leak("dev", "train", 2, 1)]
    assert leaks({"train": splits["train"]}) == []


def test_contents_that_end_in_zero_bytes_differ() -> None:
    assert repeated(np.array([b"a" + b"\0" * 15, b"a" + b"b" * 15], f"V{BYTES}")) == 0
    assert not leaks({"a": np.array([b"a" * 16], "V16"), "b": np.array([b"a" * 15 + b"\0"], "V16")})

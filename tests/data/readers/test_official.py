"""What a prepared set says of the official one that it was made from."""

import pytest

from d2v.data.readers.official import lacking


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({}, ""),  # a set of one's own
        ({"complete": True}, ""),
        ({"complete": False}, "not the whole official set"),
        ({"splits": {"eval": {"examples": 3, "missing": 0}}}, ""),
        (
            {"splits": {"eval": {"missing": 150}, "balanced": {"missing": 1000}}},
            "1,150 clips are missing",
        ),
    ],
)
def test_what_a_set_lacks(meta: dict, said: str) -> None:
    assert lacking(meta) == said

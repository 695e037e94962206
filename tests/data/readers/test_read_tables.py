"""Readers of tables neither trust the process-wide limit of CSV cells nor leave it moved."""

import csv

import pytest

from d2v.data.readers import tables
from d2v.util.errors import UserError


@pytest.fixture(params=[1000, 2**40])
def usual(request):
    """Give the process another limit than Python's own, as a library may do when it is imported."""
    before = csv.field_size_limit(request.param)
    yield request.param
    csv.field_size_limit(before)


def test_long_cells_are_read_whatever_the_limit_was(usual, tmp_path):
    table = tmp_path / "long.csv"
    table.write_text(f"text\n{'a' * 200_000}\n")
    columns, [row] = tables.read_table(table)
    assert (columns, row["text"]) == (["text"], "a" * 200_000)
    assert csv.field_size_limit() == usual


def test_an_error_leaves_the_limit_as_it_was(usual, tmp_path):
    table = tmp_path / "broken.csv"
    table.write_text("a,b\n1\n")
    with pytest.raises(UserError, match=r"broken\.csv:2: 1 cells"):
        tables.read_table(table)
    assert csv.field_size_limit() == usual

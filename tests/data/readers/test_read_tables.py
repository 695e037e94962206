"""Readers of tables neither trust the process-wide limit of CSV cells nor leave it moved."""

import csv

import pytest

from d2v import params
from d2v.data.readers import tables
from d2v.data.readers.own_text import prepare_labelled_text
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


def test_a_nested_value_is_refused_where_it_is_used(tmp_path):
    table = tmp_path / "x.jsonl"
    table.write_text('{"text": "a", "more": {"text": 1}}\n{"text": {"a": 1}}\n{"text": ["b"]}\n')
    _, (first, *others) = tables.read_table(table)
    assert first["text"] == "a"  # what is not read may be anything
    for number, row in enumerate(others, 2):
        with pytest.raises(UserError, match=rf"x\.jsonl:{number}: .* 'text' is a list or an obj"):
            row.get("text")


def test_nested_values_of_parquet_are_refused(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"text": ["a"], "list": [["a"]], "row": [{"a": 1}], "bytes": [b"a"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
    _, (row,) = tables.read_table(tmp_path / "x.parquet")
    assert row["text"] == "a"
    for name in ("list", "row", "bytes"):
        with pytest.raises(UserError, match=rf"x\.parquet: row 1: .* '{name}'"):
            row[name]


def test_a_repeated_key_is_refused(tmp_path):
    table = tmp_path / "x.jsonl"
    table.write_text('{"a": {"b": 1, "b": 2}, "b": 3}\n{"a": "x", "b": 1, "a": "y"}\n')
    with pytest.raises(UserError, match=r"x\.jsonl:2: the key 'a' twice; remove one"):
        tables.read_table(table)


def test_labelled_texts_must_be_texts(tmp_path, small_prepared):
    source = tmp_path / "source"
    source.mkdir()
    for split in ("train", "dev"):
        lines = '{"text": "a", "label": 0}\n{"text": ["b"], "label": 1}\n'
        (source / f"{split}.jsonl").write_text(lines)
    own = params.LabelledText(
        kind="labelled_text",
        source=str(source),
        texts=["text"],
        splits={"folders": {split: f"{split}.jsonl" for split in ("train", "dev")}},
        classes=2,
    )
    with pytest.raises(UserError, match=r"train\.jsonl:2: .* is a list or an object"):
        prepare_labelled_text(own, small_prepared / "tokenizer", tmp_path / "set", workers=1)

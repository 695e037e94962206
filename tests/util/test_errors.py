"""Messages about errors."""

from d2v.util.errors import counted, quoted, shortened


def test_both_ends_of_a_long_path_are_told() -> None:
    name = "/data/" + "x" * 240 + "/" + "y" * 200 + "/1-7.trans.txt"
    first, path, last = shortened(f"error: {name} is missing").split(" ", 2)
    assert (first, last) == ("error:", "is missing")
    assert len(path) < 300
    assert path.startswith("/data/x")
    assert path.endswith("y/1-7.trans.txt")


def test_words_up_to_300_characters_stay() -> None:
    text = f"{'x' * 300} and {'y' * 300}"
    assert shortened(text) == text


def test_counts_and_quotes() -> None:
    assert [counted(n, "class") for n in (1, 2)] == ["1 class", "2 classes"]
    assert counted(1000, "file") == "1,000 files"
    assert quoted("a" * 61, 3) == "'aaa...'"

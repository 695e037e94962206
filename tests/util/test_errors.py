"""Messages about errors."""

from d2v.util.errors import counted, printable, quoted


def test_both_ends_of_a_long_path_are_told() -> None:
    name = "/data/" + "x" * 240 + "/" + "y" * 200 + "/1-7.trans.txt"
    first, path, last = printable(f"error: {name} is missing").split(" ", 2)
    assert (first, last) == ("error:", "is missing")
    assert len(path) < 300
    assert path.startswith("/data/x")
    assert path.endswith("y/1-7.trans.txt")


def test_words_up_to_300_characters_stay() -> None:
    text = f"{'x' * 300} and {'y' * 300}"
    assert printable(text) == text


def test_counts_and_quotes() -> None:
    assert [counted(n, "class") for n in (1, 2)] == ["1 class", "2 classes"]
    assert counted(1000, "file") == "1,000 files"
    assert quoted("a" * 61, 3) == "'aaa...'"


def test_what_a_file_says_adds_no_lines() -> None:
    assert printable("p.json: model 'é\n' is unknown") == "p.json: model 'é\\n' is unknown"
    assert printable("a\x1b[31m\r\tb\x7f") == "a\\x1b[31m\\r\\tb\\x7f"
    errors = "p.yaml: 2 errors\n  one\n  two"
    assert printable(errors) == errors

"""GLUE from files in their official shape: every task, the known oddities, and planted faults."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from glue_builds import LABELLED, MNLI, MRPC, ROWS, S, folder, rows
from preparing import PIECE_BYTES, SHARD_BYTES, killed_and_resumed
from small_sets import corpus_folder, write_lines

from d2v.cli import prepare
from d2v.data.readers import glue, official
from d2v.data.readers.glue_tasks import TASKS
from d2v.data.shards import Shards, hash_of, read_meta
from d2v.data.tokenizer import Tokenizer
from d2v.util.errors import UserError


def released_mrpc(root: Path, listed: range = range(3, 9)) -> Path:
    """MRPC as Microsoft has it, with byte-order marks, and the list of pairs for dev."""
    for name in ("train", "test"):
        lines = ["\ufeff" + "\t".join(MRPC), *rows("MRPC", MRPC)]
        write_lines(root / f"msr_paraphrase_{name}.txt", *lines)
    write_lines(root / "mrpc_dev_ids.tsv", *(f"{n}\t{n + 50}" for n in listed))
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    text = corpus_folder(root / "text")
    prepare.main(["tokenizer", str(text), "-o", str(root / "out"), "--vocab-size", "70"])
    return root / "out"


@pytest.fixture
def run(tmp_path: Path, model: Path) -> Callable[..., Path]:
    """Prepares a task into a new folder."""

    def prepared(task: str, source: Path, *more: object, out: str = "out") -> Path:
        words = ["glue", task, source, "--tokenizer", model, "-o", tmp_path / "p" / out, *more]
        prepare.main([str(word) for word in words])
        return tmp_path / "p" / out

    return prepared


def texts(prepared: Path, split: str, row: int, model: Path) -> list[str]:
    shards, words = Shards(prepared / split), Tokenizer(model)
    ids = np.frombuffer(shards.payload(row), words.dtype).tolist()
    first = int(shards.numbers("first")[row])
    decoded = [words.decode(part).replace("⁇", "").strip() for part in (ids[:first], ids[first:])]
    return decoded[: 1 + (len(ids) > first)]


# --- every task -------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_every_task(tmp_path: Path, model: Path, run, task: str) -> None:
    out = run(task, folder(tmp_path / "x", task))
    meta, known = read_meta(out), TASKS[task]
    assert meta["splits"].keys() == set(known.splits)
    for split, found in meta["splits"].items():
        wanted = {"examples": ROWS, "labelled": not split.startswith("test")}
        assert wanted.items() <= found.items()
    assert meta["pairs"] == (len(known.texts) == 2)
    for split in known.splits:
        shards = Shards(out / split)
        assert list(shards.texts("id")) == [f"{split}-{n}" for n in range(ROWS)]
        assert texts(out, split, 13, model) == [S[5], S[0]][: len(known.texts)]
        assert ("label" in shards.columns) == (not split.startswith("test"))
    labels = Shards(out / known.splits[0]).numbers("label")
    if known.classes is None:
        assert labels.tolist() == [n % 6 for n in range(ROWS)]
    else:
        assert meta["classes"] == list(known.classes)
        assert labels.tolist() == [n % len(known.classes) for n in range(ROWS)]


def test_tasks_are_those_of_the_prepared_sets_and_of_the_official_counts() -> None:
    from d2v.params.data import Glue

    assert sorted(task.dataset for task in TASKS.values()) == sorted(Glue.makes)
    for name, task in TASKS.items():
        assert tuple(official.OFFICIAL[name]) == task.splits


def test_lists_of_labelled_examples(tmp_path: Path, run, capsys) -> None:
    source = folder(tmp_path / "x", "CoLA")
    write_lines(source / "lists" / "few.txt", "train-0", "train-3")
    out = run("CoLA", source)
    assert (out / "lists" / "few.txt").read_text() == "train-0\ntrain-3\n"
    assert "not split files" not in capsys.readouterr().err
    write_lines(source / "lists" / "few.txt", "train-0", f"train-{ROWS}")
    with pytest.raises(UserError, match=rf"few\.txt:2: no example is named 'train-{ROWS}'"):
        run("CoLA", source, out="other")
    assert not (tmp_path / "p" / "other").exists()


# --- MRPC by list -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mrpc_dev_ids.tsv", "dev_ids.tsv"])
def test_mrpc_is_cut_by_the_list(tmp_path: Path, model: Path, run, name: str) -> None:
    source = released_mrpc(tmp_path / "x")
    (source / "mrpc_dev_ids.tsv").rename(source / name)
    out = run("MRPC", source)
    counts = {split: found["examples"] for split, found in read_meta(out)["splits"].items()}
    assert counts == {"train": ROWS - 6, "dev": 6, "test": ROWS}
    assert list(Shards(out / "dev").texts("id")) == [f"dev-{n}" for n in range(3, 9)]
    train = [n for n in range(ROWS) if not 3 <= n < 9]
    assert list(Shards(out / "train").texts("id")) == [f"train-{n}" for n in train]
    assert Shards(out / "train").numbers("label").tolist() == [n % 2 for n in train]
    assert texts(out, "dev", 2, model) == [S[5], S[0]]


def test_mrpc_as_glue_packages_it_needs_no_list(tmp_path: Path, run) -> None:
    source = released_mrpc(tmp_path / "x")
    (source / "mrpc_dev_ids.tsv").unlink()
    with pytest.raises(
        UserError, match=r"contains msr_paraphrase_train\.txt, but.*mrpc_dev_ids\.tsv"
    ):
        run("MRPC", source)
    folder(source, "MRPC")
    splits = read_meta(run("MRPC", source))["splits"]
    assert {split: found["examples"] for split, found in splits.items()} == {
        "train": ROWS,
        "dev": ROWS,
        "test": ROWS,
    }


LISTS = {
    "unknown pair": (["3\t53", "3\t54"], r"ids\.tsv:2: msr_paraphrase_train\.txt has no pair"),
    "one id": (["3"], r"ids\.tsv:1: .* no pair with the ids '3'"),
    "twice": (["3\t53", "4\t54", "3\t53"], r"ids\.tsv:3: 3 and 53 are listed twice"),
    "empty": ([], r"ids\.tsv: an empty list"),
}


@pytest.mark.parametrize("fault", LISTS)
def test_faults_in_the_list_are_named(tmp_path: Path, run, fault: str) -> None:
    lines, message = LISTS[fault]
    source = released_mrpc(tmp_path / "x")
    write_lines(source / "mrpc_dev_ids.tsv", *lines)
    with pytest.raises(UserError, match=message):
        run("MRPC", source)
    assert not (tmp_path / "p").exists()


# --- QQP's broken rows ------------------------------------------------------------------------


def qqp(root: Path, *odd: str, count: int = 3000) -> Path:
    """QQP with these lines after the fourth row of train."""
    folder(root, "QQP")
    lines = rows("QQP", LABELLED["QQP"], count)
    write_lines(root / "train.tsv", "\t".join(LABELLED["QQP"]), *lines[:4], *odd, *lines[4:])
    return root


def test_known_broken_rows_are_left_out_and_counted(tmp_path: Path, model, run, capsys) -> None:
    source = qqp(tmp_path / "x", "9\t9\t9\tWhat is", "it?\tWhat?\t0", "9\t8\t7\t\ta dog\t1")
    out = run("QQP", source)
    splits = read_meta(out)["splits"]
    wanted = {"examples": 3001, "labelled": True, "broken_rows_left_out": 2}
    assert wanted.items() <= splits["train"].items()
    assert "broken_rows_left_out" not in splits["dev"]
    assert "train.tsv: 2 broken rows are skipped" in capsys.readouterr().err
    shards = Shards(out / "train")
    assert list(shards.texts("id"))[3:6] == ["train-3", "train-6", "train-7"]
    assert int(shards.numbers("first")[4]) == 0  # an empty question is kept, as in fairseq
    assert texts(out, "train", 4, model) == ["", "a dog"]


def test_more_broken_rows_than_the_known_ones_are_a_fault(tmp_path: Path, run) -> None:
    source = qqp(tmp_path / "x", *["it?\tWhat?\t0"] * 4)
    with pytest.raises(UserError, match=r"train\.tsv: 4 of 3004 rows do not have 6 columns"):
        run("QQP", source)


# --- faults -----------------------------------------------------------------------------------


def row_of(task: str, **cells: str) -> str:
    columns = LABELLED[task]
    given = dict(zip(columns, rows(task, columns, 1)[0].split("\t"), strict=True))
    return "\t".join((given | cells).values())


FAULTS: dict[str, tuple[str, str, str | bytes, str]] = {
    "stray tab": (
        "QNLI", "train", row_of("QNLI", question="a\tb"),
        r"train\.tsv:5: 5 columns?, but 4 are expected \(index, question, sentence, label\)",
    ),
    "missing column": ("QNLI", "dev", "3\ta\tb", r"dev\.tsv:5: 3 columns?, but 4"),
    "no gold label": (
        "MNLI", "train", row_of("MNLI", gold_label="-"),
        r"train\.tsv:5: label '-' is not one of contradiction, neutral, entailment",
    ),
    "other dev": ("MNLI", "dev_mismatched", "a", r"dev_mismatched\.tsv:5: 1 columns?, but 16"),
    "test": ("MNLI", "test_matched", "a\tb", r"test_matched\.tsv:5: 2 columns?, but 10"),
    "broken QQP test": ("QQP", "test", "a\tb", r"test\.tsv:5: 2 columns?, but 3"),
    "QQP label": (
        "QQP", "train", row_of("QQP", is_duplicate="2"),
        r"train\.tsv:5: label '2' is not one of 0, 1",
    ),
    "QQP without text": (
        "QQP", "train", row_of("QQP", question1="", question2=" "),
        r"train\.tsv:5: column 'question1' is empty",
    ),
    "QNLI without text": (
        "QNLI", "train", row_of("QNLI", sentence=" "), r"train\.tsv:5: column 'sentence' is empty"
    ),
    "not UTF-8": ("QQP", "dev", b"1\t2\t3\tcaf\xe9\tb\t0", r"dev\.tsv:5: not UTF-8"),
    "score": ("STS-B", "dev", row_of("STS-B", score="-0.1"), r"dev\.tsv:5: label '-0\.1' is no"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_nothing_is_written(tmp_path: Path, run, fault: str) -> None:
    task, split, row, message = FAULTS[fault]
    source = folder(tmp_path / "x", task)
    path = source / f"{split}.tsv"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = (row.encode() if isinstance(row, str) else row) + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(UserError, match=message) as caught:
        run(task, source)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "p").exists()


def test_an_endless_label_is_shown_by_its_beginning(tmp_path: Path, run) -> None:
    source = folder(tmp_path / "SST-2", "SST-2")
    with (source / "dev.tsv").open("a") as file:
        file.write("a cat\t" + "1" * 200_000 + "\n")
    with pytest.raises(UserError, match=r"dev\.tsv:26: label '1{60}\.\.\.' is not one of 0, 1"):
        run("SST-2", source)


def test_columns_and_files_that_are_missing_are_named(tmp_path: Path, run) -> None:
    source = folder(tmp_path / "x", "MNLI")
    write_lines(source / "dev_matched.tsv", "\t".join(MNLI), *rows("MNLI", MNLI))
    with pytest.raises(UserError, match=r"dev_matched\.tsv:1: no column 'gold_label'"):
        run("MNLI", source)
    for path in source.iterdir():
        path.rename(path.with_suffix(".csv"))
    with pytest.raises(UserError, match=r"contains none of train\.tsv, dev_matched\.tsv, "):
        run("MNLI", source)


# --- counts -----------------------------------------------------------------------------------


def test_counts_are_compared_with_the_official_ones(tmp_path, run, monkeypatch, capsys) -> None:
    source = folder(tmp_path / "x", "RTE")
    with pytest.raises(UserError, match=r"train has 24 of 2,490; dev has 24 of 277; .*partial"):
        run("RTE", source, "--official")
    assert not (tmp_path / "p").exists()
    assert read_meta(run("RTE", source, "--official", "--allow-partial"))["complete"] is False
    assert "warning: RTE is not the whole" in capsys.readouterr().err
    assert "complete" not in read_meta(run("RTE", source))
    monkeypatch.setitem(official.OFFICIAL, "RTE", dict.fromkeys(("train", "dev", "test"), ROWS))
    assert read_meta(run("RTE", source, "--official"))["complete"] is True
    (source / "test.tsv").unlink()
    with pytest.raises(UserError, match="test has 0 of 24"):
        run("RTE", source, "--official")


def test_either_archive_of_qqp_is_whole() -> None:
    for train in (363_846, 363_849):
        assert official.check_counts("QQP", official.OFFICIAL["QQP"] | {"train": train})
    with pytest.raises(UserError, match="train has 363,847 of 363,846"):
        official.check_counts("QQP", official.OFFICIAL["QQP"] | {"train": 363_847})


# --- the same bytes ---------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_bytes_however_they_are_made(tmp_path: Path, model, run, monkeypatch) -> None:
    source = qqp(tmp_path / "x", "it?\tWhat?\t0", count=2000)
    whole = run("QQP", source, out="whole")
    monkeypatch.setattr(glue, "PIECE_BYTES", 999)
    assert hash_of(run("QQP", source, out="pieces")) == hash_of(whole)
    monkeypatch.setattr(glue, "SHARD_BYTES", 30_000)
    one, three = (run("QQP", source, "--workers", n, out=str(n)) for n in (1, 3))
    assert len(list((one / "train").glob("*.bin"))) > 3
    assert hash_of(one) == hash_of(three)


@pytest.mark.slow
def test_killed_and_resumed_gives_the_same_bytes(tmp_path: Path, model, run, monkeypatch) -> None:
    source = released_mrpc(tmp_path / "x")
    monkeypatch.setattr(glue, "PIECE_BYTES", PIECE_BYTES)
    monkeypatch.setattr(glue, "SHARD_BYTES", SHARD_BYTES)
    whole = run("MRPC", source, out="whole")
    command = ("glue", "MRPC", source, "--tokenizer", model)
    assert killed_and_resumed(tmp_path / "out", "train", *command) == hash_of(whole)

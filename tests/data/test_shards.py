"""Shards: what is written comes back, bytes repeat, nothing half-written keeps its name."""

import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from d2v.data.shards import Shards, hash_of, read_meta, write_meta, written_whole
from d2v.data.writing import Example, write_split
from d2v.util.errors import UserError
from d2v.util.files import MARK
from d2v.util.outputs import mark


def write(folder: Path, shard_bytes: int = 100) -> list[bytes]:
    payloads = [bytes([n]) * (7 * n) for n in range(12)]
    rows = [
        Example(payload, {"id": f"é{n}", "label": n % 3, "score": n / 2, "empty": ""})
        for n, payload in enumerate(payloads)
    ]
    write_rows(folder, rows, shard_bytes)
    return payloads


def write_rows(folder: Path, rows: list[Example], shard_bytes: int = 100) -> None:
    write_split(
        folder,
        range(len(rows)),
        lambda n: [rows[n]],
        sizes=[len(row.payload) for row in rows],
        label=folder.name,
        workers=1,
        shard_bytes=shard_bytes,
    )


def test_payloads_and_columns_come_back(tmp_path: Path) -> None:
    payloads = write(tmp_path / "train")
    shards = Shards(tmp_path / "train")
    assert len(shards) == 12
    assert len(list((tmp_path / "train").glob("*.bin"))) > 3  # several shards
    for index in (11, 0, 5, 3):
        assert bytes(shards.payload(index)) == payloads[index]
    assert shards.numbers("label").tolist() == [n % 3 for n in range(12)]
    assert shards.numbers("score").tolist() == [n / 2 for n in range(12)]
    texts = shards.texts("id")
    assert list(texts) == [f"é{n}" for n in range(12)]
    assert texts[-1] == "é11"
    assert texts[2:4] == ["é2", "é3"]
    assert list(shards.texts("empty")) == [""] * 12
    assert shards.columns == ["empty", "id", "label", "score"]
    with pytest.raises(IndexError):
        texts[12]


def test_no_shard_is_larger_than_the_limit(tmp_path: Path) -> None:
    write(tmp_path / "train", shard_bytes=100)
    assert max(p.stat().st_size for p in (tmp_path / "train").glob("*.bin")) <= 100


def test_a_split_of_shards_survives_pickling(tmp_path: Path) -> None:
    payloads = write(tmp_path / "train")
    shards = Shards(tmp_path / "train")
    assert len(shards.payload(4)) == 28  # a file is mapped now
    assert bytes(pickle.loads(pickle.dumps(shards)).payload(7)) == payloads[7]


def test_writing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name / "train")
    assert hash_of(tmp_path / "one") == hash_of(tmp_path / "two")


def test_hash_sees_content_and_names(tmp_path: Path) -> None:
    write(tmp_path / "train")
    before = hash_of(tmp_path)
    (tmp_path / "meta.json").write_text("{}")
    assert hash_of(tmp_path) == before  # meta.json holds it
    (tmp_path / "train" / "00000.bin").write_bytes(b"other")
    changed = hash_of(tmp_path)
    assert changed != before
    (tmp_path / "train").rename(tmp_path / "dev")
    assert hash_of(tmp_path) != changed


@pytest.mark.parametrize("error", [UserError("fault"), KeyboardInterrupt()])
def test_after_an_error_the_old_folder_is_there_and_whole(
    tmp_path: Path, error: BaseException
) -> None:
    out = tmp_path / "set"
    with written_whole(out) as folder:
        (folder / "a").write_text("old")

    def fail() -> None:
        with written_whole(out) as folder:
            (folder / "a").write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (out / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_what_a_kill_left_is_cleared_away(tmp_path: Path) -> None:
    out = tmp_path / "set"
    for left_over in ("set.tmp", "set.old", "set"):
        (tmp_path / left_over).mkdir()
        (tmp_path / left_over / "junk").write_text("junk")
        mark(tmp_path / left_over)
    with written_whole(out) as folder:
        (folder / "a").write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert {p.name for p in out.iterdir()} == {"a", MARK}


def test_two_that_write_the_same_folder_take_turns(tmp_path: Path, capsys) -> None:
    def write_one(name: str) -> None:
        with written_whole(tmp_path / name) as folder:
            (folder / "a").write_text("second")

    with ThreadPoolExecutor() as pool:
        with written_whole(tmp_path / "set") as folder:
            (folder / "a").write_text("first")
            same, other = pool.submit(write_one, "set"), pool.submit(write_one, "other")
            other.result(timeout=10)  # does not wait
            time.sleep(0.1)
            assert not same.done()
            assert (folder / "a").read_text() == "first"
        same.result(timeout=10)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "set"]
    assert (tmp_path / "set" / "a").read_text() == "second"
    assert "set.tmp: another process is writing here; waiting" in capsys.readouterr().out


def test_missing_and_damaged_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"meta\.json"):
        read_meta(tmp_path)
    write_meta(tmp_path, kind="test")
    assert read_meta(tmp_path)["kind"] == "test"
    (tmp_path / "meta.json").write_text('{"schema": 99}')
    with pytest.raises(UserError, match="schema 99"):
        read_meta(tmp_path)
    with pytest.raises(UserError, match=r"index\.npz"):
        Shards(tmp_path / "train")
    write(tmp_path / "train")
    with open(tmp_path / "train" / "00000.bin", "r+b") as file:
        file.truncate(8)
    with pytest.raises(UserError, match=r"00000\.bin: too short"):
        Shards(tmp_path / "train").payload(4)
    index = tmp_path / "train" / "index.npz"
    index.write_bytes(index.read_bytes()[:300])
    with pytest.raises(UserError, match=r"index\.npz: unreadable"):
        Shards(tmp_path / "train")


def test_an_empty_payload_is_readable(tmp_path: Path) -> None:
    write_rows(tmp_path / "train", [Example(b"", {"id": "a"})])
    assert bytes(Shards(tmp_path / "train").payload(0)) == b""
    assert Shards(tmp_path / "train").numbers("length").dtype == np.int64

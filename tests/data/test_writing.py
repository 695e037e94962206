"""Shards are the same for any number of workers, and after a kill; finished ones are kept."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from d2v.data.shards import PARTS, Shards, hash_of, written_whole
from d2v.data.writing import MANY, Example, cut, write_split
from d2v.util.errors import UserError
from d2v.util.files import MARK

SHARD = 1000  # bytes
SIZES = [100 * (number % 7) for number in range(60)]


def examples(number: int) -> Iterator[Example]:
    """None to three examples of an item, with texts, integers and a histogram."""
    for part in range(number % 4):
        payload = bytes([number]) * (number % 7 * 100 // 3)
        columns = {"id": f"é{number}-{part}", "label": number}
        yield Example(payload, columns, np.eye(1, 8, number % 8, dtype=np.int64)[0])


def broken(bad: int, number: int) -> Iterator[Example]:
    if number == bad:
        raise UserError(f"item{number}.flac: broken")
    yield from examples(number)


def killed(number: int) -> Iterator[Example]:
    if number == 30:
        os.kill(os.getpid(), signal.SIGKILL)
    yield from examples(number)


def slowly(log: str, number: int) -> Iterator[Example]:
    """Notes which items were read, and takes its time."""
    with open(log, "a") as file:
        file.write(f"{number}\n")
    time.sleep(0.02)
    yield from examples(number)


def write(out: Path, workers: int | None = 1, how=examples, shard_bytes: int = SHARD) -> np.ndarray:
    with written_whole(out) as folder:
        written = write_split(
            folder / "train",
            range(60),
            how,
            sizes=SIZES,
            label="train",
            workers=workers,
            shard_bytes=shard_bytes,
        )
        assert written.counts is not None
        return written.counts


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("whole") / "set"
    counts = write(out)
    assert counts.sum() == 15 * (0 + 1 + 2 + 3)
    assert {p.name for p in out.iterdir()} == {"train", MARK}
    assert len(list((out / "train").glob("*.bin"))) == len(cut(SIZES, SHARD)) > 10
    return hash_of(out)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_the_same_bytes_and_counts_for_any_number_of_workers(tmp_path, undisturbed, workers):
    counts = write(tmp_path / "set", workers)
    assert hash_of(tmp_path / "set") == undisturbed
    assert counts.sum() == 90


def test_cut_fills_shards_and_never_splits_an_item():
    assert cut([5, 5, 5, 20, 1], 10) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert cut([], 10) == [(0, 0)]
    assert cut([99], 10) == [(0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_fault_is_told_and_what_was_finished_is_used_later(
    tmp_path, undisturbed, workers, monkeypatch
):
    monkeypatch.setattr("d2v.data.shards.WORTH_KEEPING", 1)
    out = tmp_path / "set"
    with pytest.raises(UserError, match=r"item55\.flac: broken"):
        write(out, workers, partial(broken, 55))
    assert not out.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["set.tmp"]
    write(out, workers, partial(broken, -1))
    assert hash_of(out) == undisturbed
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_all_broken_items_are_told_and_the_other_shards_kept(
    tmp_path, undisturbed, workers, monkeypatch, capfd
):
    monkeypatch.setattr("d2v.data.shards.WORTH_KEEPING", 1)
    bad = tmp_path / "bad"
    bad.write_text("13 41 55")
    with pytest.raises(UserError, match=r"item13\.flac: broken \(2 more broken, named above\)"):
        write(tmp_path / "set", workers, partial(listed, str(bad)))
    said = capfd.readouterr().err
    assert [f"item{n}.flac: broken" in said for n in (12, 13, 41, 55)] == [False, True, True, True]
    broken_parts = sum(any(a <= n < b for n in (13, 41, 55)) for a, b in cut(SIZES, SHARD))
    kept = list((tmp_path / "set.tmp" / PARTS / "train").glob("[0-9]*.npz"))
    assert len(kept) == len(cut(SIZES, SHARD)) - broken_parts
    bad.write_text("")
    write(tmp_path / "set", workers, partial(listed, str(bad)))
    assert hash_of(tmp_path / "set") == undisturbed


def listed(bad: str, number: int) -> Iterator[Example]:
    if str(number) in Path(bad).read_text().split():
        raise UserError(f"item{number}.flac: broken")
    yield from examples(number)


def test_a_shard_full_of_broken_items_is_given_up(tmp_path, capsys):
    def all_broken(number: int) -> Iterator[Example]:
        raise UserError(f"item{number}.flac: broken")

    with pytest.raises(UserError, match=r"item0\.flac: broken \(19 more"):
        write(tmp_path / "set", 1, all_broken, shard_bytes=10**9)
    assert len(capsys.readouterr().err.splitlines()) == MANY


def test_a_repaired_file_costs_its_own_shard_only(tmp_path, monkeypatch):
    """Before and behind a whole split, which is then joined already."""
    monkeypatch.setattr("d2v.data.shards.WORTH_KEEPING", 1)
    for number in range(6):
        (tmp_path / f"{number}").write_bytes(b"%d" % number * 10)
    log = tmp_path / "log"

    def run(*splits: str, ends: Sequence[int] = (6,)) -> None:
        """Splits of the files from 0 to their ends."""
        with written_whole(tmp_path / "set") as folder:
            for name, end in zip(splits, ends, strict=True):
                write_split(
                    folder / name,
                    [tmp_path / f"{number}" for number in range(end)],
                    partial(noted, str(log)),
                    sizes=[10] * end,
                    label=name,
                    workers=1,
                    shard_bytes=20,
                )

    (tmp_path / "5").write_bytes(b"broken")
    with pytest.raises(UserError, match="5: broken"):
        run("train")
    (tmp_path / "5").write_bytes(b"good")
    log.write_text("")
    run("train")
    assert log.read_text().split() == ["4", "5"]
    assert bytes(Shards(tmp_path / "set" / "train").payload(5)) == b"good"

    (tmp_path / "5").write_bytes(b"broken")
    with pytest.raises(UserError, match="5: broken"):
        run("a", "b", ends=[5, 6])
    (tmp_path / "0").write_bytes(b"another")  # of the split that was joined
    log.write_text("")
    run("a", ends=[5])
    assert log.read_text().split() == ["0", "1"]
    found = Shards(tmp_path / "set" / "a")
    assert [bytes(found.payload(n))[:7] for n in (0, 1, 4)] == [b"another", b"1" * 7, b"4" * 7]
    assert len(found) == 5


def noted(log: str, path: Path) -> Iterator[Example]:
    with open(log, "a") as file:
        file.write(f"{path.name}\n")
    if path.read_bytes() == b"broken":
        raise UserError(f"{path.name}: broken")
    yield Example(path.read_bytes(), {"id": path.name})


def test_after_a_fault_behind_little_work_nothing_is_left(tmp_path):
    with pytest.raises(UserError):
        write(tmp_path / "set", 1, partial(broken, 55))
    assert list(tmp_path.iterdir()) == []


def inode(path: Path) -> tuple[int, int]:
    """Which file it is, and when it was written."""
    return path.stat().st_ino, path.stat().st_mtime_ns


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from functools import partial
from pathlib import Path
import test_writing
if __name__ == "__main__":
    test_writing.write(Path({out!r}), {workers}, partial(test_writing.slowly, {log!r}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_preparation_goes_on_and_gives_the_same_bytes(tmp_path, undisturbed, workers):
    out, log = tmp_path / "set", tmp_path / "log"
    script = tmp_path / "script.py"
    tests = str(Path(__file__).parent)
    script.write_text(SCRIPT.format(tests=tests, out=str(out), log=str(log), workers=workers))
    parts = tmp_path / "set.tmp" / PARTS / "train"

    process = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE)
    while process.poll() is None and len(list(parts.glob("0*.npz"))) < 4:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stderr is not None
    process.stderr.read()  # ends with the last worker, which outlives its parent for a moment
    assert not out.exists()
    kept = {path.stem: inode(path.with_suffix(".bin")) for path in parts.glob("0*.npz")}
    assert len(kept) >= 4
    before = len(log.read_text().split())

    subprocess.run([sys.executable, script], check=True, timeout=60)
    assert hash_of(out) == undisturbed
    assert [p.name for p in tmp_path.glob("set*")] == ["set"]
    assert {stem: inode(out / "train" / f"{stem}.bin") for stem in kept} == kept
    again = len(log.read_text().split())
    first_parts = sum(end - first for first, end in cut(SIZES, SHARD)[:4])
    assert again <= before + 60 - first_parts  # finished shards were not read again


def test_workers_end_with_a_killed_parent(tmp_path):
    script, log = tmp_path / "script.py", tmp_path / "log"
    tests = str(Path(__file__).parent)
    out = str(tmp_path / "set")
    script.write_text(SCRIPT.format(tests=tests, out=out, log=str(log), workers=2))
    process = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE)
    while process.poll() is None and not log.exists():
        time.sleep(0.01)
    process.kill()
    assert process.stderr is not None
    begun = time.monotonic()
    process.stderr.read()  # ends when the last process that has the pipe is gone
    assert time.monotonic() - begun < 10
    process.wait()
    assert len(log.read_text().split()) < 60


@pytest.mark.slow
def test_a_killed_worker_is_told(tmp_path):
    with pytest.raises(UserError, match="a worker process was killed"):
        write(tmp_path / "set", 2, killed)
    assert list(tmp_path.iterdir()) == []


def test_finished_shards_of_other_input_are_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("d2v.data.shards.WORTH_KEEPING", 1)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(6):
        (source / f"{number}").write_bytes(b"a" * 10)

    def run(fail: bool) -> None:
        with written_whole(tmp_path / "set") as folder:
            write_split(
                folder / "train",
                [source / f"{number}" for number in range(6)],
                partial(from_file, fail),
                sizes=[10] * 6,
                label="train",
                workers=1,
                shard_bytes=10,
            )

    with pytest.raises(UserError):
        run(True)
    (source / "0").write_bytes(b"b" * 10)
    run(False)
    assert (tmp_path / "set" / "train" / "00000.bin").read_bytes() == b"b" * 10


def from_file(fail: bool, path: Path) -> Iterator[Example]:
    if fail and path.name == "5":
        raise UserError("stop")
    yield Example(path.read_bytes(), {"id": path.name})


def test_columns_must_stay_the_same(tmp_path):
    def uneven(number: int) -> Iterator[Example]:
        yield Example(b"", {"id": "a"} if number < 40 else {"id": "a", "label": 1})

    for shard_bytes in (SHARD, 10**9):
        with pytest.raises(ValueError, match="columns"), written_whole(tmp_path / "set") as folder:
            write_split(
                folder / "train",
                range(60),
                uneven,
                sizes=SIZES,
                label="train",
                workers=1,
                shard_bytes=shard_bytes,
            )


def large(number: int) -> Iterator[Example]:
    yield Example(number.to_bytes(2, "big") * 10_000, {"id": f"{number}", "label": number})


def test_memory_does_not_grow_with_the_payloads(tmp_path):
    def peak(count: int) -> int:
        tracemalloc.start()
        with written_whole(tmp_path / f"{count}") as folder:
            write_split(
                folder / "train",
                range(count),
                large,
                sizes=[20_000] * count,
                label="train",
                workers=1,
                shard_bytes=2_000_000,
            )
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(300)  # what is imported and cached on the way
    small, four_times = peak(300), peak(1200)
    assert four_times - small < 900 * 500  # of 18 MB more: columns and places only


def test_progress_is_plain_lines_without_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("d2v.data.writing.LOG_S", 0.0)
    write(tmp_path / "set")
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").split("\n") if line]
    assert "train: 60/60 items" in lines[-1]
    assert all(line.startswith("train: ") and "left" in line for line in lines)

"""Each check of a node says what does not work, and what to do about it."""

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from d2v.experiment import provenance
from d2v.jobs import node_checks
from d2v.util import locks


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(node_checks, "SEEN_S", 0.5)
    (tmp_path / node_checks.TOKEN).write_text("a")
    return tmp_path


def both(check: object) -> list[node_checks.Finding]:
    """The findings of two nodes that check at the same time."""
    found: dict[int, node_checks.Finding] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: check(i)}))  # type: ignore[operator]
        for i in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[0], found[1]]


def test_versions_are_compared_with_the_launchers() -> None:
    now = provenance.versions()
    assert node_checks.versions("n1", now).ok
    found = node_checks.versions("n1", now | {"torch": "1.0"})
    assert not found.ok
    assert found.said == f"torch {now['torch']} instead of 1.0"


def test_gpus_that_are_not_there_are_told_with_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    assert node_checks.gpus("n1", 0).ok
    found = node_checks.gpus("n1", 2)
    assert not found.ok
    assert found.said.startswith("2 GPUs requested, 0 usable: ")
    assert found.remedy.startswith("Install a PyTorch build")


def test_names_that_do_not_resolve_are_listed() -> None:
    assert node_checks.names("n1", ["127.0.0.1", "localhost"]).ok
    found = node_checks.names("n1", ["127.0.0.1", "no-such-node.invalid"])
    assert (found.ok, found.said) == (False, "cannot resolve no-such-node.invalid")


def test_a_folder_that_is_not_shared_is_noticed(folder: Path, tmp_path: Path) -> None:
    assert all(f.ok for f in both(lambda i: node_checks.shared(f"n{i}", folder, i, 2, "a")))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    found = node_checks.shared("n1", elsewhere, 1, 2, "a")
    assert not found.ok
    assert "token is not there" in found.said
    (elsewhere / node_checks.TOKEN).write_text(
        "a"
    )  # the launcher's folder, but not the other node's
    found = node_checks.shared("n1", elsewhere, 1, 2, "a")
    assert not found.ok
    assert "files of 1 of 2 nodes are missing" in found.said


def test_locks_that_are_not_respected_are_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_checks, "SEEN_S", 10.0)
    found = both(lambda i: node_checks.flock(f"n{i}", folder, i, 2))
    assert [f.ok for f in found] == [True, True]

    @contextmanager
    def careless(path: Path) -> Iterator[object]:
        yield path  # as on a file system mounted without flock

    for path in folder.glob("[lt]*"):
        path.unlink()
    monkeypatch.setattr(locks, "attempt", careless)
    found = both(lambda i: node_checks.flock(f"n{i}", folder, i, 2))
    assert [f.ok for f in found] == [False, False]
    assert "although the first node holds it" in found[1].said
    assert "-o flock" in found[1].remedy

    def refused(path: Path) -> object:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks, "attempt", refused)
    found = both(lambda i: node_checks.flock(f"n{i}", folder, i, 2))
    assert "No locks available" in found[0].said


def test_a_disk_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    assert node_checks.local_disk("n1", str(tmp_path / "scratch")).ok
    found = node_checks.local_disk("n1", "/proc/no")
    assert not found.ok
    assert "/proc/no" in found.said


@pytest.mark.parametrize(("skew", "right"), [(0.0, True), (90.0, True), (0.0, False)])
def test_the_network_and_the_clocks(
    skew: float, right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch.distributed as dist

    from d2v.training import distributed

    monkeypatch.setattr(distributed, "join", lambda _: SimpleNamespace(size=4, rank=1))
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(node_checks, "_all_reduce", lambda _: (0.5, right))
    monkeypatch.setattr(node_checks, "_skew", lambda _: skew)
    network, clock = node_checks._of_network("n1")
    assert network.ok == right
    assert "all-reduce over 4 processes with gloo: 0.50 GB/s" in network.said
    assert clock.ok == (skew < 1)


@pytest.mark.slow
def test_processes_that_do_not_meet_are_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_checks, "JOIN_S", 1.0)
    words = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "20001"}
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    begun = time.monotonic()
    [found] = node_checks._of_network("n1")
    assert not found.ok
    assert "cannot exchange data" in found.said
    assert "NCCL_SOCKET_IFNAME" in found.remedy
    assert time.monotonic() - begun < 15

"""The checks that a job makes on each of its nodes; every process writes what it found."""

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from d2v.experiment import provenance
from d2v.jobs import devices
from d2v.jobs.job import Job
from d2v.util import locks
from d2v.util.errors import UserError
from d2v.util.files import read_json, remove_file, write_json, write_text

if TYPE_CHECKING:
    from d2v.training.distributed import World

TOKEN, HERE = "token", "here.json"  # files of the launcher: the attempt, and its versions
SEEN_S = 10.0  # how long a file of another node may take to appear
JOIN_S = 15.0  # how long to wait for the other processes
SKEW_S = 1.0  # difference between clocks that is reported
CHECKS = (
    "versions", "GPUs", "names", "shared folder", "flock", "local disk", "network", "clock", "job",
)  # fmt: skip
SLOW_GB = {"gloo": 0.02, "nccl": 1.0}  # GB/s below which the network is reported as slow


@dataclass(frozen=True)
class Finding:
    """The result of one check on one node, and what to do if it failed."""

    check: str
    node: str
    ok: bool
    said: str
    remedy: str = ""


@dataclass(frozen=True)
class Probe(Job):
    """A job that checks its nodes."""

    wanted: int = 0  # GPUs per node

    def _work(self) -> None:
        from submitit import JobEnvironment

        here = JobEnvironment()
        node = os.environ.get("SLURMD_NODENAME") or here.hostname
        folder = self.folder / self.attempt
        found: list[Finding] = []
        if here.local_rank == 0:
            found += _of_node(self, folder, node, list(here.hostnames), here.node)
        found += _of_network(node)
        report = {"node": node, "findings": [asdict(one) for one in found]}
        write_json(folder / f"report-{here.global_rank}.json", report)


def _of_node(
    probe: Probe, folder: Path, node: str, nodes: list[str], index: int
) -> Iterator[Finding]:
    """What one process of a node can find out."""
    yield versions(node, read_json(folder / HERE) or {})
    yield gpus(node, probe.wanted)
    yield names(node, nodes)
    yield shared(node, folder, index, len(nodes), probe.attempt)
    yield flock(node, folder, index, len(nodes))
    if probe.stage is not None:
        yield local_disk(node, os.path.expandvars(probe.stage))


def versions(node: str, expected: dict[str, str]) -> Finding:
    """Compare the versions of Python, this package and libraries with the launcher's."""
    now = provenance.versions()
    some = ", ".join(f"{name} {now[name]}" for name in ("python", "torch", "d2v"))
    other = [f"{n} {now.get(n)} instead of {v}" for n, v in expected.items() if now.get(n) != v]
    if other:
        remedy = "use the same environment or image on all nodes (setup, container)"
        return Finding("versions", node, False, ", ".join(other), remedy)
    return Finding("versions", node, True, f"{some}, as on the machine of this command")


def gpus(node: str, wanted: int) -> Finding:
    """Whether the requested GPUs are usable."""
    import torch

    if not wanted:
        return Finding("GPUs", node, True, "none requested")
    try:
        devices.check(wanted)
    except UserError as error:
        said, _, remedy = str(error).removeprefix(f"{node}: ").partition(". ")
        return Finding("GPUs", node, False, said, remedy)
    return Finding("GPUs", node, True, f"{wanted} x {torch.cuda.get_device_name()}")


def names(node: str, nodes: list[str]) -> Finding:
    """Whether the names of all nodes resolve here."""
    lost = []
    for name in nodes:
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            lost.append(name)
    if lost:
        remedy = "ask the administrators for DNS or /etc/hosts entries of the nodes"
        return Finding("names", node, False, f"cannot resolve {', '.join(lost)}", remedy)
    return Finding("names", node, True, f"resolves {', '.join(nodes)}")


def shared(node: str, folder: Path, index: int, count: int, token: str) -> Finding:
    """Whether all nodes see the files that the launcher and the other nodes write."""
    remedy = "put the checkout, work/ and results/ on a file system that all nodes mount"
    path = folder / TOKEN
    if not path.exists() or path.read_text() != token:
        return Finding("shared folder", node, False, f"{path.resolve()} is not there", remedy)
    write_text(folder / f"node-{index}", node)
    started = time.monotonic()
    if not _until(lambda: _listed(folder, "node-") == count, SEEN_S):
        seen = _listed(folder, "node-")
        said = f"files of {count - seen} of {count} nodes are missing after {SEEN_S:.0f} s"
        return Finding("shared folder", node, False, f"{folder}: {said}", remedy)
    seconds = time.monotonic() - started
    said = f"files of all {count} nodes seen after {seconds:.1f} s"
    return Finding("shared folder", node, True, said)


def flock(node: str, folder: Path, index: int, count: int) -> Finding:
    """Whether a lock that the first node holds is respected by the others."""
    path, ready = folder / "lock", folder / "locked"
    remedy = "mount the file system with flock (Lustre: -o flock) or use another one (NFS)"
    try:
        if index == 0:
            with locks.attempt(path):
                write_text(ready, node)
                with locks.attempt(path) as second:
                    works = second is None
                _until(lambda: _listed(folder, "tried-") == count - 1, SEEN_S)
        else:
            if not _until(lambda: _listed(folder, ready.name) == 1, SEEN_S):
                said = "the first node reported no lock"
                return Finding("flock", node, False, said, remedy)
            with locks.attempt(path) as mine:
                works = mine is None
            write_text(folder / f"tried-{index}", node)
    except OSError as error:
        return Finding("flock", node, False, f"{path}: {error.strerror}", remedy)
    held = "its own second lock" if index == 0 else "a lock although the first node holds it"
    if not works:
        return Finding("flock", node, False, f"{path}: got {held}", remedy)
    return Finding("flock", node, True, "locks are respected across nodes")


def local_disk(node: str, where: str) -> Finding:
    """Whether data can be staged to the node's own disk."""
    remedy = "set stage in params/cluster.yaml to a writable folder of the node, or to null"
    try:
        Path(where).mkdir(parents=True, exist_ok=True)
        trial = Path(where) / f".d2v-{os.getpid()}"
        write_text(trial, "x")
        remove_file(trial)
        free = shutil.disk_usage(where).free
    except OSError as error:
        return Finding("local disk", node, False, f"{where}: {error.strerror}", remedy)
    return Finding("local disk", node, True, f"{where}: {free / 1e9:.0f} GB free")


def _of_network(node: str) -> Iterator[Finding]:
    """Sum over all processes: whether that works, and how fast; and the clocks afterwards."""
    import torch.distributed as dist

    from d2v.training import distributed

    remedy = (
        "choose the network with `export NCCL_SOCKET_IFNAME=...` (GLOO_SOCKET_IFNAME without GPUs)"
        " in setup, and allow connections between the nodes"
    )
    try:
        world = distributed.join(timedelta(seconds=JOIN_S))
        if world.size == 1:
            yield Finding("network", node, True, "one process, nothing to exchange")
            return
        backend = dist.get_backend()
        speed, right = _all_reduce(world)
        skew = _skew(world)
    except Exception as error:  # PyTorch raises several kinds
        said = f"the processes cannot exchange data ({str(error).strip().splitlines()[0][:200]})"
        yield Finding("network", node, False, said, remedy)
        return
    finally:
        distributed.leave()
    how = f"all-reduce over {world.size} processes with {backend}: {speed:.2f} GB/s"
    if not right:
        yield Finding("network", node, False, f"{how}, with a wrong sum", "exclude the node")
    else:
        yield Finding("network", node, speed >= SLOW_GB[backend], how, f"slow: {remedy}")
    said = f"{1000 * skew:.0f} ms from that of the first process"
    yield Finding("clock", node, skew < SKEW_S, said, "synchronise the clocks (chrony, NTP)")


def _all_reduce(world: "World") -> tuple[float, bool]:
    """Bus bandwidth in GB/s (the best of three), and whether the sum is right."""
    import torch
    import torch.distributed as dist

    gpu = world.device.type == "cuda"
    x = torch.full(((64 if gpu else 4) * 2**20,), 1.0 + world.rank, device=world.device)
    dist.all_reduce(x)
    right = bool((x == world.size * (world.size + 1) / 2).all())
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        dist.all_reduce(x)
        if gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * (world.size - 1) / world.size * x.nbytes / best / 1e9, right


def _skew(world: "World") -> float:
    """Seconds by which this clock differs from the first process's, right after a barrier."""
    import torch
    import torch.distributed as dist

    dist.barrier()
    now = torch.tensor([time.time()], dtype=torch.float64, device=world.device)
    first = now.clone()
    dist.broadcast(first, src=0)
    return abs((now - first).item())


def _listed(folder: Path, prefix: str) -> int:
    """Files of a name; a listing, because network file systems cache what does not exist."""
    return sum(name.startswith(prefix) for name in os.listdir(folder))


def _until(what: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True

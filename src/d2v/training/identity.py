"""The identity of a run: the parameters that define its result."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from d2v.params import influence

# where and in which portions a run is computed: a run can be resumed with other values of these
PORTIONS = {
    "micro_batch",
    "log_every",
    "checkpoint_every",
    "checkpoint_minutes",
    "workers",
    "cpus",
    "compile",
    "cuda_graph",
    "recompute",
    "shard",
    "rebound",
    "probe_every",
}
# parameters added later, each with the value that matches the earlier behaviour, so that a run
# started without them can be resumed
LATER = {
    "missing_gradients": "skip",
    "eps_before_correction": False,
    "warmup_reaches_peak": False,
    "xavier": False,
    **influence.LATER,
}


def identity(defining: Mapping[str, Any]) -> str:
    """SHA-256 of the parameters that define a result.

    Parameters in PORTIONS are left out, and those in LATER where they keep the earlier behaviour.
    """

    def strip(value: Any) -> Any:
        if isinstance(value, Mapping):
            kept = {k: v for k, v in value.items() if k not in PORTIONS}
            return {k: strip(v) for k, v in kept.items() if k not in LATER or v != LATER[k]}
        return value

    return hashlib.sha256(json.dumps(strip(defining), sort_keys=True).encode()).hexdigest()

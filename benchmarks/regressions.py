"""What got slower, or takes more memory, since an earlier run of the benchmarks.

A figure counts as worse if it lies beyond its noise: at least NOISE, and twice what the repetitions
of either run spread. Times of steps are compared as fractions of the matrix-product rate of their
own run, so that another machine, or a busy one, is not taken for slower code; other times and rates
are scaled by the quotient of these rates. Memory has to grow by MEMORY.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

NOISE, MEMORY = 0.15, 0.05
Found = dict[str, Any]


class Change(NamedTuple):
    """A figure that became worse: by which factor, and how much would have been noise."""

    name: str
    before: float
    after: float
    factor: float
    allowed: float

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.before:.4g} -> {self.after:.4g}"
            f" ({self.factor:.2f}x worse, noise up to {self.allowed:.2f}x)"
        )


def worse(before: Found, after: Found) -> list[Change]:
    """Figures of both runs that are worse in the second one."""
    return [change for change in _changes(before, after) if change.factor > change.allowed]


def _changes(before: Found, after: Found) -> Iterator[Change]:
    machine = _machine(before, after)
    for kind, old, new in _both(before, after, "step"):
        spread = 1 + max(NOISE, 2 * old.get("spread", 0.0), 2 * new.get("spread", 0.0))
        name = f"step, {kind}, fraction of matrix products"
        rates = (old["fraction_of_gemm"], new["fraction_of_gemm"])
        yield Change(name, *rates, rates[0] / rates[1], spread)
        if "peak_mib" in old and "peak_mib" in new:
            mib = (old["peak_mib"], new["peak_mib"])
            yield Change(f"step, {kind}, MiB", *mib, mib[1] / mib[0], 1 + MEMORY)
    for kind, old, new in _both(before, after, "loaders"):
        spread = 1 + max(NOISE, 2 * old.get("spread", 0.0), 2 * new.get("spread", 0.0))
        rates = (old["per_s_and_core"], new["per_s_and_core"])
        yield Change(f"loader, {kind}, a second", *rates, rates[0] / rates[1] / machine, spread)
    for part in ("start", "dag"):
        for name, old, new in _both(before, after, part):
            yield Change(f"{name}, s", old, new, new / old / machine, 1 + 2 * NOISE)
    for old, new in zip(_rows(before), _rows(after), strict=False):
        if old["beam"] == new["beam"]:
            times = (old["cpu"], new["cpu"])
            name = f"decoding, beam {old['beam']}, CPU time"
            yield Change(name, *times, times[1] / times[0] / machine, 1 + NOISE)


def _machine(before: Found, after: Found) -> float:
    """How much slower the machine of the second run multiplied matrices; 1 if not known."""
    if "gemm_gflops" in before and "gemm_gflops" in after:
        return float(before["gemm_gflops"] / after["gemm_gflops"])
    return 1.0


def _both(before: Found, after: Found, part: str) -> Iterator[tuple[str, Any, Any]]:
    old, new = before.get(part, {}), after.get(part, {})
    for name in old:
        if name in new:
            yield name, old[name], new[name]


def _rows(found: Found) -> list[Found]:
    rows: list[Found] = found.get("decoding", {}).get("rows", [])
    return rows

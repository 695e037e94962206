"""Print how far the project is from golden cases: python tests/golden/differences.py [DIR].

One line for each kind of quantity, over all cases: the largest absolute difference, relative for
losses and gradient norms. "round-off" are elements that get the wider tolerance (see compare.py).
"""

import sys
from collections import defaultdict
from pathlib import Path

import compare
import torch
from replay import CASES, Case, replay

RELATIVE = ("loss", "gradients")


def differences(case: Case) -> dict[str, float]:
    """Largest difference of each kind in one case."""
    record, found = replay(case), defaultdict(float)
    for name, reference in compare.expected(case).items():
        group, value = compare.group_of(name), torch.as_tensor(record[name]).double()
        reference = torch.as_tensor(reference).double()
        away = (value - reference).abs()
        if group in RELATIVE and name.count(".") == 1 and "sample_size" not in name:
            away = away / reference.abs()
        wide = torch.zeros_like(away, dtype=torch.bool)
        if name.endswith(("k_proj.bias", "key.bias")) and group.startswith("after"):
            wide[:] = True
        elif group.startswith("after"):
            key = name.split(".", 1)[1].removeprefix("after.")
            wide |= record.get(f"noise.{key}", wide)
        for part, label in ((~wide, group), (wide, f"{group}, round-off")):
            if part.any():
                found[label] = max(found[label], away[part].max().item())
    noise = torch.cat([v.flatten() for k, v in record.items() if k.startswith("noise.student")])
    found["share of round-off elements"] = noise.double().mean().item()
    return found


def main(folder: Path) -> None:
    """Largest over the cases of each of the four codes."""
    largest: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    families = {}
    for path in sorted(folder.glob("*/trace.json")):
        case = Case(path.parent)
        families[case.family] = None
        for label, away in differences(case).items():
            largest[label][case.family] = max(largest[label][case.family], away)
    print(f"{'':38s}" + "".join(f"{family:>17s}" for family in families))
    for label in sorted(largest):
        cells = (f"{largest[label][f]:.1e}" if f in largest[label] else "-" for f in families)
        print(f"{label:38s}" + "".join(f"{cell:>17s}" for cell in cells))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else CASES)

"""Where the time of a step goes, ours beside the peer's, as SVG."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

COLOURS = ["#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377"]  # Tol, bright


def draw(found: dict[str, Any], path: Path) -> None:
    """Stacked bars, one a side and modality; the matrix-product floor as a line across each."""
    rows = found["step"]
    parts = [part for part in next(iter(rows.values()))["split"] if part != "data"]
    plt.rcParams["svg.hashsalt"] = "d2v"  # the same figures give the same bytes
    figure, axes = plt.subplots(figsize=(7, 4))
    names, left = [], 0
    for kind, row in rows.items():
        floor = row["gflop"] / row["gemm_gflops"]
        for side, split in (("ours", row["split"]), ("peer", row.get("peer_split"))):
            if split is None:
                continue
            bottom = 0.0
            for part, colour in zip(parts, COLOURS, strict=True):
                label = part if left == 0 else None
                axes.bar(left, split[part], bottom=bottom, color=colour, label=label)
                bottom += split[part]
            first = "floor: matrix products alone" if left == 0 else None
            axes.hlines(floor, left - 0.45, left + 0.45, "black", "dashed", label=first)
            names.append(f"{kind}\n{side}")
            left += 1
    axes.set_xticks(range(left), names)
    axes.set_ylabel("seconds a step")
    axes.set_title(f"{found['device']}, {found['threads']} threads, float32")
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)

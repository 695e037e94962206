"""torch.compile for the parts that make up every step; eager execution is the reference.

Each part is compiled separately, so that random draws on the host between parts (skipped blocks,
dropped paths) break no graph. Equal blocks share one compilation. The first batch of another shape
costs one more compilation, after which PyTorch compiles for any shape.
"""

from typing import Any

import torch
from torch import nn

from d2v.model.data2vec import Average
from d2v.model.decoder import Decoder
from d2v.model.encoders import Encoder
from d2v.model.encoders.speech import FrontEnd
from d2v.model.transformer import Block

PARTS = (Encoder, FrontEnd, Block, Average, Decoder)
LIMIT = 64  # compilations per function; PyTorch's default, 8, is too low for all kinds of parts


def compile_parts(task: nn.Module, backend: str = "inductor") -> None:
    """Compile the parts of a task in place; its parameters keep their names."""
    torch._dynamo.config.recompile_limit = LIMIT
    for module in task.modules():
        if isinstance(module, PARTS):
            module.compile(backend=backend)


def counts() -> dict[str, int]:
    """Number of compiled graphs and of graph breaks in this process so far."""
    from torch._dynamo.utils import counters

    found: Any = counters
    return {
        "graphs": found["stats"]["unique_graphs"],
        "breaks": sum(found["graph_break"].values()),
    }


class Watch:
    """Reports compilations that are new since the last report."""

    def __init__(self) -> None:
        self.told = {"graphs": 0, "breaks": 0}

    def news(self) -> str | None:
        """One sentence about new compilations, or None if there are none since the last call."""
        now = counts()
        if now == self.told:
            return None
        new, self.told = now["graphs"] - self.told["graphs"], now
        return (
            f"compiled: {new} more graphs, {now['graphs']} in total, {now['breaks']} graph breaks"
        )

"""torch.compile of the parts of which every step is made; eager they are the reference.

Each part is compiled for itself: what is drawn on the host between them (skipped blocks, dropped
paths) breaks no graph, equal blocks share one compilation, and a batch of another shape costs one
more, after which PyTorch compiles for any shape.
"""

from typing import Any

import torch
from torch import nn

from d2v.model.data2vec import Average
from d2v.model.encoders import Encoder
from d2v.model.encoders.speech import FrontEnd
from d2v.model.transformer import Block

PARTS = (Encoder, FrontEnd, Block, Average)
LIMIT = 64  # compilations of one function; PyTorch's 8 are fewer than these parts have kinds


def compile_parts(task: nn.Module, backend: str = "inductor") -> None:
    """Compile the parts of a task in place; parameters keep their names."""
    torch._dynamo.config.recompile_limit = LIMIT
    for module in task.modules():
        if isinstance(module, PARTS):
            module.compile(backend=backend)


def counts() -> dict[str, int]:
    """Compilations of this process so far, and places where a graph broke."""
    from torch._dynamo.utils import counters

    found: Any = counters
    return {
        "graphs": found["stats"]["unique_graphs"],
        "breaks": sum(found["graph_break"].values()),
    }


class Watch:
    """Says how much was compiled, when there is something new."""

    def __init__(self) -> None:
        self.told = {"graphs": 0, "breaks": 0}

    def news(self) -> str | None:
        """One sentence, or None if nothing was compiled since the last one."""
        now = counts()
        if now == self.told:
            return None
        new, self.told = now["graphs"] - self.told["graphs"], now
        return f"compiled: {new} graphs more, {now['graphs']} in all, {now['breaks']} graph breaks"

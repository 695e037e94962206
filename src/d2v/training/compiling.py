"""torch.compile for the parts that make up every step; eager execution is the reference.

Each part is compiled separately, so that random draws on the host between parts (skipped blocks,
dropped paths) break no graph. Equal blocks share one compilation. The first batch of another shape
costs one more compilation, after which PyTorch compiles for any shape.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from d2v.model.data2vec import Average
from d2v.model.decoder import Decoder
from d2v.model.encoders import Encoder
from d2v.model.encoders.speech import FrontEnd
from d2v.model.transformer import Block

PARTS = (Encoder, FrontEnd, Block, Average, Decoder)
SLOW_ATTENTION = (
    "warning: PyTorch has no fused attention kernel for this model on this GPU and uses its plain"
    " one, which is several times slower"
)
LENGTH = 256  # positions for which attention is checked
LIMIT = 64  # compilations per function; PyTorch's default, 8, is too low for all kinds of parts


def backend_of(compiled: bool | str, device: torch.device) -> str | None:
    """The compiler that params.Train.compile asks for on a device, or None."""
    if isinstance(compiled, str):
        return compiled
    return "inductor" if compiled and device.type == "cuda" else None


def compile_parts(
    task: nn.Module,
    backend: Any = "inductor",
    lengths_vary: bool = False,
    cache: Path | None = None,
) -> None:
    """Compile the parts of a task in place; its parameters keep their names.

    With `lengths_vary` the first compilation is for any shape already. `cache` is the folder of
    inductor's compiled code, unless the environment names one.
    """
    if cache is not None and backend == "inductor":
        _keep_code_in(cache)
    torch._dynamo.config.recompile_limit = LIMIT
    # else lengths that happen to be equal in the first batch are taken to be equal in all
    torch.fx.experimental._config.use_duck_shape = not lengths_vary
    for module in task.modules():
        if isinstance(module, PARTS):
            module.compile(backend=backend, dynamic=True if lengths_vary else None)


def _keep_code_in(folder: Path) -> None:
    """Choose the folder of inductor's compiled code, unless the environment names another.

    When PyTorch imports its compiler, it sets the variable to its default, a folder that all
    processes of a user share.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    default = default_cache_dir()
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR", default) == default:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder.absolute())


def counts() -> dict[str, int]:
    """Number of compiled graphs and of graph breaks in this process so far."""
    from torch._dynamo.utils import counters

    found: Any = counters
    return {
        "graphs": found["stats"]["unique_graphs"],
        "breaks": sum(found["graph_break"].values()),
    }


class Watch:
    """Reports new compilations once a step went by without any."""

    def __init__(self) -> None:
        self.told = self.before = counts()

    def news(self) -> str | None:
        """One sentence about new compilations, after the first step without any; else None.

        Call this after each step.
        """
        from torch._dynamo.utils import calculate_time_spent

        now = counts()
        over, self.before = now == self.before, now
        if not over or now == self.told:
            return None
        new, self.told = now["graphs"] - self.told["graphs"], now
        seconds = calculate_time_spent().get("entire_frame_compile", 0.0)
        return (
            f"compiled {new} graphs, {now['graphs']} in total, with {now['breaks']} graph breaks,"
            f" in {seconds:.0f} s so far"
        )


def slow_attention(task: Any, device: torch.device, reduced: bool) -> list[str]:
    """A warning if attention has no fused kernel on this GPU; `reduced`: computed in bfloat16."""
    dtype = torch.bfloat16 if reduced else torch.float32
    if device.type != "cuda" or not task.backbone().takes_plain_kernel(LENGTH, dtype):
        return []
    return [SLOW_ATTENTION]

"""Models as programs of torch.export, which run without d2v: `d2v convert --to torch-export`."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d2v.interop.content import Content
from d2v.interop.module import Model, filled
from d2v.params import TokenInput, WaveInput
from d2v.util.outputs import new_folder

PROGRAM = "model.pt2"
DESCRIPTION = "inputs.json"
EXAMPLES = 2  # with one example, torch.export would fix the size of the batch


class Exported(nn.Module):
    """The student and its head in evaluation mode, with one argument for each input tensor."""

    def __init__(self, model: Model, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """`hidden` (B, P + T, D) of the last block; `padding` (B, T) and `logits` if there are any.

        No example is influenced by its padding (Model.forward with `alone`).
        """
        batch = dict(zip(self.names, inputs, strict=True))
        hidden, logits, padding = self.model(batch, alone=True)
        found = {"hidden": hidden[-1], "padding": padding, "logits": logits}
        return {name: tensor for name, tensor in found.items() if tensor is not None}


def write(content: Content, out: Path) -> list[str]:
    """Write the folder of an exported encoder: the program, and what its inputs are.

    Batches of any size can be computed, and examples of any length where they have one. Returns
    notes on parts that were left out. Raises UserError if the folder exists.
    """
    model = filled(content)
    batch, dynamic = _example(model)
    module = Exported(model, list(batch)).eval()
    with torch.no_grad():
        program = torch.export.export(
            module, tuple(batch.values()), dynamic_shapes=(tuple(dynamic.values()),)
        )
    with new_folder(out) as part:
        torch.export.save(program, part / PROGRAM)
        described = json.dumps(_description(content, batch, dynamic), indent=1)
        (part / DESCRIPTION).write_text(described + "\n", encoding="utf-8")
    left = (("teacher", model.teacher), ("regression head", model.regression),
            ("decoder", model.decoder))  # fmt: skip
    return [f"the {name} is left out" for name, module in left if module is not None]


def _example(model: Model) -> tuple[dict[str, Tensor], dict[str, dict[int, Any]]]:
    """A batch to follow through the model, and the dimensions that may have any size."""
    free = torch.export.Dim.DYNAMIC
    how, encoder = model.inputs, model.student.encoder
    if isinstance(how, WaveInput):
        waves = torch.randn(EXAMPLES, how.rate)
        samples = torch.tensor([how.rate, how.rate * 3 // 4])
        return {"waves": waves, "samples": samples}, {
            "waves": {0: free, 1: free},
            "samples": {0: free},
        }
    if isinstance(how, TokenInput):
        length = min(16, how.max_tokens)
        tokens = torch.full((EXAMPLES, length), 4)
        tokens[0, length // 2 :] = 1  # padding
        return {"tokens": tokens}, {"tokens": {0: free, 1: free}}
    images = torch.randn(EXAMPLES, *encoder.example(0)["images"].shape[1:])
    return {"images": images}, {"images": {0: free}}


def _description(
    content: Content, batch: dict[str, Tensor], dynamic: dict[str, dict[int, Any]]
) -> dict[str, Any]:
    """Names, types and shapes of the inputs, in order (null: any size), and their preparation."""
    inputs = [
        {
            "name": name,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": [None if i in dynamic[name] else size for i, size in enumerate(tensor.shape)],
        }
        for name, tensor in batch.items()
    ]
    return {"inputs": inputs, "preparation": content.inputs.model_dump(mode="json")}

"""`d2v.load`: a checkpoint of any known format as modules that can be used."""

from pathlib import Path

import torch

from d2v.interop.module import Model, filled
from d2v.interop.reading import read


def load(path: str | Path, device: str | torch.device = "cpu") -> Model:
    """The modules of a checkpoint with their weights, in evaluation mode.

    `path` is a folder of d2v (converted, or a run's checkpoint), a folder of Hugging Face, or a
    file of fairseq or data2vec_vision. The result has `student`, `head`, `regression`, `teacher`
    (None where the checkpoint has none), `params`, `inputs`, `letters`, `classes`, `tokenizer`.
    Raises UserError, in one sentence, for a file that is not known, not whole, or does not fit.
    """
    model = filled(read(path))
    return model if str(device) == "cpu" else model.to(device)

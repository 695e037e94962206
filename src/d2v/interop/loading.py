"""`d2v.load`: load a checkpoint of any known format as ready-to-use modules."""

from pathlib import Path

import torch

from d2v.interop.module import Model, filled
from d2v.interop.reading import read


def load(path: str | Path, device: str | torch.device = "cpu") -> Model:
    """Load the modules of a checkpoint with their weights, in evaluation mode.

    `path` is a d2v folder (converted, or a run's checkpoint), a Hugging Face folder, or a file of
    fairseq or data2vec_vision. The result has the attributes `student`, `head`, `regression` and
    `teacher` (each but `student` is None if the checkpoint has none), `params`, `inputs`,
    `letters`, `classes` and `tokenizer`. Raises UserError with a one-sentence message for a file
    whose format is unknown, that is incomplete, or whose tensors do not fit.
    """
    model = filled(read(path))
    return model if str(device) == "cpu" else model.to(device)

"""`d2v.load`: load a checkpoint of any known format as ready-to-use modules."""

from pathlib import Path

import torch

from d2v.interop import hub
from d2v.interop.module import Model, filled
from d2v.interop.reading import read
from d2v.util.extras import named


def load(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Model:
    """Load the modules of a checkpoint with their weights, in evaluation mode.

    `path` is a d2v folder (converted, or a run's checkpoint), a Hugging Face folder, a file of
    fairseq or data2vec_vision, or the name of a model on the Hugging Face hub, organisation/name
    (as text, if no such file or folder exists), which is kept in huggingface_hub's cache.
    Without a device, a GPU is used if there is one; without a dtype, the weights are float32. The
    result has the attributes `student`, `head`, `regression` and `teacher` (each but `student` is
    None if the checkpoint has none), `params`, `inputs`, `letters`, `classes` and `tokenizer`.
    Raises UserError with a one-sentence message for a file whose format is unknown, that is
    incomplete, or whose tensors do not fit.
    """
    with named():
        if isinstance(path, str) and hub.is_name(path) and not Path(path).exists():
            path = hub.cached(path)
        model = filled(read(path))
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cpu" and dtype in (None, torch.float32):
        return model  # its weights stay mapped from the file
    return model.to(place, dtype)

"""K-means units of the input, fitted before a pre-training that predicts them (HuBERT)."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from d2v.model.encoders.spectra import Units
from d2v.training.loader import Examples
from d2v.util.errors import UserError
from d2v.util.files import write_bytes

EXAMPLES = 2000  # utterances, evenly spaced in the split, to whose frames centres are fitted
BATCH, STARTS, PATIENCE = 10_000, 20, 100  # as HuBERT's learn_kmeans.py


@torch.inference_mode()
def fit(units: Units, dataset: Examples, seed: int) -> dict[str, Tensor]:
    """Centres, means and deviations of the features, as the state of `units`.

    Features are standardised first: k-means would otherwise follow the few with large values.
    Raises UserError if there are fewer distinct frames than centres.
    """
    from sklearn.cluster import MiniBatchKMeans

    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(EXAMPLES, len(dataset)), dtype=int))
    parts = [units.mfcc(dataset.collate([dataset[0, int(i)]]))[0] for i in chosen]
    frames = torch.cat(parts).double()
    if len(frames.unique(dim=0)) < units.outputs:
        raise UserError(
            f"target.units: {units.outputs} centres, but the split has fewer different frames;"
            " lower it"
        )
    mean, std = frames.mean(0), frames.std(0).clamp(min=1e-3)
    found = MiniBatchKMeans(
        units.outputs,
        batch_size=BATCH,
        n_init=STARTS,
        max_no_improvement=PATIENCE,
        reassignment_ratio=0.0,
        random_state=seed,
    ).fit(((frames - mean) / std).numpy())
    centres = torch.from_numpy(found.cluster_centers_)
    return {"centres": centres.float(), "mean": mean.float(), "std": std.float()}


def write(state: dict[str, Tensor], path: Path) -> None:
    """Write the state of units to a safetensors file."""
    write_bytes(path, save(state))


def read(path: Path) -> dict[str, Tensor]:
    """State of units; raises UserError if the file is missing or incomplete."""
    try:
        return load(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the workflow, or `d2v units`") from None
    except Exception as error:
        raise UserError(f"{path}: not a complete safetensors file ({error})") from None

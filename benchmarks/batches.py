"""The recipes' Base models, and synthetic batches as their data sets would collate them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2v import params
from d2v.data.examples import hiding, removing
from d2v.model.exact_masks import copied, removed_masks
from d2v.model.frames import frame_count
from d2v.model.masking import MASKED, RANDOM, block_masks, span_masks, token_masks

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("speech", "vision", "text")
SIZES = {"speech": 160_000, "vision": 224, "text": 512}  # samples (10 s), pixels a side, tokens
EXAMPLES = {"speech": 1, "vision": 2, "text": 2}  # of a step on a CPU
SPECIAL = 4  # ids before ordinary tokens
# small enough for a test; the layers are those of the recipes
TINY_SIZES = {"speech": 8_000, "vision": 32, "text": 16}
TINY_BACKBONE = {"dim": 32, "depth": 2, "heads": 2, "ffn_dim": 64}
TINY: dict[str, dict[str, Any]] = {
    "speech": {
        "encoder": {"conv_layers": [[16, 10, 5], [16, 3, 2], [16, 3, 2], [16, 2, 2]]},
    },
    "vision": {
        "encoder": {"image_size": 32, "patch_size": 8},
        "backbone": {"position_bias": {"kind": "shared_2d", "window": [4, 4]}},
        "mask": {"patches": 9, "min_block": 4, "max_block": 16},
    },
    "text": {
        "encoder": {"vocab_size": 100, "max_positions": 32},
        "view": {"max_tokens": 32},
    },
}
# what differs in small from TINY for data2vec 2.0
TINY2: dict[str, dict[str, Any]] = {
    "speech": {"decoder": {"dim": 16}, "copies": 2},
    "vision": {
        "backbone": {"position_bias": {"kind": "none", "window": None}, "prenet_depth": 0},
        "decoder": {"dim": 16},
        "copies": 2,
        "mask": {"kind": "random", "prob": 0.75},
    },
    "text": {"decoder": {"dim": 16}, "copies": 2},
}
FILES = {1: "paper.yaml", 2: "paper2.yaml"}


def recipe(kind: str, tiny: bool = False, version: int = 1) -> params.Pretrain:
    """The pre-training of the Base model as the paper's parameter file has it, or in small.

    `version` is that of data2vec: params/paper.yaml or params/paper2.yaml.
    """
    p = params.load(ROOT / "params" / FILES[version]).pretrain[f"{kind}-base"]
    if not tiny:
        return p
    changes = over({"backbone": TINY_BACKBONE, "target": {"top_k": 2}}, TINY[kind])
    whole = p.model_dump()
    if version == 2:
        changes.pop("mask", None)
        changes = over(changes, TINY2[kind])
        whole["mask"] = {} if "mask" in changes else whole["mask"]
    return params.Pretrain.model_validate(over(whole, changes))


def without_chance(p: params.Pretrain) -> params.Pretrain:
    """The same without dropout, skipped blocks and dropped paths, so that losses can be equal."""
    off = {"dropout": 0.0, "attention_dropout": 0.0, "layer_drop": 0.0, "drop_path": 0.0}
    changes: dict[str, Any] = {"backbone": {**off, "activation_dropout": 0.0}}
    if p.decoder is not None:
        changes["decoder"] = {"dropout": 0.0, "noise": None}
    if not isinstance(p.encoder, params.PatchEncoder):
        changes["encoder"] = {"dropout": 0.0}
    return params.Pretrain.model_validate(over(p.model_dump(), changes))


def batch(p: params.Pretrain, size: int, examples: int, step: int = 0) -> dict[str, Tensor]:
    """A random batch of `examples`, each of `size` (SIZES), with the recipe's masks."""
    keys = [(1, step, index) for index in range(examples)]
    draw = np.random.default_rng(step)
    if p.decoder is not None:
        return _removed(p, size, copied(keys, p.copies), draw)
    if isinstance(p.encoder, params.WaveEncoder) and isinstance(p.mask, params.SpanMask):
        waves = draw.standard_normal((examples, size), np.float32)
        frames = np.full(examples, frame_count(size, p.encoder.conv_layers))
        return _tensors(waves=waves) | hiding(span_masks(p.mask, frames, keys))
    if isinstance(p.encoder, params.PatchEncoder) and isinstance(p.mask, params.BlockMask):
        images = draw.standard_normal((examples, p.encoder.channels, size, size), np.float32)
        return _tensors(images=images) | hiding(block_masks(p.mask, p.encoder.grid, keys))
    assert isinstance(p.encoder, params.TokenEncoder)
    assert isinstance(p.mask, params.TokenMask)
    last = p.encoder.vocab_size - 1  # the mask token
    tokens, other = draw.integers(SPECIAL, last, (2, examples, size))
    _, kinds = token_masks(p.mask, [size] * examples, keys)
    masked = np.where(kinds == MASKED, last, np.where(kinds == RANDOM, other, tokens))
    return _tensors(tokens=tokens, masked_tokens=masked) | hiding(kinds == MASKED)


def _removed(
    p: params.Pretrain, size: int, keys: list[tuple[int, ...]], draw: np.random.Generator
) -> dict[str, Tensor]:
    """A batch of data2vec 2.0, whose `keys` are those of all copies."""
    examples = len(keys) // p.copies
    if isinstance(p.encoder, params.WaveEncoder):
        length = frame_count(size, p.encoder.conv_layers)
        given = _tensors(waves=draw.standard_normal((examples, size), np.float32))
    elif isinstance(p.encoder, params.PatchEncoder):
        length, shape = p.encoder.grid**2, (examples, p.encoder.channels, size, size)
        given = _tensors(images=draw.standard_normal(shape, np.float32))
    else:
        length = size
        given = _tensors(tokens=draw.integers(SPECIAL, p.encoder.vocab_size, (examples, size)))
    return given | removing(removed_masks(p.mask, [length] * len(keys), keys))


def _tensors(**arrays: np.ndarray) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `changes` replaced, in nested dictionaries, too."""
    merged = dict(base)
    for key, value in changes.items():
        old = base.get(key)
        deeper = isinstance(value, dict) and isinstance(old, dict)
        merged[key] = over(old, value) if deeper else value  # type: ignore[arg-type]
    return merged

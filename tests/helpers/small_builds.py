"""Parameters that fit the small sets, and data sets built with them."""

from pathlib import Path
from typing import Any

import torch

from d2v import params
from d2v.data import build_dataset
from d2v.data.examples import Examples

CONVS = [[8, 10, 5], [8, 3, 2], [8, 3, 2], [8, 3, 2], [8, 3, 2], [8, 2, 2], [8, 2, 2]]
PATCHES = params.PatchEncoder(kind="vision", image_size=24, patch_size=6)
FRAMES = params.WaveEncoder(kind="speech", conv_layers=CONVS)
TOKENS = params.TokenEncoder(kind="text", vocab_size=70, max_positions=64)
IMAGE_VIEW = params.ImageAugment(kind="vision")
WAVE_VIEW = params.WaveAugment(kind="speech")
TEXT_VIEW = params.TokenAugment(kind="text", max_tokens=40)
BLOCKS = params.BlockMask(kind="block", patches=10, min_block=2)
SPANS = params.SpanMask(kind="span", prob=0.65, length=3)
CHOSEN = params.TokenMask(kind="token", prob=0.4, random_prob=0.2, keep_prob=0.2)
TWO = params.Classify(kind="classify", classes=2, pool="mean")
NUMBER = params.Regress(kind="regress", pool="first")
CTC = params.CTC(kind="ctc")
AUGMENTED = params.ImageAugment(
    kind="vision", shift=2, random_resized_crop=[0.3, 1.0], flip=True, color_jitter=0.4
)


def build(folder: Path, view: params.View, encoder: params.Encoder, **options: Any) -> Examples:
    chosen: dict[str, Any] = {"split": "train", "seed": 3, "train": True} | options
    return build_dataset(folder, view=view, encoder=encoder, **chosen)


def batch_of(data: Examples, *indices: int, epoch: int = 0) -> dict[str, Any]:
    return data.collate([data[epoch, index] for index in indices])


def assert_equal(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        same = torch.equal(value, b[name]) if torch.is_tensor(value) else value == b[name]
        assert same, name

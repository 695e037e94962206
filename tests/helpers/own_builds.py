"""Fine-tuned checkpoints in the project's own format, random and small, and inputs for them."""

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from hf_pairs import generic
from PIL import Image

from d2v import params
from d2v.data.letters import LETTERS
from d2v.interop import own
from d2v.interop.content import Architecture, Content
from d2v.interop.module import Model
from d2v.params import ImageInput, TokenInput, WaveInput

SIZES: dict[str, Any] = {"dim": 32, "depth": 2, "heads": 4, "ffn_dim": 48}
CLASSES = ["cat", "dog", "eel"]
PREPARED_TOKENS = 70  # of the fixture small_prepared


def architecture(kind: str, **changes: Any) -> Architecture:
    """A model with the head that its modality has in the paper."""
    if kind == "speech":
        convs = [[8, 10, 5], [12, 3, 2], [8, 3, 2], [8, 2, 2], [8, 2, 2]]
        encoder: Any = params.WaveEncoder(
            kind="speech", conv_layers=convs, position_kernel=15, position_groups=4
        )
        backbone = params.Backbone(norm_first=False, **SIZES)
        parts = {"task": params.CTC(kind="ctc"), "outputs": len(LETTERS)}
    elif kind == "vision":
        encoder = params.PatchEncoder(kind="vision", image_size=24, patch_size=6)
        bias = params.PositionBias(kind="shared_2d", window=[4, 4])
        backbone = params.Backbone(
            norm_first=True, key_bias=False, layer_scale=0.1, position_bias=bias, **SIZES
        )
        task = params.Classify(kind="classify", classes=3, pool="mean", norm=True)
        parts = {"task": task, "outputs": 3}
    else:
        encoder = params.TokenEncoder(kind="text", vocab_size=PREPARED_TOKENS, max_positions=64)
        backbone = params.Backbone(norm_first=False, **SIZES)
        task = params.Classify(kind="classify", classes=3, pool="first", hidden=True)
        parts = {"task": task, "outputs": 3}
    return Architecture(**{"encoder": encoder, "backbone": backbone, **parts, **changes})


def content(kind: str, tokenizer: Path | None = None, **changes: Any) -> Content:
    """Random values in which no term is hidden; of speech, letters that are words now and then."""
    made = architecture(kind, **changes)
    module = generic(Model(made))
    with torch.no_grad():
        for parameter in module.head.out.parameters() if module.head else []:
            parameter.mul_(2)
        if kind == "speech" and isinstance(made.task, params.CTC):
            # as trained models: hardly ever a special symbol
            module.head.out.bias[[1, 2, 3]] = -30.0
    letters = list(LETTERS) if isinstance(made.task, params.CTC) else None
    classes = CLASSES if isinstance(made.task, params.Classify) else None
    inputs = {
        "speech": WaveInput(letters=letters),
        "vision": ImageInput(mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.25], classes=classes),
        "text": TokenInput(
            tokenizer="sentencepiece" if tokenizer else None, max_tokens=40, classes=classes
        ),
    }
    files = {"tokenizer.model": (tokenizer / "tokenizer.model").read_bytes()} if tokenizer else {}
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    return Content("d2v", Path(kind), made, inputs[kind], tensors, files)


def folder(path: Path, kind: str, tokenizer: Path | None = None, **changes: Any) -> Path:
    own.write(content(kind, tokenizer, **changes), path)
    return path


def waves(root: Path, lengths: tuple[int, ...] = (8000, 5000, 8000, 12345)) -> list[Path]:
    """FLAC and WAV files of noise that changes."""
    random, paths = np.random.default_rng(0), []
    for i, length in enumerate(lengths):
        path = root / f"{i}.{('flac', 'wav')[i % 2]}"
        loud = np.repeat(random.integers(50, 9000, length // 400 + 1), 400)[:length]
        soundfile.write(path, (loud * random.standard_normal(length) / 3).astype(np.int16), 16_000)
        paths.append(path)
    return paths


def images(root: Path, sizes: tuple[tuple[int, int], ...] = ((24, 24),) * 5) -> list[Path]:
    random, paths = np.random.default_rng(0), []
    for i, (width, height) in enumerate(sizes):
        pixels = random.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
        whole = pixels.repeat(6, 0).repeat(6, 1)[:height, :width]
        path = root / f"{i}.{('png', 'jpg')[i % 2]}"
        Image.fromarray(whole).save(path)
        paths.append(path)
    return paths

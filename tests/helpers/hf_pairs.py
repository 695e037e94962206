"""A model of Hugging Face, and this project's with the same weights, for each modality."""

import pytest
import torch
from torch import nn

from d2v import params

transformers = pytest.importorskip("transformers")


DEEP = [[8, 10, 5], [12, 3, 2], [6, 3, 2], [8, 2, 2]]


# encoder, backbone: widths, depths, heads, image and patch sizes, kernels (one of them even). Some
# have a large epsilon, because 1e-6 in place of 1e-5 would stay below the tests' limit.
SPEECH = {
    "three-positions": (
        {"conv_layers": DEEP[:2], "position_kernel": 9, "position_depth": 3, "position_groups": 4},
        {"dim": 32, "depth": 2, "heads": 4, "ffn_dim": 64},
    ),
    "even-kernel": (
        {"conv_layers": DEEP, "position_kernel": 8, "position_depth": 2, "position_groups": 3},
        {"dim": 24, "depth": 3, "heads": 3, "ffn_dim": 40},
    ),
    "as-in-base": (
        {"conv_layers": DEEP[:3]},
        {"dim": 48, "depth": 1, "heads": 2, "ffn_dim": 96},
    ),
}


VISION = {
    "shared-bias": (
        {"image_size": 24, "patch_size": 6},
        {"dim": 32, "depth": 3, "heads": 4, "norm_eps": 1e-2, "layer_scale": 0.1, "grid": 4},
    ),
    "final-norm": (
        {"image_size": 28, "patch_size": 4, "channels": 1},
        {"dim": 24, "depth": 1, "heads": 2, "layer_scale": 0.1, "grid": 7, "final_norm": True},
    ),
    "absolute-positions": (
        {"image_size": 32, "patch_size": 16, "absolute_positions": True},
        {"dim": 40, "depth": 2, "heads": 5, "norm_eps": 1e-6, "final_norm": True},
    ),
}


TEXT = {
    "wide": (
        {"vocab_size": 50, "max_positions": 40},
        {"dim": 32, "depth": 2, "heads": 4, "ffn_dim": 64, "norm_eps": 1e-2},
    ),
    "deep": (
        {"vocab_size": 31, "max_positions": 16},
        {"dim": 24, "depth": 4, "heads": 2, "ffn_dim": 100, "norm_eps": 1e-12},
    ),
}


def speech(size):
    encoder, backbone = SPEECH[size]
    e = params.WaveEncoder(kind="speech", **encoder)
    b = params.Backbone(norm_first=False, **backbone)
    channels, kernels, strides = zip(*e.conv_layers, strict=True)
    config = transformers.Data2VecAudioConfig(
        conv_dim=channels,
        conv_kernel=kernels,
        conv_stride=strides,
        num_conv_pos_embeddings=e.position_depth,
        conv_pos_kernel_size=max(3, e.position_kernel // e.position_depth),
        num_conv_pos_embedding_groups=e.position_groups,
        layer_norm_eps=b.norm_eps,
        **common(b),
    )
    return e, b, transformers.Data2VecAudioModel(config)


def vision(size):
    encoder, backbone = VISION[size]
    e = params.PatchEncoder(kind="vision", **encoder)
    sizes = {**backbone, "ffn_dim": 3 * backbone["dim"]}
    grid = sizes.pop("grid", None)
    if grid:
        sizes["position_bias"] = params.PositionBias(kind="shared_2d", window=[grid, grid])
    b = params.Backbone(norm_first=True, key_bias=False, **sizes)
    config = transformers.Data2VecVisionConfig(
        image_size=e.image_size,
        patch_size=e.patch_size,
        num_channels=e.channels,
        use_mask_token=True,
        use_absolute_position_embeddings=e.absolute_positions,
        use_shared_relative_position_bias=grid is not None,
        layer_scale_init_value=b.layer_scale or 0.0,
        use_mean_pooling=not b.final_norm,
        layer_norm_eps=b.norm_eps,
        **common(b),
    )
    return e, b, transformers.Data2VecVisionModel(config)


def text(size):
    encoder, backbone = TEXT[size]
    e = params.TokenEncoder(kind="text", **encoder)
    b = params.Backbone(norm_first=False, **backbone)
    config = transformers.Data2VecTextConfig(
        vocab_size=e.vocab_size,
        max_position_embeddings=e.max_positions + 2,
        layer_norm_eps=b.norm_eps,
        **common(b),
    )
    return e, b, transformers.Data2VecTextModel(config)


def common(b):
    return {
        "hidden_size": b.dim,
        "num_hidden_layers": b.depth,
        "num_attention_heads": b.heads,
        "intermediate_size": b.ffn_dim,
    }


def generic(model):
    """Values that hide no term behind a 0 or a 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1 and "token" not in name:
                p.normal_(std=(p.numel() / len(p)) ** -0.5)
            else:
                p.add_(0.2 * torch.randn_like(p))
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0
    return model.eval()


def waves(lengths):
    """Normalised utterances of these lengths, zero where they are padded."""
    torch.manual_seed(1)
    rows = [torch.nn.functional.layer_norm(torch.randn(n), (n,)) for n in lengths]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(lengths)


def tokens(lengths, vocab):
    torch.manual_seed(1)
    rows = [torch.randint(4, vocab - 1, (n,)) for n in lengths]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)

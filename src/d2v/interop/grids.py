"""Sizes of vision models, inferred from the shapes of their tensors."""

import math
from collections.abc import Mapping

from torch import Tensor

from d2v import params
from d2v.interop.names import Family

_BLOCKS = {"fairseq_vision": "encoder.blocks", "data2vec_vision": "blocks"}
_PATCHES = {"fairseq_vision": "patch_embed.conv", "data2vec_vision": "patch_embed.proj"}
_FC1 = {"fairseq_vision": "mlp.0", "data2vec_vision": "mlp.fc1"}


def sizes(
    tensors: Mapping[str, Tensor], family: Family, norm_eps: float
) -> tuple[params.PatchEncoder, params.Backbone]:
    """Encoder and backbone sizes of fairseq's or data2vec_vision's model.

    The number of heads is the width of the table of position biases. Raises ValueError if there is
    no such table, or if the window is not square.
    """
    blocks, patches = _BLOCKS[family], tensors[f"{_PATCHES[family]}.weight"]
    prefix = blocks.removesuffix("blocks")
    shared = f"{prefix}rel_pos_bias.relative_position_bias_table"
    own = f"{blocks}.0.attn.relative_position_bias_table"
    if (shared in tensors) == (own in tensors):
        raise ValueError(f"exactly one of {shared} and {own} is needed to find heads and window")
    table = tensors[shared if shared in tensors else own]
    grid = window(len(table))
    depth = 1 + max(
        int(name.removeprefix(f"{blocks}.").split(".")[0])
        for name in tensors
        if name.startswith(f"{blocks}.")
    )
    dim, channels, patch_size, _ = patches.shape
    encoder = params.PatchEncoder(
        kind="vision",
        image_size=grid * patch_size,
        patch_size=patch_size,
        channels=channels,
        absolute_positions="pos_embed" in tensors,
    )
    bias = "shared_2d" if shared in tensors else "per_layer_2d"
    backbone = params.Backbone(
        dim=dim,
        depth=depth,
        heads=table.shape[1],
        ffn_dim=len(tensors[f"{blocks}.0.{_FC1[family]}.weight"]),
        norm_first=True,
        norm_eps=norm_eps,
        final_norm=f"{prefix}norm.weight" in tensors,
        key_bias=False,
        # the initial value is not in the file, and no longer matters after training
        layer_scale=1e-4 if f"{blocks}.0.gamma_1" in tensors else None,
        position_bias=params.PositionBias(kind=bias, window=[grid, grid]),  # type: ignore[arg-type]
    )
    return encoder, backbone


def window(rows: int) -> int:
    """Side n of the square window whose table of position biases has (2n - 1)^2 + 3 rows."""
    side = math.isqrt(max(rows - 3, 0))
    if side * side != rows - 3 or side % 2 == 0:
        raise ValueError(f"a table of {rows} position biases does not fit a square window")
    return (side + 1) // 2

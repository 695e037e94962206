"""Parameters of the decoder that predicts hidden positions (data2vec 2.0, 3.1)."""

from pydantic import model_validator

from d2v.params.base import BelowOne, Positive, Rate, Strict


class Decoder(Strict):
    """Convolutions over all positions, with noise at the hidden ones, then a projection.

    Each convolution is followed by LayerNorm without parameters and GELU. Source: fairseq
    examples/data2vec/models/modalities/modules.py, whose names are given where they differ.
    """

    layers: Positive  # number of convolutions; decoder_layers
    dim: Positive  # their channels; decoder_dim
    kernel: Positive  # their size, in positions; decoder_kernel
    groups: Positive = 1  # decoder_groups
    residual: bool = True  # add the input of a convolution of equal width; decoder_residual
    projection_layers: Positive = 1  # linear layers of the projection, with GELU in between
    projection_ratio: Rate = 1.0  # width of the first of several, relative to `dim`
    dropout: BelowOne = 0.0  # dropout of the student's outputs that enter; input_dropout
    noise: Rate | None = 0.01  # std of the noise at hidden positions; None: zeros; mask_noise_std

    @model_validator(mode="after")
    def _divides(self) -> "Decoder":
        if self.dim % self.groups:
            raise ValueError(f"dim {self.dim} is not a multiple of groups {self.groups}")
        if self.projection_layers == 1 and self.projection_ratio != 1.0:
            raise ValueError("projection_ratio has no effect with projection_layers 1; remove it")
        return self

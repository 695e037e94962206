"""Encoders, the only modality-specific modules: from the input to (B, T, D)."""

from d2v import params
from d2v.model.encoders.base import Encoder, Freeze, InputTargets
from d2v.model.encoders.speech import SpeechEncoder
from d2v.model.encoders.text import TextEncoder
from d2v.model.encoders.vision import VisionEncoder

__all__ = [
    "Encoder",
    "Freeze",
    "InputTargets",
    "SpeechEncoder",
    "TextEncoder",
    "VisionEncoder",
    "build",
]


def build(p: params.Encoder, backbone: params.Backbone) -> Encoder:
    """Build the encoder that the parameters select, with the width of the backbone."""
    if isinstance(p, params.PatchEncoder):
        return VisionEncoder(p, backbone)
    if isinstance(p, params.WaveEncoder):
        return SpeechEncoder(p, backbone)
    return TextEncoder(p, backbone)

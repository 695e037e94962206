"""data2vec: one model, one task, one trainer for vision, speech and text.

model = d2v.load("checkpoint")            a model from a checkpoint of any known format
d2v.features(model, ["a.wav", "b.flac"])  hidden states and logits
d2v.transcribe(model, ["a.wav"])          words
d2v.classify(model, ["a.jpg"])            classes
d2v.convert("checkpoint", to="hf")        a folder that Hugging Face's classes can load
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d2v.interop.convert import convert
    from d2v.interop.inference import classify, features, save_features, transcribe
    from d2v.interop.loading import load

__version__ = "0.1.0"
__all__ = ["classify", "convert", "features", "load", "save_features", "transcribe"]

# these names import torch on first use, so that the command line starts quickly
_PLACES = {
    "load": "d2v.interop.loading",
    "convert": "d2v.interop.convert",
    **dict.fromkeys(
        ("features", "transcribe", "classify", "save_features"), "d2v.interop.inference"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module d2v has no attribute {name}")
    import importlib

    return getattr(importlib.import_module(_PLACES[name]), name)

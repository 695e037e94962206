"""data2vec: one model, one task, one trainer for vision, speech and text.

model = d2v.load("checkpoint")            any known format, ready to use
d2v.features(model, ["a.wav", "b.flac"])  hidden states and logits
d2v.transcribe(model, ["a.wav"])          words
d2v.classify(model, ["a.jpg"])            classes
d2v.convert("checkpoint", to="hf")        a folder for Hugging Face's classes
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d2v.interop.convert import convert
    from d2v.interop.inference import classify, features, save_features, transcribe
    from d2v.interop.loading import load

__version__ = "0.1.0"
__all__ = ["classify", "convert", "features", "load", "save_features", "transcribe"]

# torch is imported when one of these is first used, so that the command line starts at once
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

"""data2vec: one model, one task, one trainer for vision, speech and text.

model = d2v.load("checkpoint")            a model from a checkpoint of any known format
model.features(["a.wav", "b.flac"])       hidden states and logits
d2v.transcribe(model, ["a.wav"])          words
d2v.classify(model, ["a.jpg"])            classes
d2v.finetune(model, train, dev, task=...) a model for a task, with its metrics and predictions
d2v.pretrain(recipe, data)                a pre-trained model
d2v.probe(model, train, dev)              what each layer's features tell about classes
d2v.convert("checkpoint", to="hf")        a folder that Hugging Face's classes can load
d2v.push(folder, name), d2v.pull(name)    to and from the Hugging Face hub
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d2v.experiment.frozen import Probes, probe
    from d2v.experiment.library import Result, finetune, pretrain
    from d2v.interop.convert import convert
    from d2v.interop.hidden_states import Features
    from d2v.interop.hub import pull, push
    from d2v.interop.inference import Class, classify, features, save_features, transcribe
    from d2v.interop.loading import load
    from d2v.interop.module import Model
    from d2v.util.errors import UserError

__version__ = "0.2.0"
__all__ = [
    "Class",
    "Features",
    "Model",
    "Probes",
    "Result",
    "UserError",
    "classify",
    "convert",
    "features",
    "finetune",
    "load",
    "pretrain",
    "probe",
    "pull",
    "push",
    "save_features",
    "transcribe",
]

# these names import torch on first use, so that the command line starts quickly
_PLACES = {
    "load": "d2v.interop.loading",
    "convert": "d2v.interop.convert",
    "Model": "d2v.interop.module",
    "Features": "d2v.interop.hidden_states",
    "UserError": "d2v.util.errors",
    **dict.fromkeys(
        ("Class", "classify", "features", "save_features", "transcribe"),
        "d2v.interop.inference",
    ),
    **dict.fromkeys(("pull", "push"), "d2v.interop.hub"),
    **dict.fromkeys(("Probes", "probe"), "d2v.experiment.frozen"),
    **dict.fromkeys(("Result", "finetune", "pretrain"), "d2v.experiment.library"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module d2v has no attribute {name}")
    import importlib

    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

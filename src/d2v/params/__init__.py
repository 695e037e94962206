"""Typed parameters of an experiment, read from one YAML file (`params/*.yaml`).

A file is read whole, checked whole, and every fault is reported at once with its dotted path:
unknown keys name the nearest valid one. Nothing runs before the parameters are valid.
"""

from d2v.params.base import Count, Fraction, ParamsError, Positive, Rate, Strict, hash_of
from d2v.params.data import Data, Digits, SpokenDigits, Verses
from d2v.params.experiment import Experiment, load, load_as
from d2v.params.finetuning import (
    ARMS,
    CTC,
    Classify,
    Decode,
    Finetune,
    Grid,
    Regress,
    Setting,
    Task,
)
from d2v.params.model import (
    EMA,
    Backbone,
    BlockMask,
    Encoder,
    Init,
    Loss,
    Mask,
    PatchEncoder,
    PositionBias,
    SpanMask,
    Target,
    TokenEncoder,
    TokenMask,
    WaveEncoder,
)
from d2v.params.pretraining import Pretrain
from d2v.params.reading import read_yaml
from d2v.params.training import (
    Collapse,
    Cosine,
    ImageAugment,
    Optimiser,
    Polynomial,
    Schedule,
    TokenAugment,
    Train,
    TriStage,
    View,
    WaveAugment,
)

__all__ = [
    "ARMS",
    "CTC",
    "EMA",
    "Backbone",
    "BlockMask",
    "Classify",
    "Collapse",
    "Cosine",
    "Count",
    "Data",
    "Decode",
    "Digits",
    "Encoder",
    "Experiment",
    "Finetune",
    "Fraction",
    "Grid",
    "ImageAugment",
    "Init",
    "Loss",
    "Mask",
    "Optimiser",
    "ParamsError",
    "PatchEncoder",
    "Polynomial",
    "PositionBias",
    "Positive",
    "Pretrain",
    "Rate",
    "Regress",
    "Schedule",
    "Setting",
    "SpanMask",
    "SpokenDigits",
    "Strict",
    "Target",
    "Task",
    "TokenAugment",
    "TokenEncoder",
    "TokenMask",
    "Train",
    "TriStage",
    "Verses",
    "View",
    "WaveAugment",
    "WaveEncoder",
    "hash_of",
    "load",
    "load_as",
    "read_yaml",
]

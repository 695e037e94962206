"""Parameters of texts: encoder, view, inputs, and the rules that they must obey."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from d2v.params.base import BelowOne, Positive
from d2v.params.modality import Augment, Entry, Kind, Record
from d2v.params.model import Backbone

KIND = Kind(
    name="text",
    masks={"replaced": ("token",), "removed": ("random",)},
    unlabelled=("corpus",),
    labelled={"classify": "sentences", "regress": "sentences"},
    parts=("features", "positions", "norm"),
    inputs=("tokens",),
)
SPECIAL = 5  # number of special token ids: <s>, <pad>, </s>, <unk> and <mask>
LABELLED_TOKENS = 128  # more than the mean length of any GLUE task


class TokenAugment(Augment):
    """Length limit of text examples."""

    kind: Literal["text"]
    # maximum number of tokens per example, including boundary tokens (four in a pair of texts)
    max_tokens: Annotated[int, Field(ge=5)]

    @property
    def longest(self) -> int | None:
        """Length limit of the examples in tokens."""
        return self.max_tokens

    def usual_size(self, labelled: bool) -> int:
        """Typical length of an example in tokens."""
        return min(LABELLED_TOKENS, self.max_tokens) if labelled else self.max_tokens


class TokenEncoder(Entry):
    """Encoder of sub-word tokens with learned positions (paper 4.3; RoBERTa embeddings)."""

    kind: Literal["text"]
    vocab_size: Positive
    max_positions: Positive
    # learned position table; the miniature has relative positions in the backbone instead
    absolute_positions: bool = True
    dropout: BelowOne = 0.0
    # input of the teacher. full: the whole text (paper 3.3). masked_only: only the masked tokens,
    # as in the released fairseq task (masked_lm with include_target_tokens; fairseq#4881)
    teacher_input: Literal["full", "masked_only"] = "full"
    # a further LayerNorm before the first block, after the extra tokens; data2vec 2.0 has it if
    # there are blocks before the shared ones (prenet_depth)
    input_norm: bool = False

    def further_parts(self) -> Iterator[str]:
        """Parts that only some encoders of texts have."""
        yield from super().further_parts()
        if self.input_norm:
            yield "input_norm"

    def fits(self, backbone: Backbone) -> Iterator[str]:
        """Check that some tokens are not special ones."""
        if self.vocab_size <= SPECIAL:
            yield (
                f"encoder.vocab_size {self.vocab_size} is too small: {SPECIAL} tokens are special"
                " and have no text"
            )

    def sees(self, view: Augment) -> Iterator[str]:
        """Check that the table of positions is as long as a view's texts may be."""
        assert isinstance(view, TokenAugment)
        if self.absolute_positions and view.max_tokens > self.max_positions:
            yield (
                f"view.max_tokens {view.max_tokens} is more than encoder.max_positions"
                f" {self.max_positions}"
            )

    def removes(self) -> Iterator[str]:
        """Check that the encoder can work on visible positions only (hidden: removed)."""
        if self.teacher_input != "full":
            yield "encoder.hidden: removed needs teacher_input: full"


class TokenInput(Record):
    """How texts become tokens, and the names of the outputs."""

    kind: Literal["text"] = "text"
    # sentencepiece: tokenizer.model; tokenizers: tokenizer.json; bpe: vocab.json and merges.txt
    tokenizer: Literal["sentencepiece", "tokenizers", "bpe"] | None = None
    max_tokens: Positive  # longest input, including boundary tokens
    # for a checkpoint without the tokenizer's files: their SHA-256, as in the meta.json of a
    # prepared set, and the SHA-256 over the pieces that the ids stand for
    sha256: str | None = None
    pieces: str | None = None

    def fits(self, encoder: Entry, outputs: int | None) -> Iterator[str]:
        """Errors of a record that does not belong to a model with this encoder."""
        assert isinstance(encoder, TokenEncoder)
        yield from super().fits(encoder, outputs)
        if encoder.absolute_positions and self.max_tokens > encoder.max_positions:
            yield (
                f"max_tokens: {self.max_tokens} is more than the model's max_positions"
                f" {encoder.max_positions}"
            )

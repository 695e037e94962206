"""Tokenizers read from their files: sentencepiece models, tokenizer.json, GPT-2's byte pairs."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import sentencepiece

from d2v.util.errors import UserError

Kind = Literal["sentencepiece", "tokenizers", "bpe"]
FILES: dict[Kind, tuple[str, ...]] = {
    "sentencepiece": ("tokenizer.model",),
    "tokenizers": ("tokenizer.json",),
    "bpe": ("vocab.json", "merges.txt"),
}


class Encoding(NamedTuple):
    """Functions from texts to ids and back, without <s> and </s>.

    `<s>`, `</s>`, `<pad>` and `<mask>` inside a text are ordinary characters, as in fairseq.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    size: int  # number of ids, including <mask>
    pieces: Callable[[], list[tuple[int, str]]]  # every id and its piece, in order


def encoding(kind: Kind, files: Mapping[str, bytes]) -> Encoding:
    """Load the tokenizer in these files (named in FILES).

    Raises UserError if the package it needs is missing, and whatever that package raises for
    invalid files.
    """
    if kind == "sentencepiece":
        if not files["tokenizer.model"]:  # which sentencepiece would accept as a model
            raise ValueError("tokenizer.model is empty")
        model = sentencepiece.SentencePieceProcessor(model_proto=files["tokenizer.model"])
        # <mask> is not in the model, so no text encodes to it
        return Encoding(
            lambda text: list(model.encode(text)),
            lambda ids: str(model.decode(ids)),
            int(model.vocab_size()) + 1,
            lambda: list(enumerate([*map(model.id_to_piece, range(model.vocab_size())), "<mask>"])),
        )
    made = _tokenizers(kind, files)
    return Encoding(
        lambda text: list(made.encode(text, add_special_tokens=False).ids),
        lambda ids: str(made.decode(ids)),
        int(made.get_vocab_size()),
        lambda: sorted((i, piece) for piece, i in made.get_vocab().items()),
    )


def _tokenizers(kind: Kind, files: Mapping[str, bytes]) -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            'this tokenizer needs the package tokenizers: pip install "d2v[hf]"'
        ) from None
    if kind == "tokenizers":
        made = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
        made.no_padding()
        made.no_truncation()
        made.encode_special_tokens = True
        return made
    return _byte_pairs(files["vocab.json"], files["merges.txt"])


def _byte_pairs(vocabulary: bytes, merges: bytes) -> Any:
    """Build GPT-2's byte-level BPE (used by RoBERTa) from vocab.json and merges.txt."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab = json.loads(vocabulary)
    pairs = [
        (left, right)
        for line in merges.decode().splitlines()
        if not line.startswith("#version") and line.strip()
        for left, right in [line.split(" ")]
    ]
    made = Tokenizer(models.BPE(vocab=vocab, merges=pairs, fuse_unk=False, unk_token=None))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = [name for name in ("<s>", "<pad>", "</s>", "<unk>") if name in vocab]
    made.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    if "<mask>" in vocab:
        made.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    made.encode_special_tokens = True
    return made

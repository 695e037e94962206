"""Tokenizers of checkpoints: texts to ids, without the boundary tokens."""

from collections.abc import Callable
from typing import Any

import sentencepiece

from d2v.errors import UserError
from d2v.interop.content import Content, TokenInput

Encode = Callable[[str], list[int]]


def tokenizer(content: Content) -> Encode:
    """What encodes a text as the checkpoint's model needs it.

    Raises UserError where the checkpoint has no tokenizer, or the package for it is missing.
    """
    inputs = content.inputs
    if not isinstance(inputs, TokenInput) or inputs.tokenizer is None:
        raise UserError(
            f"{content.source}: no tokenizer in it, so texts cannot be read; convert it again with"
            " its tokenizer's files beside it"
        )
    if inputs.tokenizer == "sentencepiece":
        model = sentencepiece.SentencePieceProcessor(model_proto=content.files["tokenizer.model"])
        return lambda text: list(model.encode(text))
    made = _tokenizers(content, inputs.tokenizer)
    return lambda text: list(made.encode(text, add_special_tokens=False).ids)


def _tokenizers(content: Content, kind: str) -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UserError(
            f"{content.source}: its tokenizer needs the package tokenizers: pip install 'd2v[hf]'"
        ) from None
    if kind == "tokenizers":
        made = tokenizers.Tokenizer.from_str(content.files["tokenizer.json"].decode())
        made.no_padding()
        made.no_truncation()
        return made
    return byte_pairs(content.files["vocab.json"], content.files["merges.txt"])


def byte_pairs(vocabulary: bytes, merges: bytes) -> Any:
    """GPT-2's byte-level pairs (RoBERTa): vocab.json and merges.txt."""
    import json

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
    return made

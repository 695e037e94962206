"""Convert a sentencepiece BPE model to Hugging Face's tokenizer.json.

sentencepiece repeatedly joins the two neighbours whose joined piece has the best score, while the
tokenizers package follows an ordered list of merges. The list contains every way to form each piece
from two others, best piece first, so that both give the same ids.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import sentencepiece

from d2v import params

SPACE = "▁"
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def hf_tokenizer(model: bytes, encoder: params.Encoder) -> str:
    """Text of tokenizer.json with the ids of the sentencepiece model, and <mask> as the last id."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocab = {processor.id_to_piece(i): i for i in range(processor.vocab_size())}
    vocab["<mask>"] = encoder.vocab_size - 1  # type: ignore[union-attr]
    in_bytes = any(processor.is_byte(i) for i in range(processor.vocab_size()))
    made = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=merges(processor),
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=in_bytes,
        )
    )
    steps: list[Any] = [normalizers.Replace(Regex(r" {2,}"), " "), normalizers.Strip()]
    charsmap = normalisation(model)
    if charsmap:
        steps.insert(0, normalizers.Precompiled(charsmap))
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    decoder: Any = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    if in_bytes:
        blanks, first = decoders.Replace(SPACE, " "), decoders.Strip(" ", 1, 0)
        decoder = decoders.Sequence([blanks, decoders.ByteFallback(), decoders.Fuse(), first])
    made.decoder = decoder
    ends = [(name, vocab[name]) for name in ("</s>", "<s>")]
    boundaries: Any = processors.RobertaProcessing  # its type stub declares other arguments
    made.post_processor = boundaries(*ends, False, False)
    made.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL])
    return str(made.to_str(pretty=False))


def merges(processor: Any) -> list[tuple[str, str]]:
    """Every pair of pieces that forms a piece, best piece first."""
    scores = {
        processor.id_to_piece(i): processor.get_score(i)
        for i in range(processor.vocab_size())
        if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_unused(i))
        and not processor.is_byte(i)
    }
    best_first = sorted(scores, key=lambda piece: -scores[piece])
    return [
        (piece[:cut], piece[cut:])
        for piece in best_first
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]


def normalisation(model: bytes) -> bytes:
    """Replacement table of a serialised model: normalizer_spec.precompiled_charsmap."""
    spec = next((value for number, value in _fields(model) if number == 3), b"")
    return next((value for number, value in _fields(spec) if number == 2), b"")


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of all length-delimited fields of a protobuf message."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == 2:
            size, place = _varint(message, place)
            yield number, message[place : place + size]
            place += size
        elif wire == 0:
            _, place = _varint(message, place)
        else:
            place += {1: 8, 5: 4}[wire]


def _varint(message: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in itertools.count(0, 7):
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
    return value, place

"""Inputs of fairseq's models: waveforms with letters, or GPT-2's byte pairs under fairseq's ids."""

import json
from pathlib import Path
from typing import Any

from d2v import params
from d2v.data.given_tokenizer import (
    DICTIONARY,
    MERGES,
    SPECIAL,
    VOCABULARY,
    byte_pairs,
    symbols,
)
from d2v.data.letters import LETTERS
from d2v.data.record import NORMALISATIONS
from d2v.interop.content import Content
from d2v.interop.pickles import plain
from d2v.params import RATE, ImageInput, Inputs, TokenInput, WaveInput
from d2v.util.errors import UserError


def inputs(content: Content, state: dict[str, Any]) -> Inputs:
    """How inputs are prepared; tokenizer files next to the checkpoint are added to the content."""
    encoder = content.architecture.encoder
    if isinstance(encoder, params.WaveEncoder):
        return _waves(content, state)
    if isinstance(encoder, params.PatchEncoder):
        mean, std = NORMALISATIONS["imagenet"]
        return ImageInput(mean=mean, std=std, resize=int(encoder.image_size / (224 / 256)))
    return _texts(content)


def _waves(content: Content, state: dict[str, Any]) -> WaveInput:
    task = content.provenance["config"].get("task") or {}
    how = WaveInput(
        normalise=bool(task.get("normalize", True)), rate=task.get("sample_rate") or RATE
    )
    outputs = content.architecture.outputs
    if outputs is None:
        return how
    letters = _letters_in(state) or _letters_beside(content.source)
    if letters is None and outputs == len(LETTERS):
        letters = list(LETTERS)
        content.notes.append("no dictionary of letters in it: those of LibriSpeech are taken")
    if letters is not None and len(letters) != outputs:
        raise UserError(
            f"{content.source}: {len(letters)} letters in its dictionary, but {outputs} outputs"
        )
    return how.model_copy(update={"letters": letters})


def _letters_in(state: dict[str, Any]) -> list[str] | None:
    """Symbols of the dictionary that fairseq's task stores in the checkpoint; None if absent."""
    found = (plain(state.get("task_state")) or {}).get("target_dictionary")
    symbols = found.get("symbols") if isinstance(found, dict) else None
    return [str(symbol) for symbol in symbols] if symbols else None


def _letters_beside(source: Path) -> list[str] | None:
    path = source.with_name("dict.ltr.txt")
    return [*SPECIAL, *symbols(path)] if path.is_file() else None


def _texts(content: Content) -> TokenInput:
    """Inputs of a text model; GPT-2's ids are renumbered, because fairseq numbers by dict.txt."""
    encoder, folder = content.architecture.encoder, content.source.parent
    size = encoder.vocab_size  # type: ignore[union-attr]
    most = encoder.max_positions  # type: ignore[union-attr]
    missing = [n for n in (DICTIONARY, VOCABULARY, MERGES) if not (folder / n).is_file()]
    if missing:
        content.notes.append(
            f"{', '.join(missing)} not beside the file: no tokenizer, give token ids only"
        )
        return TokenInput(max_tokens=most)
    vocab = _vocabulary(folder, size)
    content.files["vocab.json"] = json.dumps(vocab, ensure_ascii=False).encode()
    content.files["merges.txt"] = (folder / MERGES).read_bytes()
    return TokenInput(tokenizer="bpe", max_tokens=most)


def _vocabulary(folder: Path, size: int) -> dict[str, int]:
    """Ids of byte pairs and of fairseq's special symbols, in the model's order."""
    found = byte_pairs(folder)
    if len(found) != size:
        raise UserError(
            f"{folder / DICTIONARY}: {len(found)} symbols, including the special ones, but the"
            f" model has {size}"
        )
    return found

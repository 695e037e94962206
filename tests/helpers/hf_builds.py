"""Models of Hugging Face with heads, random and small, and batches for them."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from hf_pairs import generic, speech, text, tokens, vision, waves

from d2v.data.letters import LETTERS

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

WITH_HEAD = {
    "speech": "Data2VecAudioForCTC",
    "vision": "Data2VecVisionForImageClassification",
    "text": "Data2VecTextForSequenceClassification",
}
BUILD = {"speech": speech, "vision": vision, "text": text}
# every size of test_hf, with and without a head
MODELS = [
    ("speech", "three-positions", 32),
    ("speech", "even-kernel", 0),
    ("speech", "as-in-base", 11),
    ("vision", "shared-bias", 5),
    ("vision", "final-norm", 0),
    ("vision", "absolute-positions", 3),
    ("vision", "own-biases", 4),
    ("vision", "bare-pooled", 0),
    ("text", "wide", 3),
    ("text", "deep", 1),
    ("text", "wide", 0),
]


def model(kind: str, size: str, outputs: int) -> Any:
    """A model in evaluation mode; with a head of `outputs` logits, if any."""
    changes = {}
    if size == "own-biases":
        size = "shared-bias"
        changes = {"use_shared_relative_position_bias": False, "use_relative_position_bias": True}
    size = "shared-bias" if size == "bare-pooled" else size
    _, _, bare = BUILD[kind](size)
    config = bare.config
    for key, value in changes.items():
        setattr(config, key, value)
    if kind == "speech" and outputs:
        config.vocab_size = outputs
    elif outputs:
        config.num_labels = outputs
    name = WITH_HEAD[kind] if outputs else type(bare).__name__
    return generic(getattr(transformers, name)(config))


def save(made: Any, folder: Path) -> Path:
    """The model as `transformers` writes it."""
    made.save_pretrained(folder)
    if getattr(made.config, "model_type", "") == "data2vec-audio" and made.config.vocab_size == 32:
        named = {"<s>": "<pad>", "<pad>": "<s>"}
        vocab = {named.get(letter, letter): i for i, letter in enumerate(LETTERS)}
        (folder / "vocab.json").write_text(json.dumps(vocab))
    return folder


def batches(kind: str, made: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Batches as we and as they take them: of equal lengths, and padded."""
    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    if kind == "vision":
        torch.manual_seed(1)
        c = made.config
        images = torch.randn(3, c.num_channels, c.image_size, c.image_size)
        return [({"images": images}, {"pixel_values": images})]
    for lengths in ([13, 13], [15, 4, 9]) if kind == "text" else ([901, 901], [1501, 640, 977]):
        if kind == "text":
            x = tokens(lengths, made.config.vocab_size)
            found.append(({"tokens": x}, {"input_ids": x, "attention_mask": (x != 1).long()}))
            continue
        x, samples = waves(lengths)
        seen = (torch.arange(x.shape[1]) < samples[:, None]).long()
        ours = {"waves": x} | ({"samples": samples} if len(set(lengths)) > 1 else {})
        theirs = {"input_values": x} | ({"attention_mask": seen} if "samples" in ours else {})
        found.append((ours, theirs))
    return found

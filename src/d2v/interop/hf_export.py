"""Write folders that Hugging Face's Data2Vec classes load without changes.

A model is written tensor by tensor straight from its source: no tensor is loaded twice, and no
modules are built.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from d2v import params
from d2v.interop import hf_config, hf_processor, huggingface, names
from d2v.interop.card import model_card
from d2v.interop.content import Content
from d2v.interop.hf_import import CONFIG, PROCESSOR, SAFE, SCALE
from d2v.interop.own import TOKENIZER_SETTINGS, distinct
from d2v.interop.tokenizing import readable_tokenizer
from d2v.params import ImageInput, TokenInput, WaveInput
from d2v.util.errors import UserError
from d2v.util.files import open_to_others
from d2v.util.outputs import new_folder

BARE = {
    "speech": "Data2VecAudioModel",
    "vision": "Data2VecVisionModel",
    "text": "Data2VecTextModel",
}
WITH_HEAD = {
    "speech": "Data2VecAudioForCTC",
    "vision": "Data2VecVisionForImageClassification",
    "text": "Data2VecTextForSequenceClassification",
}


def write(content: Content, out: Path, drop_head: bool = False) -> list[str]:
    """Write the student and its head with config, processor or tokenizer, and a model card.

    Returns one sentence for each part that was left out. Raises UserError for a model that Hugging
    Face's classes cannot express, or if the folder exists.
    """
    a, kind = content.architecture, content.architecture.encoder.kind
    with_head = a.task is not None and not drop_head
    pairs = _pairs(content, with_head)
    notes = _left_out(content, with_head)
    config = {"architectures": [(WITH_HEAD if with_head else BARE)[kind]]}
    config |= hf_config.config(a) | _outputs(content, with_head)
    with new_folder(out) as part:
        save_file(_theirs(content, pairs), part / SAFE, metadata={"format": "pt"})
        open_to_others(part / SAFE)
        _write_json(part / CONFIG, config)
        notes += _write_inputs(content, part, with_head)
        card = model_card(content, config["architectures"][0], notes)
        (part / "README.md").write_text(card, encoding="utf-8")
    return notes


def _pairs(content: Content, with_head: bool) -> list[names.Pair]:
    a = content.architecture
    if a.encoder.hidden == "removed":
        raise UserError(
            f"{content.source}: Hugging Face has no class for data2vec 2.0; use --to d2v"
        )
    try:
        pairs = huggingface.student(a.encoder, a.backbone)
        heads = huggingface.head(a.encoder.kind, a.task) if with_head and a.task else []
    except ValueError as error:
        hint = "; --drop-head writes the model without it" if "no head" in str(error) else ""
        raise UserError(f"{content.source}: {error}{hint}") from None
    if with_head:
        prefix = huggingface.PREFIX[a.encoder.kind]
        pairs = [p._replace(theirs=tuple(prefix + name for name in p.theirs)) for p in pairs]
    return [*pairs, *heads]


def _theirs(content: Content, pairs: list[names.Pair]) -> dict[str, Tensor]:
    found = names.to_reference(content.tensors, pairs)
    if isinstance(content.architecture.encoder, params.TokenEncoder):
        # Hugging Face's models always have this embedding; zeros have no effect
        words = next(name for name in found if name.endswith("word_embeddings.weight"))
        types = words.replace("word_embeddings", "token_type_embeddings")
        found[types] = found[words].new_zeros(1, found[words].shape[1])
    return distinct(found)


def _left_out(content: Content, with_head: bool) -> list[str]:
    a = content.architecture
    notes = []
    if a.shared is not None:
        notes.append("the teacher's weights are left out: Hugging Face's models have no teacher")
    if a.regression not in (None, "none"):
        notes.append(
            "the regression head of pre-training is left out: Hugging Face's models have none"
        )
    if a.task is not None and not with_head:
        notes.append(f"the {a.task.kind} head is left out, as requested")
    return notes


def _outputs(content: Content, with_head: bool) -> dict[str, Any]:
    """Entries of config.json for the head."""
    a = content.architecture
    if not with_head or a.task is None:
        return {}
    if isinstance(a.task, params.CTC):
        return {
            "vocab_size": a.outputs,
            "final_dropout": a.task.dropout,
            "ctc_loss_reduction": "sum",
            "ctc_zero_infinity": True,
        }
    classes = content.inputs.classes or [f"LABEL_{i}" for i in range(a.outputs or 0)]
    labels = {
        "id2label": dict(enumerate(classes)),
        "label2id": {n: i for i, n in enumerate(classes)},
    }
    if isinstance(a.task, params.Regress):
        return {**labels, "problem_type": "regression", SCALE: a.task.scale}
    words = isinstance(a.encoder, params.TokenEncoder)
    dropout = {"classifier_dropout": a.task.dropout} if words else {}
    return {**labels, **dropout, "problem_type": "single_label_classification"}


# --- processors and tokenizers ----------------------------------------------------------------


def _write_inputs(content: Content, part: Path, with_head: bool) -> list[str]:
    match content.inputs:
        case WaveInput():
            return _write_waves(content.inputs, part, with_head)
        case ImageInput():
            return _write_images(content, content.inputs, part)
        case TokenInput():
            return _write_texts(content, content.inputs, part)


def _write_waves(inputs: WaveInput, part: Path, with_head: bool) -> list[str]:
    _write_json(
        part / PROCESSOR,
        {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "do_normalize": inputs.normalise,
            "feature_size": 1,
            "padding_side": "right",
            "padding_value": 0.0,
            "return_attention_mask": True,
            "sampling_rate": inputs.rate,
        },
    )
    if not with_head:
        return []
    if inputs.letters is None:
        return ["the letters of the outputs are not known: no vocab.json"]
    vocab = {name: i for i, name in enumerate(letters_of_theirs(inputs.letters))}
    _write_json(part / "vocab.json", vocab)
    _write_json(
        part / "tokenizer_config.json",
        {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "processor_class": "Wav2Vec2Processor",
            "pad_token": "<pad>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "word_delimiter_token": "|",
            "replace_word_delimiter_char": " ",
            "do_lower_case": False,
        },
    )
    return []


def letters_of_theirs(letters: list[str]) -> list[str]:
    """Letters by id for Hugging Face's tokenizer, whose blank is <pad>; fairseq's is <s>."""
    swapped = {"<s>": "<pad>", "<pad>": "<s>"}
    return [swapped.get(letter, letter) for letter in letters]


def _write_images(content: Content, inputs: ImageInput, part: Path) -> list[str]:
    encoder = content.architecture.encoder
    assert isinstance(encoder, params.PatchEncoder)
    if inputs.mean is None or inputs.std is None:
        return [f"mean and deviation of pixels are not known: no {PROCESSOR}"]
    _write_json(part / PROCESSOR, hf_processor.written(content, inputs))
    notes = []
    if encoder.channels != 3:
        notes.append(
            "the image processor gives three channels, the model takes"
            f" {encoder.channels}: give pixel_values yourself"
        )
    return notes


def _write_texts(content: Content, inputs: TokenInput, part: Path) -> list[str]:
    if inputs.tokenizer is None:
        return ["no tokenizer is known: give token ids yourself"]
    if inputs.tokenizer == "sentencepiece":
        from d2v.interop.spm import hf_tokenizer

        with readable_tokenizer(content):
            tokenizer = hf_tokenizer(content.files["tokenizer.model"], content.architecture.encoder)
        (part / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    else:
        for name, data in content.files.items():
            (part / name).write_bytes(data)
    if TOKENIZER_SETTINGS[0] not in content.files:
        _write_json(part / TOKENIZER_SETTINGS[0], _tokenizer_config(inputs))
    return []


def _tokenizer_config(inputs: TokenInput) -> dict[str, Any]:
    roberta = inputs.tokenizer == "bpe"
    return {
        "tokenizer_class": "RobertaTokenizer" if roberta else "PreTrainedTokenizerFast",
        "model_max_length": inputs.max_tokens,
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

"""Read folders of Hugging Face's Data2Vec models, with heads, processors and tokenizers."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from d2v import params
from d2v.data.letters import LETTERS
from d2v.interop import hf_config, hf_processor, huggingface, pickles
from d2v.interop.content import Architecture, Content, refuse_more_modules, renamed
from d2v.interop.module import empty
from d2v.interop.own import TOKENIZER_SETTINGS, read_tensors
from d2v.params import ImageInput, TokenInput, WaveInput
from d2v.util.errors import UserError

CONFIG, SAFE, PICKLED = "config.json", "model.safetensors", "pytorch_model.bin"
SCALE = "d2v_label_scale"  # our own key: labels of a regression are divided by its value
# tensors that do not affect hidden states or logits
BUFFERS = ("position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked")
MAY_BE_ABSENT = ("student.encoder.mask_embedding",)
TOKENIZERS = {
    "tokenizers": ("tokenizer.json",),
    "bpe": ("vocab.json", "merges.txt"),
}
PROCESSOR, PROCESSORS = "preprocessor_config.json", "processor_config.json"


def read(folder: Path) -> Content:
    """Content of a folder with config.json and weights; safetensors files are memory-mapped.

    Raises UserError for another kind of model, and for tensors that do not fit, all of which are
    listed.
    """
    sizes, config = hf_config.architecture(_json(folder / CONFIG), folder / CONFIG)
    kind = sizes.encoder.kind
    tensors = _prefixed_as_in_heads(_tensors(folder), huggingface.PREFIX[kind])
    task = _task(kind, tensors, config)
    architecture = sizes
    if task is not None:
        names = {pair.ours: pair.theirs[0] for pair in huggingface.head(kind, task)}
        outputs = len(tensors[names["head.out.weight"]])
        if isinstance(task, params.Classify):
            task = task.model_copy(update={"classes": max(outputs, 2)})
        architecture = sizes.model_copy(update={"task": task, "outputs": outputs})
    content = Content(
        format=f"Hugging Face {config['model_type']}",
        source=folder,
        architecture=architecture,
        inputs=WaveInput(),
        tensors={},
    )
    refuse_more_modules(architecture, tensors, folder)
    content.tensors = _ours(content, tensors, kind)
    {"speech": _waves, "vision": _images, "text": _texts}[kind](content, folder, config)
    return content


def _ours(content: Content, tensors: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    a, prefix = content.architecture, huggingface.PREFIX[kind]
    pairs = huggingface.student(a.encoder, a.backbone)
    pairs = [pair._replace(theirs=tuple(prefix + name for name in pair.theirs)) for pair in pairs]
    heads = huggingface.head(kind, a.task) if a.task else []
    known = {name for pair in (*pairs, *heads) for name in pair.theirs}
    heads_there = ("lm_head.", "classifier.", "projector.", "qa_outputs.", "layer_weights")
    dropped = sorted(
        name
        for name in tensors
        if name not in known
        and name.startswith((*heads_there, *(prefix + part for part in huggingface.UNUSED)))
    )
    if dropped:
        content.notes.append(f"left out (not supported here): {', '.join(_stems(dropped))}")
    left = {name: tensor for name, tensor in tensors.items() if name not in dropped}
    shapes = {name: t.shape for name, t in empty(a).state_dict().items()}
    types = f"{prefix}embeddings.token_type_embeddings.weight"
    if types in left:
        left = _without_token_types(content, left, prefix)
    found = renamed(left, [*pairs, *heads], shapes, content.source, optional=MAY_BE_ABSENT)
    return fill_mask_embedding(content, found, shapes)


def fill_mask_embedding(
    content: Content, found: dict[str, Tensor], shapes: dict[str, Any]
) -> dict[str, Tensor]:
    """Fill in zeros for a missing mask embedding, which only training would use."""
    import torch

    for name in MAY_BE_ABSENT:
        if name in shapes and name not in found:
            found[name] = torch.zeros(shapes[name])
            content.notes.append("there is no mask embedding in it: zeros")
    return found


def _without_token_types(
    content: Content, tensors: dict[str, Tensor], prefix: str
) -> dict[str, Tensor]:
    bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    changed = huggingface.without_token_types(bare)
    words = "embeddings.word_embeddings.weight"
    if words in bare and changed[words] is not bare[words]:
        content.notes.append("the embedding of token type 0 is added to every word's")
    tensors = {name: t for name, t in tensors.items() if name.removeprefix(prefix) in changed}
    return {**tensors, **({prefix + words: changed[words]} if words in changed else {})}


def _task(kind: str, tensors: dict[str, Tensor], config: dict[str, Any]) -> params.Task | None:
    """Task of the head found in the tensors; None for a bare model or an unsupported head."""
    name, head = _HEADS[kind]
    return head(tensors[name], config) if name in tensors else None


def _letters_head(weight: Tensor, config: dict[str, Any]) -> params.Task:
    return params.CTC(kind="ctc", dropout=config["final_dropout"])


def _image_classes(weight: Tensor, config: dict[str, Any]) -> params.Task:
    pooled = bool(config["use_mean_pooling"])
    pool = "mean" if pooled else "first"
    return params.Classify(kind="classify", classes=2, pool=pool, norm=pooled)  # type: ignore[arg-type]


def _text_classes(weight: Tensor, config: dict[str, Any]) -> params.Task:
    dropout = config.get("classifier_dropout")
    dropout = config["hidden_dropout_prob"] if dropout is None else dropout
    if len(weight) == 1:
        scale = float(config.get(SCALE, 1.0))
        return params.Regress(
            kind="regress", pool="first", hidden=True, dropout=dropout, scale=scale
        )
    return params.Classify(kind="classify", classes=2, pool="first", hidden=True, dropout=dropout)


# by encoder kind: the tensor that identifies a head, and a function that returns its task
_HEADS = {
    "speech": ("lm_head.weight", _letters_head),
    "vision": ("classifier.weight", _image_classes),
    "text": ("classifier.out_proj.weight", _text_classes),
}


# --- inputs -----------------------------------------------------------------------------------


def _waves(content: Content, folder: Path, config: dict[str, Any]) -> None:
    processor, path = _processor(folder)
    letters = None
    if content.architecture.task is not None:
        outputs = content.architecture.outputs or 0
        letters = _letters(folder, int(config["pad_token_id"] or 0), outputs)
    content.inputs = hf_processor.read_waves(processor, path).model_copy(
        update={"letters": letters}
    )


def _letters(folder: Path, blank: int, outputs: int) -> list[str] | None:
    """Letters by id; the blank, <pad> in Hugging Face, is renamed to <s> as in fairseq."""
    vocab = _optional_json(folder / "vocab.json")
    if not vocab:
        return None
    by_id = {i: str(token) for token, i in vocab.items() if isinstance(i, int)}
    if sorted(by_id)[:outputs] != list(range(outputs)):
        raise UserError(
            f"{folder / 'vocab.json'}: it does not give a letter for each of {outputs} outputs"
        )
    letters = [by_id[i] for i in range(outputs)]
    settings = _optional_json(folder / "tokenizer_config.json")
    delimiter = settings.get("word_delimiter_token", "|")
    letters = ["|" if letter == delimiter else letter for letter in letters]
    if "<s>" in letters and letters[blank] != "<s>":
        letters[letters.index("<s>")] = letters[blank]
    letters[blank] = "<s>"
    upper = [letter.upper() if len(letter) == 1 else letter for letter in letters]
    return upper if set(upper) == set(LETTERS) else letters


def _images(content: Content, folder: Path, config: dict[str, Any]) -> None:
    encoder, classes = content.architecture.encoder, _class_names(content.architecture, config)
    assert isinstance(encoder, params.PatchEncoder)
    given, path = _processor(folder)
    if not given:
        content.notes.append(f"no {PROCESSOR}: mean and deviation of pixels are not known")
        content.inputs = ImageInput(classes=classes)
        return
    found = hf_processor.read(given, path, encoder)
    if found.resize is None and found.stretch is None and not given.get("do_center_crop"):
        content.notes.append(f"{path.name} keeps the size of images: here their centre is taken")
    content.inputs = found.model_copy(update={"classes": classes})


def _texts(content: Content, folder: Path, config: dict[str, Any]) -> None:
    kind = None
    for name, files in TOKENIZERS.items():
        if all((folder / file).is_file() for file in files):
            kind = name
            there = [*files, *(file for file in TOKENIZER_SETTINGS if (folder / file).is_file())]
            content.files = {file: (folder / file).read_bytes() for file in there}
            break
    if kind is None:
        content.notes.append("no tokenizer.json, no vocab.json with merges.txt: no tokenizer")
    most = config["max_position_embeddings"] - 2
    settings = _optional_json(folder / "tokenizer_config.json")
    content.inputs = TokenInput(
        tokenizer=kind,  # type: ignore[arg-type]
        max_tokens=min(most, int(min(settings.get("model_max_length", most), 10**9))),
        classes=_class_names(content.architecture, config),
    )


def _class_names(a: Architecture, config: dict[str, Any]) -> list[str] | None:
    names = config.get("id2label") or {}
    found = [names.get(str(i), names.get(i)) for i in range(a.outputs or 0)]
    generic = [f"LABEL_{i}" for i in range(len(found))]
    return None if not found or None in found or found == generic else [str(n) for n in found]


# --- files ------------------------------------------------------------------------------------


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Tensors of one file, or of all files that an index lists."""
    for name, reader in ((SAFE, read_tensors), (PICKLED, pickles.read)):
        index = folder / f"{name}.index.json"
        paths = [folder / name] if (folder / name).is_file() else []
        if not paths and index.is_file():
            paths = [folder / file for file in sorted(set(_json(index)["weight_map"].values()))]
        if paths:
            found: dict[str, Tensor] = {}
            for path in paths:
                found |= reader(path)
            return {k: t for k, t in found.items() if not k.endswith(BUFFERS)}
    raise UserError(f"{folder}: it contains no weights; {SAFE} or {PICKLED} is expected")


def _prefixed_as_in_heads(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors of a bare model, renamed with the prefix that models with a head use."""
    if any(name.startswith(prefix) for name in tensors):
        return tensors
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _stems(names: list[str]) -> list[str]:
    return sorted({name.rsplit(".", 1)[0] for name in names})


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: a JSON object is expected")
    return found


def _processor(folder: Path) -> tuple[dict[str, Any], Path]:
    """Settings of the feature extractor or image processor, and their file (old or new name)."""
    found = _optional_json(folder / PROCESSOR)
    if found:
        return found, folder / PROCESSOR
    joined = _optional_json(folder / PROCESSORS)
    inner = joined.get("feature_extractor") or joined.get("image_processor") or {}
    if not isinstance(inner, dict):
        raise UserError(
            f"{folder / PROCESSORS}: settings of a processor are expected, not {inner!r}"
        )
    return inner, folder / PROCESSORS


def _optional_json(path: Path) -> dict[str, Any]:
    return _json(path) if path.is_file() else {}

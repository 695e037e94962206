"""Files in the layouts of fairseq and data2vec_vision, made of the golden cases' tensors."""

import argparse
import enum
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
from replay import CASES, Case

from d2v.data.letters import LETTERS

W2V = "w2v_encoder.w2v_model."


def case(name: str) -> Case:
    return Case(CASES / name)


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def config_of(made: Case) -> dict[str, Any]:
    """The trace's configuration as fairseq's `cfg` has it."""
    name = {"speech": "data2vec_audio", "text": "data2vec_text", "vision": "data2vec_vision"}
    model = {"_name": name[made.kind], **made.trace["config"]}
    return {"_name": None, "model": model, "task": {"_name": "x", "normalize": True}}


def teacher_of(made: Case) -> dict[str, Tensor]:
    """All that the averaged module has; the case leaves out what equals the student's."""
    inner = {"text": "encoder.sentence_encoder.", "speech": "encoder.", "vision": "encoder."}
    prefix = "" if made.family == "data2vec_vision" else inner[made.kind]
    student = part(part(made.initial, "student."), prefix)
    return {**student, **part(made.initial, "teacher.")}


def fairseq_state(made: Case, cfg: Any = None, teacher: bool = True) -> dict[str, Any]:
    """A pre-trained checkpoint: tensors, configuration, and what else fairseq puts there."""
    tensors: dict[str, Any] = part(made.initial, "student.")
    if made.kind == "text":
        tensors["encoder.sentence_encoder.version"] = torch.tensor([3.0])
    prefix = "encoder." if made.kind == "text" else ""
    if teacher:
        tensors[prefix + "_ema"] = teacher_of(made)
    return {
        "args": None,
        "cfg": config_of(made) if cfg is None else cfg,
        "model": tensors,
        "criterion": None,
        "optimizer_history": [{"criterion_name": "ModelCriterion", "num_updates": 400000}],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 3}, "val_loss": None},
        "last_optimizer_state": {"state": {0: {"exp_avg": torch.zeros(3)}}},
    }


def fine_tuned_speech(made: Case, args: bool = False) -> dict[str, Any]:
    """A CTC checkpoint on the case's student, names with w2v_encoder."""
    student = part(made.initial, "student.")
    tensors = {W2V + k: v for k, v in student.items() if not k.startswith("final_proj.")}
    dim = made.params.backbone.dim
    torch.manual_seed(0)
    tensors["w2v_encoder.proj.weight"] = torch.randn(len(LETTERS), dim) / dim**0.5
    tensors["w2v_encoder.proj.bias"] = torch.randn(len(LETTERS)) / 10
    inner: Any = config_of(made)
    if args:
        inner = argparse.Namespace(**inner["model"], arch="data2vec_audio")
    model = {"_name": "wav2vec_ctc", "w2v_args": inner, "final_dropout": 0.1}
    state = fairseq_state(made)
    state["cfg"] = {"model": model, "task": {"_name": "audio_finetuning", "normalize": True}}
    state["model"] = tensors
    return state


def fine_tuned_text(made: Case, classes: int = 3) -> dict[str, Any]:
    state = fairseq_state(made, teacher=False)
    tensors = state["model"]
    for name in [n for n in tensors if "regression_head" in n]:
        del tensors[name]
    dim = made.params.backbone.dim
    torch.manual_seed(0)
    for layer, rows in (("dense", dim), ("out_proj", classes)):
        name = f"classification_heads.sentence_classification_head.{layer}"
        tensors[f"{name}.weight"] = torch.randn(rows, dim) / dim**0.5
        tensors[f"{name}.bias"] = torch.randn(rows) / 10
    return state


def fine_tuned_roberta(made: Case, classes: int = 2) -> dict[str, Any]:
    """What the reference's GLUE command saves: RoBERTa's settings, flat, and its letters' head."""
    state = fine_tuned_text(made, classes)
    model, dim = made.trace["config"]["transformer"], made.params.backbone.dim
    encoder = model["encoder"]
    names = ("layers", "embed_dim", "ffn_embed_dim", "attention_heads", "normalize_before")
    settings = {f"encoder_{name}": encoder[name] for name in names}
    state["cfg"] = {
        "_name": None,
        "model": {
            "_name": "roberta",
            **settings,
            **{key: value for key, value in model.items() if key != "encoder"},
            "encoder_learned_pos": True,
            "pooler_dropout": 0.0,
            "pooler_activation_fn": "tanh",
        },
        "task": {"_name": "sentence_prediction", "num_classes": classes},
    }
    words = state["model"]["encoder.sentence_encoder.embed_tokens.weight"]
    head = {"weight": words, "bias": torch.randn(len(words))}
    head |= {"dense.weight": torch.randn(dim, dim), "dense.bias": torch.randn(dim)}
    head |= {"layer_norm.weight": torch.ones(dim), "layer_norm.bias": torch.zeros(dim)}
    state["model"] |= {f"encoder.lm_head.{name}": tensor for name, tensor in head.items()}
    return state


def beit_state(made: Case) -> dict[str, Any]:
    """checkpoint-799.pth: `args` is a namespace, the index of positions is a buffer."""
    index = {"rel_pos_bias.relative_position_index": torch.zeros(17, 17, dtype=torch.int64)}
    teacher = teacher_of(made)
    head = {f"lm_head.{k}": v for k, v in part(made.initial, "student.lm_head.").items()}
    return {
        "model": part(made.initial, "student.") | index,
        "model_ema": head | teacher | index,
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 799,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(
            model="beit_base_patch16_224", imagenet_default_mean_and_std=True, target_layers=[1, 2]
        ),
    }


def fine_tuned_beit(made: Case, own_tables: bool = True, classes: int = 6) -> dict[str, Any]:
    """mp_rank_00_model_states.pt: float16, pooled by the mean, a table of biases in each block."""
    tensors = part(made.initial, "student.")
    for name in [n for n in tensors if n.startswith(("lm_head.", "norm.", "mask_token"))]:
        del tensors[name]
    dim = made.params.backbone.dim
    if own_tables:
        table = tensors.pop("rel_pos_bias.relative_position_bias_table")
        for i in range(made.params.backbone.depth):
            name = f"blocks.{i}.attn.relative_position_bias_table"
            tensors[name] = table * (1 + i / 10)
    torch.manual_seed(0)
    tensors |= {"fc_norm.weight": torch.rand(dim) + 0.5, "fc_norm.bias": torch.randn(dim) / 10}
    tensors |= {"head.weight": torch.randn(classes, dim) / 7, "head.bias": torch.randn(classes)}
    half = {name: tensor.half() for name, tensor in tensors.items()}
    return {"module": half, "epoch": 99, "dp_world_size": 8, "csr_tensor_module_names": set()}


class Style(enum.Enum):
    """Stands in for one of fairseq's enumerations."""

    JSON = "json"


class Dictionary:
    """Stands in for fairseq's class of this name."""

    def __init__(self, symbols: list[str]) -> None:
        self.symbols = symbols
        self.indices = {symbol: i for i, symbol in enumerate(symbols)}


def save_with_fairseq_objects(state: dict[str, Any], path: Path, **options: Any) -> None:
    """Save objects whose classes say that they are of fairseq, which is not installed."""
    names = ["fairseq", "fairseq.data", "fairseq.data.dictionary"]
    modules = {name: types.ModuleType(name) for name in names}
    sys.modules.update(modules)
    try:
        for made in (Dictionary, Style):
            setattr(modules[names[-1]], made.__name__, made)
            made.__module__ = names[-1]
        torch.save(state, path, **options)
    finally:
        for name in names:
            del sys.modules[name]

"""Checkpoints of data2vec 2.0 in fairseq's layout, made from the golden traces' parameters."""

from pathlib import Path
from typing import Any

import pytest
import torch
from second_replay import CASES, Case
from torch import Tensor

import d2v
from d2v.interop.convert import convert
from d2v.model.transformer import Kept
from d2v.util.errors import UserError

KINDS = ("audio", "image", "text")


def state(kind: str, **changes: Any) -> dict[str, Any]:
    """What fairseq's trainer would have saved before the first step of a case."""
    case = Case(CASES / kind, torch.float32)
    config = case.trace["config"]
    model = {**config["model"], "modalities": {kind: config["modality"]}}
    return {
        "model": part(case.initial, "student.") | {"_ema": part(case.initial, "teacher.")},
        "cfg": {"model": {"_name": "data2vec_multi", **model, **changes}, "task": {}},
    }


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Any]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def saved(tmp_path: Path, content: dict[str, Any]) -> Path:
    torch.save(content, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def batch(kind: str, trace: dict[str, Tensor]) -> dict[str, Tensor]:
    if kind == "image":
        return {"images": trace["step0.img"]}
    return {"tokens": trace["step0.tokens"]} if kind == "text" else {"waves": trace["step0.wav"]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pretrained_file_gives_the_references_features(kind: str, tmp_path: Path) -> None:
    """The teacher's last feed-forward output is the trace's; student and decoder are complete."""
    model = d2v.load(saved(tmp_path, state(kind)))
    trace = Case(CASES / kind, torch.float32).tensors
    assert model.teacher is not None
    assert model.decoder is not None
    given = batch(kind, trace)
    with torch.no_grad():
        x, padding = model.student.encoder.local_features(given)
        found = model.teacher(x, padding, given, keep=Kept(("ffn",), 1)).layers["ffn"][-1]
    name = max(n for n in trace if n.endswith(".ffn_out"))
    assert torch.allclose(found, trace[name], rtol=0, atol=4e-5)
    states, _, _ = model.hidden(given)
    assert len(states) == model.params.backbone.depth + 1


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_converted_and_read_again(kind: str, tmp_path: Path) -> None:
    source = saved(tmp_path, state(kind))
    convert(source, "d2v", tmp_path / "out")
    one, other = d2v.load(source).state_dict(), d2v.load(tmp_path / "out").state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(UserError, match="Hugging Face has no class"):
        convert(source, "hf", tmp_path / "hf")


def test_letters_on_top(tmp_path: Path) -> None:
    """A fine-tuned file has the pre-training's settings as w2v_args, and no decoder or teacher."""
    before = state("audio")
    kept = {n: t for n, t in before["model"].items() if ".decoder." not in n and n != "_ema"}
    tensors = {f"w2v_encoder.w2v_model.{n}": t for n, t in kept.items()}
    tensors |= {"w2v_encoder.proj.weight": torch.randn(32, 48)}
    tensors |= {"w2v_encoder.proj.bias": torch.ones(32)}
    config = {"model": {"_name": "wav2vec_ctc", "w2v_args": before["cfg"]}, "task": {}}
    model = d2v.load(saved(tmp_path, {"model": tensors, "cfg": config}))
    assert model.decoder is None
    assert model.head is not None
    _, logits, _ = model.hidden({"waves": torch.randn(1, 4000)})
    assert logits is not None
    assert logits.shape[-1] == 32


def test_classes_on_top(tmp_path: Path) -> None:
    before = state("image")
    kept = {n: t for n, t in before["model"].items() if ".decoder." not in n and n != "_ema"}
    tensors = {f"model.{n}": t for n, t in kept.items()}
    tensors |= {"head.weight": torch.randn(7, 48), "head.bias": torch.zeros(7)}
    tensors |= {"fc_norm.weight": torch.ones(48), "fc_norm.bias": torch.zeros(48)}
    inner = {"model": before["cfg"]["model"]}
    config = {"model": {"_name": "mae_image_classification", "pretrained_model_args": inner}}
    model = d2v.load(saved(tmp_path, {"model": tensors, "cfg": config}))
    _, logits, _ = model.hidden({"images": torch.randn(2, 3, 64, 64)})
    assert logits is not None
    assert logits.shape == (2, 7)


def refused(tmp_path: Path, content: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        d2v.load(saved(tmp_path, content))
    return str(caught.value)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    surplus = state("text")
    surplus["model"]["modality_encoders.TEXT.something"] = torch.zeros(1)
    assert "modality_encoders.TEXT.something: surplus" in refused(tmp_path, surplus)
    missing = state("text")
    del missing["model"]["blocks.0.mlp.fc1.weight"]
    assert "blocks.0.mlp.fc1.weight: missing" in refused(tmp_path, missing)
    short = state("text")
    del short["model"]["_ema"]["0.norm1.weight"]
    assert "0.norm1.weight: missing" in refused(tmp_path, short)


def test_what_the_project_cannot_express_is_named(tmp_path: Path) -> None:
    said = refused(tmp_path, state("text", layer_norm_first=True))
    assert "does not support models with layer_norm_first True" in said
    several = state("text")
    several["model"]["modality_encoders.AUDIO.alibi_scale"] = torch.ones(1)
    assert "exactly one can be read" in refused(tmp_path, several)
    without = state("text")
    del without["cfg"]["model"]["depth"]
    assert "has no depth" in refused(tmp_path, without)

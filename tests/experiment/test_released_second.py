"""Fine-tuning from a file of data2vec 2.0 in fairseq's layout (`released:`), and its features."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import workspace
from small_sets import image_tree

import d2v
from d2v import params
from d2v.cli import prepare
from d2v.experiment import execute, runs
from d2v.interop import names, second_names
from d2v.interop.convert import convert
from d2v.model.data2vec import Data2Vec

pytestmark = pytest.mark.slow
EXPERIMENT = """
base: tiny.yaml
name: second
pretrain:
  vision:
    seeds: [0]
    released: {path: model.pt}
    encoder:
      {hidden: removed, cls_token: false, extra_tokens: 1, fixed_positions: true, input_norm: true}
    backbone: {norm_first: false, final_norm: false, norm_eps: 1e-6, prenet_depth: 1}
    regression: none
    decoder: {layers: 2, dim: 16, kernel: 3, groups: 2}
    copies: 2
    target: {top_k: 1, feature: ffn, layer_norm: instance}
    loss: {beta: 0.0, reduction: sum_sqrt_dim}
    mask: {kind: random, prob: 0.6}
    view: {normalise: imagenet}
finetune:
  digits:
    seeds: [0]
    arms: [data2vec]
    view: {normalise: imagenet}
    grid: null
    settings: {data2vec: {lr: 1e-3, steps: 4}}
"""


def released(p: params.Pretrain, model: Data2Vec) -> dict[str, Any]:
    """What fairseq's trainer would have saved of a model of images."""
    ours = model.state_dict()
    pairs = second_names.student(p), second_names.teacher(p, tuple(p.ema.shared), False)
    tensors, teacher = (second_names.together(names.to_reference(ours, x)) for x in pairs)
    assert p.decoder is not None
    assert isinstance(p.encoder, params.PatchEncoder)
    b, d = p.backbone, p.decoder
    decoder = {"decoder_dim": d.dim, "decoder_groups": d.groups, "decoder_kernel": d.kernel}
    image = {
        "input_size": p.encoder.image_size, "patch_size": p.encoder.patch_size,
        "prenet_depth": b.prenet_depth, "num_extra_tokens": p.encoder.extra_tokens,
        "ema_local_encoder": True, "decoder": {**decoder, "decoder_layers": d.layers},
    }  # fmt: skip
    whole = {
        "_name": "data2vec_multi", "depth": b.depth - b.prenet_depth, "embed_dim": b.dim,
        "num_heads": b.heads, "mlp_ratio": b.ffn_dim / b.dim, "norm_eps": b.norm_eps,
        "ema_encoder_only": False, "modalities": {"image": image},
    }  # fmt: skip
    return {"model": tensors | {"_ema": teacher}, "cfg": {"model": whole, "task": {}}}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Data2Vec]:
    """A folder in which a model was fine-tuned from such a file, and the model in the file."""
    folder = tmp_path_factory.mktemp("second")
    (folder / "params").mkdir()
    for name in ("cluster.yaml", "reported.csv"):
        shutil.copy(workspace.ROOT / "params" / name, folder / "params")
    shutil.copy(workspace.ROOT / "tests/params/tiny.yaml", folder / "params/tiny.yaml")
    (folder / "params/second.yaml").write_text(EXPERIMENT)
    images = image_tree(folder / "layouts", ("train", "dev", "test"))
    prepared = folder / workspace.PREPARED / "digits"
    prepare.main(["imagefolder", str(images), "-o", str(prepared)])
    p = params.load(folder / "params/second.yaml").pretrain["vision"]
    torch.manual_seed(0)
    model = Data2Vec(p)
    torch.save(released(p, model), folder / "model.pt")
    with contextlib.chdir(folder):
        for name in ("pretrain/vision/seed0", "finetune/digits/data2vec/seed0"):
            execute.execute(runs.load(Path("params/second.yaml"), name))
    return folder, model


def metrics(folder: Path, run: str) -> dict[str, Any]:
    path = folder / "results/second/runs" / run / "metrics.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_features_are_those_of_the_model(done: tuple[Path, Data2Vec]) -> None:
    folder, model = done
    images = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        expected, _ = model.eval().student({"images": images})
    taken = folder / metrics(folder, "pretrain/vision/seed0")["checkpoint"]
    for source in (folder / "model.pt", taken):
        states, _, _ = d2v.load(source).hidden({"images": images})
        assert torch.equal(states[-1], expected.x)


def test_it_is_fine_tuned_and_exported(done: tuple[Path, Data2Vec], tmp_path: Path) -> None:
    folder, model = done
    tuned = metrics(folder, "finetune/digits/data2vec/seed0")
    source = folder / tuned["checkpoint"]
    before, after = model.student.state_dict(), d2v.load(source).state_dict()
    moved = [n for n, t in before.items() if not torch.equal(after[f"student.{n}"], t)]
    assert len(moved) > len(before) / 2
    with contextlib.chdir(folder):
        convert(source, "d2v", tmp_path / "out")
    images = {"images": torch.randn(2, 3, 24, 24)}
    logits = [d2v.load(path).hidden(images)[1] for path in (source, tmp_path / "out")]
    assert logits[0] is not None
    assert torch.equal(*logits)

"""Every named option of the method does what its name says, in each of its values.

The golden cases hold some of their combinations; here are all, against formulas written out.
"""

import pytest
import torch
from test_faults import KINDS, SPECIAL, make

from d2v import params
from d2v.model import normalise
from d2v.task import regression_loss

NORMS = ("none", "instance", "layer")


def by_hand(x, kind):
    """(x - mean) / sqrt(biased variance + 1e-5) over time or over channels."""
    if kind == "none":
        return x
    axis = {"instance": 1, "layer": 2}[kind]
    mean = x.mean(axis, keepdim=True)
    variance = (x - mean).square().mean(axis, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


@pytest.mark.parametrize("feature", ["ffn", "block"])
@pytest.mark.parametrize("layer_norm", NORMS)
@pytest.mark.parametrize("final_norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_targets(kind, feature, layer_norm, final_norm):
    """Mean of the normalised top K layers, normalised again; K = 2 of 3 layers."""
    target = params.Target(top_k=2, feature=feature, layer_norm=layer_norm, final_norm=final_norm)
    task, data = make(kind, target=target)
    x, padding = task.model.student.encoder.local_features(data)
    output, _ = task.model.teacher(x, padding, data)
    layers = output.ffn if feature == "ffn" else output.blocks
    layers = [task.model.student.positions(layer) for layer in layers[1:]]
    expected = by_hand(sum(by_hand(layer, layer_norm) for layer in layers) / 2, final_norm)
    found = task.model.targets(x, padding, data)
    assert torch.allclose(found, expected, atol=2e-5)


def test_ffn_and_block_outputs_differ_by_the_residual():
    task, data = make("vision")
    x, padding = task.model.student.encoder.local_features(data)
    block = task.model.student.eval().backbone.blocks[0]
    block.norm_first = True
    h, padding = task.model.student.encoder(x, padding)
    end, ffn = block(h, None, padding)
    middle = h + block.attention(block.norm1(h), None, padding)
    assert torch.allclose(end, middle + ffn, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("reduction", ["sum", "sum_sqrt_dim", "mean"])
def test_losses(beta, reduction):
    """Squared error, or quadratic up to beta and linear beyond; three factors for the channels."""
    torch.manual_seed(0)
    f, y = torch.randn(7, 16), torch.randn(7, 16)
    d = (f - y).abs()
    smooth = torch.where(d < beta, 0.5 * d.square() / max(beta, 1e-9), d - 0.5 * beta)
    each = d.square() if beta == 0 else smooth
    expected = each.sum() * {"sum": 1, "sum_sqrt_dim": 16**-0.5, "mean": 1 / 16}[reduction]
    found = regression_loss(f, y, params.Loss(beta=beta, reduction=reduction))
    assert torch.allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("anneal_steps", [0, 4])
def test_teachers(kind, shared, anneal_steps):
    """Encoder shared or averaged, decay constant or linear: teacher after one update."""
    names = SPECIAL[kind]["ema"].shared if shared else []
    p = params.EMA(start=0.5, end=0.9, anneal_steps=anneal_steps, shared=names)
    task, data = make(kind, ema=p)
    before = {n: t.clone() for n, t in task.model.teacher.named_parameters()}
    with torch.no_grad():
        for parameter in task.model.student.parameters():
            parameter.add_(torch.randn_like(parameter))
    decay = 0.6 if anneal_steps else 0.9  # 0.5 + (0.9 - 0.5) / 4
    assert task.after_step(1)["ema_decay"] == pytest.approx(decay)
    now = dict(task.model.student.named_parameters())
    for name, tensor in task.model.teacher.named_parameters():
        copied = name.startswith(tuple(f"encoder.{module}" for module in names))
        expected = now[name] if copied else decay * before[name] + (1 - decay) * now[name]
        assert torch.allclose(tensor, expected, atol=1e-6), name
    own = any(name.startswith("encoder.features") for name in before)
    assert own is not shared
    # averaged features are the teacher's own: it embeds the input anew
    with torch.no_grad():
        x, padding = task.model.student.encoder.local_features(data)
        found = task.model.targets(x, padding, data)
        assert torch.equal(found, task.model.targets(x + 1, padding, data)) is not shared


@pytest.mark.parametrize("teacher_input", ["full", "masked_only"])
def test_what_the_text_teacher_reads(teacher_input):
    encoder = SPECIAL["text"]["encoder"].model_copy(update={"teacher_input": teacher_input})
    task, data = make("text", encoder=encoder)
    shown = {**data, "tokens": data["tokens"].clone()}
    shown["tokens"][:, 5] = 28  # not masked
    targets = [
        task.model.targets(*task.model.student.encoder.local_features(d), d)[d["mask"]]
        for d in (data, shown)
    ]
    assert torch.allclose(*targets) is (teacher_input == "masked_only")


@pytest.mark.parametrize(("regression", "layers"), [("none", 0), ("linear", 1), ("mlp", 2)])
def test_heads(regression, layers):
    task, data = make("text", regression=regression)
    found = [m for m in task.model.head.modules() if isinstance(m, torch.nn.Linear)]
    assert len(found) == layers
    assert task.model(data).prediction.shape == (4, 16)


def test_norms_have_no_parameters_and_do_nothing_when_off():
    x = torch.randn(2, 5, 4)
    assert normalise(x, "none") is x

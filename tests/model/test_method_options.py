"""Every named option of the method does what its name says, in each of its values.

The golden cases hold some of their combinations; here are all, against formulas written out.
"""

import pytest
import torch
from tiny_models import BACKBONE, KINDS, SPECIAL, make

from d2v import params
from d2v.model.data2vec import normalise
from d2v.model.transformer import Kept, Transformer
from d2v.training.task import regression_loss

NORMS = ("none", "instance", "layer")


def by_hand(x, kind):
    """(x - mean) / sqrt(biased variance + 1e-5) over time or over channels."""
    if kind == "none":
        return x
    axis = {"instance": 1, "layer": 2}[kind]
    mean = x.mean(axis, keepdim=True)
    variance = (x - mean).square().mean(axis, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


FEATURES = ("attention", "ffn", "ffn_residual", "block")


def features_by_hand(backbone, x, padding):
    """One dictionary a block: each feature of params.Target, without dropout."""
    keys = None if padding is None else ~padding[:, None, None, :]
    shared = backbone.position_bias
    mask = shared(x.shape[1]) if shared is not None else keys
    found = []
    for block in backbone.blocks:
        first, second = (block.norm1, block.norm2)
        scale1, scale2 = (1 if g is None else g for g in (block.gamma1, block.gamma2))
        if block.norm_first:
            attention = scale1 * block.attention(first(x), mask, padding)
            x = x + attention
            ffn = scale2 * block.fc2(torch.nn.functional.gelu(block.fc1(second(x))))
            residual = end = x + ffn
        else:
            more = block.alpha or 1
            attention = block.attention(x, mask, padding)
            x = first(more * x + attention)
            ffn = block.fc2(torch.nn.functional.gelu(block.fc1(x)))
            residual = more * x + ffn
            end = second(residual)
        found.append(dict(zip(FEATURES, (attention, ffn, residual, end), strict=True)))
        x = end
    return found


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("layer_norm", NORMS)
@pytest.mark.parametrize("final_norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_targets(kind, feature, layer_norm, final_norm):
    """Mean of the normalised top K layers, normalised again; K = 2 of 3 layers."""
    target = params.Target(top_k=2, feature=feature, layer_norm=layer_norm, final_norm=final_norm)
    task, data = make(kind, target=target)
    x, padding = task.model.student.encoder.local_features(data)
    teacher = task.model.teacher
    features = teacher.encoder if "features" not in teacher.shared else None
    h = features.local_features(data)[0] if features else x
    h, inner = teacher.encoder(h, padding)
    layers = [block[feature] for block in features_by_hand(teacher.backbone, h, inner)]
    layers = [task.model.student.positions(layer) for layer in layers[1:]]
    expected = by_hand(sum(by_hand(layer, layer_norm) for layer in layers) / 2, final_norm)
    found = task.model.targets(x, padding, data)
    assert torch.allclose(found, expected, atol=2e-4)


def test_ffn_and_block_outputs_differ_by_the_residual():
    task, data = make("vision")
    x, padding = task.model.student.encoder.local_features(data)
    block = task.model.student.eval().backbone.blocks[0]
    block.norm_first = True
    h, padding = task.model.student.encoder(x, padding)
    inside = block(h, None, padding)
    middle = h + block.attention(block.norm1(h), None, padding)
    assert torch.allclose(inside.block, middle + inside.ffn, atol=1e-5)


def test_only_what_targets_are_made_of_is_kept():
    task, data = make("text")
    x, padding = task.model.student.encoder.local_features(data)
    student, _ = task.model.student.see(x, padding, data)
    assert not student.layers
    for feature in FEATURES:
        teacher = task.model.teacher(x, padding, data, keep=Kept((feature,), 2))
        assert {name: len(layers) for name, layers in teacher.layers.items()} == {feature: 2}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("layer_norm", NORMS)
def test_masked_positions_alone_are_those_of_all_positions(kind, feature, layer_norm):
    """The end of the last block runs at the masked positions only, for student and teacher."""
    target = params.Target(top_k=2, feature=feature, layer_norm=layer_norm, final_norm="layer")
    task, data = make(kind, target=target)
    model, mask = task.model.eval(), data["mask"]
    with torch.no_grad():
        found = model(data)
        x, padding = model.student.encoder.local_features(data)
        whole, _ = model.student.see(x, padding, data)
        targets = model.targets(x, padding, data)
        places = model({**data, "masked": mask.flatten().nonzero().flatten()})
    assert torch.allclose(found.encoder_output, model.student.positions(whole.x)[mask], atol=1e-5)
    assert torch.allclose(found.target, targets[mask], atol=1e-5)
    assert torch.equal(places.prediction, found.prediction)
    assert torch.equal(places.target, found.target)


@pytest.mark.parametrize("kind", KINDS)
def test_where_the_last_block_is_skipped_its_input_is_used(kind):
    task, data = make(kind)
    backbone = task.model.train().student.backbone
    backbone.layer_drop = 1.0
    with torch.no_grad():
        found = task.model(data)
        x, padding = task.model.student.encoder.local_features(data)
        whole, _ = task.model.student.see(x, padding, data)
    expected = task.model.student.positions(whole.x)[data["mask"]]
    assert torch.equal(found.encoder_output, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_stochastic_depth_is_that_of_examples_also_at_masked_positions(kind):
    """Both branches of the last block dropped for every example leave its input."""
    task, _ = make(kind)
    block = task.model.student.backbone.blocks[-1].eval()
    h = torch.randn(2, 5, BACKBONE.dim)
    block.norm_first = True
    rows = torch.tensor([0, 3, 6, 9])
    paths = torch.tensor([[0.0, 2.0], [0.0, 2.0]]).view(2, 2, 1, 1)
    whole = block(h, None, None, None, paths).block
    assert torch.equal(whole[0], h[0])
    assert not torch.allclose(whole[1], h[1], atol=1e-3)
    few = block(h, None, None, rows, paths).block
    assert torch.allclose(few, whole.flatten(0, 1)[rows], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_blocks_give_the_same_gradients(kind):
    """With dropout: the second forward pass draws what the first one drew."""
    found = []
    for recompute in (False, True):
        torch.manual_seed(1)
        task, data = make(kind)
        task.train()
        for module in task.model.student.backbone.modules():
            if hasattr(module, "dropout"):
                module.dropout = 0.2
        task.model.student.backbone.recompute = recompute
        torch.manual_seed(2)
        out = task(data)
        out["loss"].backward()
        gradients = {n: p.grad for n, p in task.named_parameters() if p.grad is not None}
        found.append((out["loss"], gradients))
    (loss, gradients), (other_loss, other_gradients) = found
    assert torch.equal(loss, other_loss)
    assert gradients.keys() == other_gradients.keys()
    assert all(torch.equal(gradients[name], other_gradients[name]) for name in gradients)


def test_deep_norm_raises_residuals_and_lowers_initial_values():
    """alpha = (2 N)^(1/4) on the residual, (8 N)^(-1/4) on value, output and feed-forward."""
    plain = SPECIAL["speech"].get("backbone", BACKBONE)
    torch.manual_seed(3)
    before = Transformer(plain).state_dict()
    torch.manual_seed(3)
    deep = Transformer(plain.model_copy(update={"deep_norm": True}))
    depth, dim = plain.depth, plain.dim
    for name, now in deep.state_dict().items():
        expected = before[name].clone()
        if name.endswith(("fc1.weight", "fc2.weight", "out.weight")):
            expected /= (8 * depth) ** 0.25
        if name.endswith("qkv.weight"):
            expected[2 * dim :] /= (8 * depth) ** 0.25
        assert torch.allclose(now, expected, rtol=1e-6), name
    x = torch.randn(2, 5, dim)
    blocks = features_by_hand(deep.eval(), x, None)
    assert deep.blocks[0].alpha == pytest.approx((2 * depth) ** 0.25)
    assert torch.allclose(deep(x).x, blocks[-1]["block"], atol=1e-6)
    assert not torch.allclose(Transformer(plain).eval()(x).x, deep(x).x, atol=1e-3)


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
        other = task.model.targets(x + torch.randn(x.shape[-1]), padding, data)
    assert ((found - other).abs().max() > 1e-3) == shared
    assert torch.equal(found, other) is not shared


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


# A change is far larger than rounding, and no change far smaller than that, on every processor.
CHANGED, ROUNDING = 1e-3, 1e-5


def largest(difference):
    """Largest absolute difference at each position, over rows and channels: (B, T, D) -> (T,)."""
    return difference.abs().amax((0, 2))


@pytest.mark.parametrize("context", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_of_limited_context_does_not_see_beyond_it(kind, context):
    """A change at one input of the blocks reaches depth x context positions to each side.

    The change is random per channel: a constant would be removed by the first LayerNorm.
    """
    task, _ = make(kind)
    backbone = task.model.teacher.backbone
    length = (
        2 * len(backbone.blocks) * context + 7
    )  # some positions on both sides stay out of reach
    h = torch.randn(2, length, BACKBONE.dim)
    other = h.clone()
    at = length // 2
    other[:, at] += 10 * torch.randn(BACKBONE.dim)
    with torch.no_grad():
        one, two = (
            backbone(each, None, keep=Kept(("block",), 1), context=context).layers["block"][-1]
            for each in (h, other)
        )
    difference = largest(one - two)
    reached = (torch.arange(length) - at).abs() <= len(backbone.blocks) * context
    assert 0 < reached.sum() < length
    assert (difference[reached] > CHANGED).all()
    assert (difference[~reached] < ROUNDING).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_context_of_the_targets_limits_the_teacher(kind):
    task, data = make(kind)
    with torch.no_grad():
        x, padding = task.model.student.encoder.local_features(data)
        whole = task.model.targets(x, padding, data)
        task.model.target = task.model.target.model_copy(update={"context": x.shape[1]})
        same = task.model.targets(x, padding, data)
        task.model.target = task.model.target.model_copy(update={"context": 1})
        limited = task.model.targets(x, padding, data)
    assert torch.allclose(whole, same, atol=1e-4)
    assert largest(whole - limited).min() > CHANGED


@pytest.mark.parametrize("kind", KINDS)
def test_padding_stays_hidden_in_a_limited_context(kind):
    """The last positions that are shown have padding within their context.

    What stands at the padding is changed behind the encoder, which would zero it.
    """
    task, _ = make(kind)
    backbone = task.model.teacher.backbone
    h = torch.randn(2, 12, BACKBONE.dim)
    padding = torch.zeros(2, 12, dtype=torch.bool)
    padding[:, -4:] = True
    other = torch.where(padding[..., None], torch.randn_like(h), h)
    with torch.no_grad():
        hidden, again, shown = (
            backbone(x, hides, keep=Kept(("block",), 1), context=2).layers["block"][-1]
            for x, hides in ((h, padding), (other, padding), (other, torch.zeros_like(padding)))
        )
    assert torch.isfinite(hidden[:, :-4]).all()
    assert largest(hidden - again)[:-4].max() < ROUNDING
    assert largest(again - shown)[-6:-4].min() > CHANGED

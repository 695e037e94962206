"""Named regression tests: what other re-implementations of data2vec got wrong.

And the teacher: its decay values, and what is averaged, copied and shared.
"""

import pytest
import torch
from tiny_models import BACKBONE, HIDDEN, KINDS, SHOWN, SPECIAL, make
from torch import nn

from d2v import params
from d2v.model import data2vec, ema
from d2v.model.transformer import Kept


def altered(kind, data, position):
    """Another input at one position (of frames: in the samples that only it sees)."""
    new = {name: tensor.clone() for name, tensor in data.items()}
    if kind == "vision":
        row, column = divmod(position, 3)
        new["images"][:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
    elif kind == "speech":
        # frame t of strides 5 * 2 sees samples 10 t ... 10 t + 19, the ones from + 10 on with t + 1
        new["waves"][:, 10 * position + 10] += 3
    else:
        for name in ("tokens", "masked_tokens"):
            shown = new[name][:, position] != 29
            new[name][:, position] = torch.where(shown, 28, new[name][:, position])
    return new


def regress(task, data):
    task.eval()
    with torch.no_grad():
        return task.model(data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction", ["sum_sqrt_dim", "sum", "mean"])
def test_the_loss_is_a_scalar_sum(kind, reduction):
    """Element-wise losses were passed to backward; here it is one number, a sum over positions."""
    task, data = make(kind, loss=params.Loss(beta=2.0, reduction=reduction))
    task.eval()
    out = task(data)
    assert out["loss"].shape == ()
    assert out["count"].item() == data["mask"].sum().item() == 4
    out["loss"].backward()
    rows = [task({k: v[i : i + 1] for k, v in data.items()})["loss"] for i in (0, 1)]
    assert sum(rows).item() == pytest.approx(out["loss"].item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["vision", "text"])
def test_true_means_hidden(kind):
    """The student cannot see masked positions and sees the others; masked ones are regressed."""
    task, data = make(kind)
    base = regress(task, data)
    assert len(base.prediction) == len(base.target) == 4
    hidden = regress(task, altered(kind, data, HIDDEN)).prediction
    assert torch.equal(hidden, base.prediction)
    shown = regress(task, altered(kind, data, SHOWN)).prediction
    assert not torch.allclose(shown, base.prediction, atol=1e-3)


def test_masked_frames_hold_the_mask_embedding_only():
    """Frames overlap in the waveform, so this looks at what enters the positions."""
    task, data = make("speech")
    encoder = task.model.student.encoder
    x, padding = encoder.local_features(data)
    seen, _ = encoder.mask_features(x, padding, data)
    mask = data["mask"]
    assert torch.equal(seen[~mask], x[~mask])
    assert (seen[mask] == encoder.mask_embedding).all()
    assert not torch.isclose(x[mask], encoder.mask_embedding).any(-1).all()


def test_patches_are_patches():
    """Patches were made by reshaping (mixing rows); here each is a square of the image."""
    task, data = make("vision")
    features, images = task.model.student.encoder, data["images"]
    x, _ = features.local_features(data)
    for position in range(9):
        row, column = divmod(position, 3)
        square = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        weight, bias = features.features.weight, features.features.bias
        expected = square.flatten(1) @ weight.flatten(1).T + bias
        assert torch.allclose(x[:, position], expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_sees_the_whole_input(kind):
    """Ports gave the teacher the mask, or its contrary."""
    task, data = make(kind)
    base = regress(task, data).target
    for position in (HIDDEN, SHOWN):
        other = regress(task, altered(kind, data, position)).target
        assert not torch.allclose(other, base, atol=1e-3)
    shifted = {**data, "mask": data["mask"].roll(1, dims=1)}
    x, padding = task.model.student.encoder.local_features(data)
    targets = [task.model.targets(x, padding, d) for d in (data, shifted)]
    assert torch.equal(*targets)


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_has_no_gradient_and_no_dropout(kind):
    task, data = make(kind)
    task.train()
    first, second = task.model(data), task.model(data)
    assert torch.equal(first.target, second.target)
    assert not torch.equal(first.prediction, second.prediction)
    assert not first.target.requires_grad
    task(data)["loss"].backward()
    assert all(p.grad is None for p in task.model.teacher.parameters())
    assert not any(entry.name.startswith("model.teacher") for entry in task.named_groups())
    # the shared front end learns from the student's side only
    student = task.model.student.encoder
    x, padding = student.local_features(data)
    assert not task.model.targets(x, padding, data).requires_grad


def test_instance_norm_is_over_time():
    x = torch.randn(3, 50, 8) * torch.arange(1, 9) + torch.arange(8)
    y = data2vec.normalise(x, "instance")
    assert torch.allclose(y.mean(1), torch.zeros(3, 8), atol=1e-5)
    assert torch.allclose(y.var(1, unbiased=False), torch.ones(3, 8), atol=1e-3)
    assert y.mean(2).abs().max() > 0.1


@pytest.mark.parametrize("feature", ["ffn", "block"])
@pytest.mark.parametrize("top_k", [1, 3])
def test_the_top_layers_are_the_last_ones(feature, top_k):
    """Lists with the input in front made K reach one layer too low and miss the last."""
    target = params.Target(top_k=top_k, feature=feature, layer_norm="layer")
    task, data = make("text", target=target)
    x, padding = task.model.student.encoder.local_features(data)
    layers = task.model.teacher(x, padding, data, keep=Kept((feature,))).layers[feature]
    assert len(layers) == BACKBONE.depth
    norm = [nn.functional.layer_norm(layer, (16,)) for layer in layers[3 - top_k :]]
    found = task.model.targets(x, padding, data)
    assert torch.allclose(found, sum(norm) / top_k, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_is_in_the_state_dict(kind):
    """Resumed runs started with a new teacher, because it was no sub-module."""
    task, data = make(kind)
    with torch.no_grad():
        for parameter in task.model.student.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    task.after_step(1)
    other, _ = make(kind)
    other.load_state_dict(task.state_dict())
    assert torch.equal(regress(other, data).target, regress(task, data).target)
    assert any(name.startswith("model.teacher.backbone") for name in task.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_shared_modules_equal_the_student_and_others_lag(kind):
    task, _ = make(kind)
    student, teacher = task.model.student, task.model.teacher
    before = {n: p.clone() for n, p in teacher.named_parameters()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    decay = task.after_step(1)["ema_decay"]
    assert decay == pytest.approx(0.6)
    now = dict(student.named_parameters())
    shared = SPECIAL[kind]["ema"].shared
    copied = 0
    for name, parameter in teacher.named_parameters():
        if name.startswith(tuple(f"encoder.{module}" for module in shared)):
            assert torch.equal(parameter, now[name]), name
            copied += 1
        else:
            expected = decay * before[name] + (1 - decay) * now[name]
            assert torch.allclose(parameter, expected, atol=1e-6), name
    assert copied > 0
    assert not any(name.startswith("encoder.features") for name, _ in teacher.named_parameters())


# --- decay, against values of the reference's code --------------------------------------------

DECAYS = {
    (0.999, 0.9999, 30_000): {
        1: 0.99900003,
        100: 0.999003,
        7_500: 0.999225,
        29_999: 0.99989997,
        30_000: 0.9999,
        30_001: 0.9999,
    },
    (0.999, 0.9999, 300_000): {1: 0.999000003, 5_000: 0.999015, 299_999: 0.999899997},
    (0.999, 0.9998, 375_300): {
        1: 0.999000002131628,
        187_650: 0.9994,
        375_299: 0.999799997868372,
        375_300: 0.9998,
    },
}


@pytest.mark.parametrize("schedule", list(DECAYS))
def test_decays_of_the_recipes(schedule):
    start, end, steps = schedule
    p = params.EMA(start=start, end=end, anneal_steps=steps)
    for updates, value in DECAYS[schedule].items():
        assert ema.decay(p, updates) == pytest.approx(value, abs=1e-12)


def test_decay_of_the_original_vision_code():
    p = params.EMA(start=0.8, end=0.95, anneal_steps=10, first=0)
    values = [ema.decay(p, n) for n in (1, 2, 10, 11, 12)]
    assert values == pytest.approx([0.8, 0.815, 0.935, 0.95, 0.95], abs=1e-12)


@pytest.mark.parametrize("first", [0, 1])
def test_constant_decay(first):
    p = params.EMA(start=0.999, end=0.9998, anneal_steps=0, first=first)
    assert [ema.decay(p, n) for n in (1, 2, 1000)] == [0.9998] * 3

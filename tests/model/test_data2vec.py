"""Targets of the input in place of a teacher's: what is predicted, from what, with which loss."""

import pytest
import second_models
import torch
import torch.nn.functional as F
from tiny_models import BACKBONE, COMMON, HIDDEN, SPECIAL, batch

from d2v import params
from d2v.training.task import Pretraining, regression_loss

OF = {"patches": "vision", "log_mel": "speech", "units": "speech", "tokens": "text"}


def make(of: str) -> tuple[Pretraining, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    kind = OF[of]
    target = params.InputTarget(kind="input", of=of, units=6 if of == "units" else None)
    task = Pretraining(
        params.Pretrain(**{**COMMON, **SPECIAL[kind], "backbone": BACKBONE, "target": target})
    )
    if of == "units":
        task.model.inputs.centres.normal_()
    return task.eval(), batch(kind)


@pytest.mark.parametrize("of", OF)
def test_no_teacher_is_built_or_updated(of: str) -> None:
    task, _ = make(of)
    assert not [name for name in task.state_dict() if "teacher" in name]
    assert task.after_step(1) == {}


@pytest.mark.parametrize("of", OF)
def test_targets_do_not_see_the_masks_and_the_student_does_not_see_the_targets(of: str) -> None:
    """What hides at masked positions determines the targets and does not reach the predictions."""
    task, given = make(of)
    key = {"vision": "images", "speech": "waves", "text": "tokens"}[OF[of]]
    first = task.model(given)
    other = {**given, "mask": torch.roll(given["mask"], 1, 1)}
    places = given["mask"].flatten().nonzero().flatten()
    x, padding = task.model.student.encoder.local_features(given)
    whole = task.model.targets(x, padding, other).flatten(0, 1)
    assert torch.equal(first.target, whole[places])
    if of in ("patches", "tokens"):  # elsewhere, neighbouring frames share samples
        changed = dict(given)
        hidden = given["mask"]
        if of == "tokens":
            changed[key] = torch.where(hidden, given[key] % 24 + 5, given[key])
        else:
            shown = hidden.view(2, 1, 3, 3).repeat_interleave(4, 2).repeat_interleave(4, 3)
            changed[key] = torch.where(shown, torch.randn_like(given[key]), given[key])
        second = task.model(changed)
        assert torch.allclose(first.prediction, second.prediction, atol=1e-6)
        assert not torch.equal(first.target, second.target)


@pytest.mark.parametrize("of", OF)
def test_loss_is_regression_of_values_and_cross_entropy_of_classes(of: str) -> None:
    task, given = make(of)
    found, out = task(given), task.model(given)
    if of in ("units", "tokens"):
        assert out.target.dtype == torch.int64
        expected = F.cross_entropy(out.prediction, out.target, reduction="sum")
        hits = (out.prediction.argmax(-1) == out.target).sum()
        assert task.summary(found)["target_hits"] == hits / len(out.target)
    else:
        expected = regression_loss(out.prediction, out.target, task.loss)
        assert "target_std" in task.summary(found)
    assert torch.allclose(found["loss"], expected)
    assert found["count"] == given["mask"].sum()
    logs = {name: float(value.detach()) for name, value in task.summary(found).items()}
    task.check(10_000, logs | {"prediction_std": 1.0})  # a missing target_std is no collapse


@pytest.mark.parametrize("of", OF)
def test_all_of_the_student_learns_and_no_target_does(of: str) -> None:
    task, given = make(of)
    task(given)["loss"].backward()
    assert all(p.grad is not None for p in task.model.head.parameters())
    assert task.model.student.backbone.blocks[0].fc1.weight.grad.abs().sum() > 0
    assert not list(task.model.inputs.parameters())


@pytest.mark.parametrize("of", OF)
def test_a_decoder_predicts_the_input_for_every_copy(of: str) -> None:
    """As in MAE: the blocks see the visible positions, and the head follows the decoder."""
    target = params.InputTarget(kind="input", of=of, units=6 if of == "units" else None)
    loss = params.Loss(beta=0.0, reduction="mean")
    task, given = second_models.make(OF[of], target=target, loss=loss)
    if of == "units":
        task.model.inputs.centres.normal_()
    out = task.model(given)
    places = given["mask"].flatten().nonzero().flatten()
    copies = task.model.inputs(given).repeat_interleave(second_models.COPIES, 0)
    assert torch.equal(out.target, copies.flatten(0, 1)[places])
    task(given)["loss"].backward()
    for part in (task.model.head, task.model.decoder, task.model.student.backbone):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())


def test_patches_are_normalised_pixels_in_row_order() -> None:
    task, given = make("patches")
    found = task.model.inputs(given)
    one = given["images"][1, :, 4:8, 8:12]  # row 1, column 2 of 3 x 3 patches
    spread, mean = torch.var_mean(one)
    expected = ((one - mean) / (spread + 1e-6).sqrt()).permute(1, 2, 0).flatten()
    assert torch.allclose(found[1, 5], expected, atol=1e-5)


def test_tokens_are_predicted_with_the_embeddings_as_output_weights() -> None:
    task, given = make("tokens")
    out = task.model(given)
    head, table = task.model.head, task.model.student.encoder.features.weight
    hidden = F.gelu(out.encoder_output @ head.dense.weight.T + head.dense.bias)
    hidden = F.layer_norm(hidden, hidden.shape[-1:]) * head.norm.weight + head.norm.bias
    assert torch.allclose(out.prediction, hidden @ table.T + head.bias, atol=1e-5)
    assert torch.equal(out.target, given["tokens"][given["mask"]])
    assert given["mask"][0, HIDDEN]


def test_a_frozen_teacher_is_a_decay_of_one() -> None:
    """The control that tells moving targets from contextual ones costs no option of its own."""
    torch.manual_seed(0)
    ema = params.EMA(start=1.0, end=1.0, anneal_steps=0)
    task = Pretraining(
        params.Pretrain(**{**COMMON, **SPECIAL["vision"], "backbone": BACKBONE, "ema": ema})
    )
    before = {name: t.clone() for name, t in task.model.teacher.state_dict().items()}
    with torch.no_grad():
        for parameter in task.model.student.parameters():
            parameter.add_(1.0)
    assert task.after_step(1) == {"ema_decay": 1.0}
    after = task.model.teacher.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("kind", "of"), [("vision", "tokens"), ("text", "log_mel")])
def test_targets_of_another_kind_of_input_are_refused(kind: str, of: str) -> None:
    target = params.InputTarget(kind="input", of=of)
    with pytest.raises(ValueError, match=f"target.of {of}: this kind of encoder cannot"):
        params.Pretrain(**{**COMMON, **SPECIAL[kind], "backbone": BACKBONE, "target": target})

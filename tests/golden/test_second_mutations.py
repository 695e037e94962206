"""One deliberate mistake at a time in what data2vec 2.0 adds: each must be found."""

import copy

import pytest
import second_compare
import torch
import torch.nn.functional as F
from second_replay import CASES, Case, replay

from d2v.model import alibi, data2vec, visible
from d2v.model.decoder import Decoder
from d2v.model.encoders import speech
from d2v.training import task as tasks

pytestmark = pytest.mark.slow


def change(case, **groups):
    """Replace keys of the case's parameters: change(case, decoder={"residual": False})."""
    for group, keys in groups.items():
        new = getattr(case.params, group).model_copy(update=keys)
        case.params = case.params.model_copy(update={group: new})


def mask_polarity(case, patch):
    """The student sees the hidden positions; the loss is still at the right ones."""
    see = data2vec.Student.see

    def wrong(self, x, padding, batch, **wanted):
        if "visible" not in batch:
            return see(self, x, padding, batch, **wanted)
        # as many rows of the contrary as there are visible positions, so that shapes fit
        hidden = visible.hidden_of(batch["visible"], x.shape[1])
        order = hidden.int().argsort(dim=1, descending=True, stable=True)
        shown = order[:, : batch["visible"].shape[1]].sort(1).values
        return see(self, x, padding, {**batch, "visible": shown}, **wanted)

    patch.setattr(data2vec.Student, "see", wrong)


def decoder_residual(case, patch):
    change(case, decoder={"residual": not case.params.decoder.residual})


def order_of_copies(case, patch):
    """Targets as if all examples' first copies came first."""

    def wrong(masked, length, copies):
        examples = len(case.tensors["step0.mask"]) // copies
        return masked // length % examples * length + masked % length

    patch.setattr(data2vec, "of_examples", wrong)


def order_of_students_copies(case, patch):
    def wrong(x, places):
        row = torch.arange(len(places)) % len(x)
        return (places + row.unsqueeze(1) * x.shape[1]).flatten()

    patch.setattr(visible, "_places", wrong)


def averaged_decoder(case, patch):
    """The decoder is averaged like the teacher, and the average predicts."""
    update = data2vec.Data2Vec.update_teacher

    def wrong(self, decay):
        update(self, decay)
        before = self.__dict__.setdefault("average_of_decoder", copy.deepcopy(first[0]))
        with torch.no_grad():
            for mine, theirs in zip(before.parameters(), self.decoder.parameters(), strict=True):
                mine.lerp_(theirs, 1 - decay)
                theirs.copy_(mine)

    load, first = Case.load, []

    def remembered(self, task):
        load(self, task)
        first.append(copy.deepcopy(task.model.decoder))

    patch.setattr(Case, "load", remembered)
    patch.setattr(data2vec.Data2Vec, "update_teacher", wrong)


def alibi_on_one_axis(case, patch):
    """Queries at their positions, keys as if they were the first ones."""

    def wrong(self, length, prefix=0, visible=None):
        if visible is None:
            visible = torch.arange(length - prefix).unsqueeze(0)
        keys = torch.arange(length - prefix).view(1, 1, -1)
        distance = (visible.unsqueeze(2) - keys).abs()
        slope = self.slopes * self.scale.clamp(min=0.0)
        return F.pad(distance.unsqueeze(1) * -slope.view(1, -1, 1, 1), (prefix, 0, prefix, 0))

    patch.setattr(alibi.Alibi, "forward", wrong)


def scale_not_clamped(case, patch):
    right = alibi.Alibi.forward

    def wrong(self, *where):
        scale = self._parameters["scale"]
        self._parameters["scale"] = _Unclamped(scale)
        try:
            return right(self, *where)
        finally:
            self._parameters["scale"] = scale

    patch.setattr(alibi.Alibi, "forward", wrong)


class _Unclamped:
    def __init__(self, scale):
        self.scale, self.device, self.dtype = scale, scale.device, scale.dtype

    def clamp(self, min):
        return self.scale


def class_loss_of_the_batch(case, patch):
    """cls_loss relative to the mean, without the number of copies."""
    change(case, loss={"class_weight": case.trace["config"]["model"]["cls_loss"]})


def class_target_at_hidden_positions(case, patch):
    forward = data2vec.Data2Vec._decoded

    def wrong(self, decoder, x, padding, batch, masked):
        found = forward(self, decoder, x, padding, batch, masked)
        rows = found.target.view(len(batch["visible"]), -1, found.target.shape[1])
        found.class_target = rows.mean(1)
        return found

    patch.setattr(data2vec.Data2Vec, "_decoded", wrong)


def sample_size_without_copies(case, patch):
    forward = tasks.Pretraining.forward

    def wrong(self, batch):
        found = forward(self, batch)
        return {**found, "count": found["count"] / case.params.copies}

    patch.setattr(tasks.Pretraining, "forward", wrong)


def hidden_frames_in_the_positions(case, patch):
    """The convolutions see hidden frames instead of zeros."""
    patch.setattr(speech, "hidden_of", lambda v, length: torch.zeros(len(v), length) > 0)


def mask_noise(case, patch):
    change(case, decoder={"noise": 0.01})


def shared_parts_averaged(case, patch):
    """The teacher averages the features that it should share with the student."""
    assert "features" in case.params.ema.shared
    change(case, ema={"shared": []})


def even_padding(case, patch):
    """Convolutions that look one position less far back."""
    same = Decoder._same

    def wrong(self, conv, x):
        return same(self, conv, x.roll(1, 1))

    patch.setattr(Decoder, "_same", wrong)


EVERYWHERE = (
    mask_polarity,
    decoder_residual,
    order_of_copies,
    averaged_decoder,
    sample_size_without_copies,
    mask_noise,
    even_padding,
)
SOME = {
    "audio": (alibi_on_one_axis, hidden_frames_in_the_positions, shared_parts_averaged),
    "image": (class_loss_of_the_batch, class_target_at_hidden_positions, order_of_students_copies),
    "text": (order_of_students_copies, shared_parts_averaged),
}


def pytest_generate_tests(metafunc):
    """Each mistake in every case of the repository that it concerns."""
    if "mistake" in metafunc.fixturenames:
        pairs = [(k, m) for k in SOME for m in (*EVERYWHERE, *SOME[k])]
        metafunc.parametrize(
            ("kind", "mistake"), pairs, ids=[f"{kind}-{m.__name__}" for kind, m in pairs]
        )


def test_a_mistake_is_found(kind, mistake, monkeypatch):
    case = Case(CASES / kind)
    mistake(case, monkeypatch)
    assert second_compare.faults(case, replay(case))


def test_without_a_mistake_nothing_is_found():
    """So that the tests above show mistakes, not a comparison that always fails."""
    for kind in SOME:
        case = Case(CASES / kind)
        assert not second_compare.faults(case, replay(case))


def test_a_scale_that_is_not_clamped_is_found(monkeypatch):
    """No scale of the traces falls below zero, so one is set there: it counts as zero."""
    losses = [_loss_with_scales(*scales) for scales in ((-0.5, 1.0), (0.0, 1.0))]
    assert losses[0] == losses[1]
    scale_not_clamped(None, monkeypatch)
    assert _loss_with_scales(-0.5, 1.0) != pytest.approx(losses[1], rel=1e-4)


def _loss_with_scales(*scales):
    case = Case(CASES / "audio", torch.float32)
    task = tasks.Pretraining(case.params)
    case.load(task)
    for network in (task.model.student, task.model.teacher):
        network.backbone.position_bias.scale.data[: len(scales)] = torch.tensor(scales)
    return task(case.batch(0))["loss"].item()


def test_the_weight_of_the_class_loss_is_one_of_rows_not_of_portions():
    """Two micro-batches have the gradient of one: the reference's weight would depend on them."""
    case = Case(CASES / "image", torch.float32)
    losses, gradients = [], []
    for parts in (1, 2):
        task = tasks.Pretraining(case.params)
        case.load(task)
        sums = [task(batch) for batch in _parts(case.batch(0), case.params.copies, parts)]
        count = sum(s["count"] for s in sums)
        loss = sum(s["loss"] for s in sums) / count
        loss.backward()
        losses.append(loss.item())
        gradients.append(task.model.student.encoder.cls.grad)
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6)


def _parts(batch, copies, parts):
    count = len(batch["images"]) // parts
    for i in range(parts):
        rows = slice(i * count * copies, (i + 1) * count * copies)
        yield {
            "images": batch["images"][i * count : (i + 1) * count],
            "mask": batch["mask"][rows],
            "visible": batch["visible"][rows],
        }

"""One deliberate mistake in the model at a time: the golden comparison must find every one."""

import copy
from dataclasses import replace

import compare
import pytest
import torch.nn.functional as F
from replay import CASES, Case, replay

from d2v import params
from d2v.model import data2vec, ema
from d2v.model.encoders.speech import SpeechEncoder
from d2v.model.encoders.vision import VisionEncoder
from d2v.training import optim

pytestmark = pytest.mark.slow


def change(case, **groups):
    """Replace keys of the case's parameters: change(case, target={"top_k": 2})."""
    for group, keys in groups.items():
        new = getattr(case.params, group).model_copy(update=keys)
        case.params = case.params.model_copy(update={group: new})


def layer_norm_eps(case, patch):
    eps = case.params.backbone.norm_eps
    change(case, backbone={"norm_eps": 1e-6 if eps == 1e-5 else 1e-5})


def one_layer_less(case, patch):
    change(case, target={"top_k": case.params.target.top_k - 1})


def one_layer_more(case, patch):
    change(case, target={"top_k": case.params.target.top_k + 1})


def top_layers_shifted(case, patch):
    """The K layers below the top one, as if the list had the input in front and not the output."""
    forward = data2vec.Teacher.forward

    def shifted(self, *inputs, keep, **wanted):
        one_more = replace(keep, top=None if keep.top is None else keep.top + 1)
        output = forward(self, *inputs, keep=one_more, **wanted)
        layers = {name: found[:-1] for name, found in output.layers.items()}
        return replace(output, layers=layers)

    patch.setattr(data2vec.Teacher, "forward", shifted)


def norm_over_the_other_axis(case, patch):
    other = {"instance": "layer", "layer": "instance", "none": "none"}
    right = case.params.target
    norms = ("layer_norm", "final_norm")
    change(case, target={name: other[getattr(right, name)] for name in norms})


def norm_over_the_batch(case, patch):
    """Statistics of all utterances together."""

    def wrong(x, kind):
        return F.batch_norm(x.transpose(1, 2), None, None, training=True).transpose(1, 2)

    patch.setattr(data2vec, "normalise", wrong)


def ema_before_the_optimiser(case, patch):
    build = optim.build

    def early(task, p):
        optimiser = build(task, p)
        step, update = optimiser.step, task.model.update_teacher
        turn = iter(range(1, 1000))

        def update_then_step():
            update(ema.decay(task.ema, next(turn)))
            step()

        optimiser.step = update_then_step
        task.model.update_teacher = lambda decay: None
        return optimiser

    patch.setattr(optim, "build", early)


def decay_one_early(case, patch):
    decay = ema.decay
    patch.setattr(ema, "decay", lambda p, updates: decay(p, updates + 1))


def decay_one_late(case, patch):
    decay = ema.decay
    patch.setattr(ema, "decay", lambda p, updates: decay(p, updates - 1))


def annealing_ends_one_step_early(case, patch):
    """step + 1 >= anneal_steps in place of step >= anneal_steps."""
    decay = ema.decay

    def wrong(p, updates):
        early = updates + p.first >= p.anneal_steps
        return p.end if early else decay(p, updates)

    patch.setattr(ema, "decay", wrong)


def annealing_never_ends(case, patch):
    def wrong(p, updates):
        return p.end - (p.end - p.start) * (1 - (updates - 1 + p.first) / p.anneal_steps)

    patch.setattr(ema, "decay", wrong)


def no_root_of_the_width(case, patch):
    change(case, loss={"reduction": "sum"})


def no_factor_for_the_sum(case, patch):
    change(case, loss={"reduction": "sum_sqrt_dim"})


def squared_error_for_smooth(case, patch):
    change(case, loss={"beta": 0.0})


def mask_for_its_contrary(case, patch):
    """The network hides what should be seen; the loss is still at the right positions."""
    for encoder in (SpeechEncoder, VisionEncoder):
        hide = encoder.mask_features

        def wrong(self, x, padding, batch, hide=hide):
            return hide(self, x, padding, {**batch, "mask": ~batch["mask"]})

        patch.setattr(encoder, "mask_features", wrong)


def loss_at_the_seen_positions(case, patch):
    forward = data2vec.Data2Vec.forward

    def wrong(self, batch):
        shown = {**batch, "mask": ~batch["mask"]}
        encoder = self.student.encoder
        hide = encoder.mask_features
        encoder.mask_features = lambda x, padding, _: hide(x, padding, batch)
        try:
            return forward(self, shown)
        finally:
            del encoder.mask_features

    patch.setattr(data2vec.Data2Vec, "forward", wrong)


def teacher_with_mask(case, patch):
    targets = data2vec.Data2Vec.targets

    def wrong(self, x, padding, batch, masked=None):
        encoder = self.student.encoder
        if "features" in self.teacher.shared:
            return targets(self, *encoder.mask_features(x, padding, batch), batch, masked)
        own = self.teacher.encoder
        local = own.local_features
        own.local_features = lambda b: own.mask_features(*local(b), b)
        try:
            return targets(self, x, padding, batch, masked)
        finally:
            del own.local_features

    patch.setattr(data2vec.Data2Vec, "targets", wrong)


def student_for_teacher(case, patch):
    """Targets from the student's blocks, in evaluation mode and without a mask."""
    targets = data2vec.Data2Vec.targets

    def wrong(self, x, padding, batch, masked=None):
        own = copy.deepcopy(self.teacher.backbone.state_dict())
        self.teacher.backbone.load_state_dict(self.student.backbone.state_dict())
        found = targets(self, x, padding, batch, masked)
        self.teacher.backbone.load_state_dict(own)
        return found

    patch.setattr(data2vec.Data2Vec, "targets", wrong)


def shared_modules_averaged(case, patch):
    change(case, ema={"shared": [n for n in case.params.ema.shared if n == "features"]})


EVERYWHERE = (
    layer_norm_eps,
    one_layer_less,
    one_layer_more,
    top_layers_shifted,
    ema_before_the_optimiser,
    decay_one_early,
    decay_one_late,
    loss_at_the_seen_positions,
    teacher_with_mask,
    student_for_teacher,
)
SOME = {
    "fairseq_audio": (
        norm_over_the_other_axis,
        norm_over_the_batch,
        annealing_ends_one_step_early,
        annealing_never_ends,
        no_root_of_the_width,
        mask_for_its_contrary,
        shared_modules_averaged,
    ),
    "fairseq_text": (
        norm_over_the_other_axis,
        annealing_ends_one_step_early,
        squared_error_for_smooth,
        shared_modules_averaged,
    ),
    "fairseq_vision": (
        no_root_of_the_width,
        squared_error_for_smooth,
        mask_for_its_contrary,
        shared_modules_averaged,
    ),
    "data2vec_vision": (
        norm_over_the_other_axis,
        no_factor_for_the_sum,
        squared_error_for_smooth,
        mask_for_its_contrary,
    ),
}


def pytest_generate_tests(metafunc):
    """Each mistake in the fast-EMA cases, in which the teacher differs from the student."""
    cases = [Case(path.parent) for path in sorted(CASES.glob("*_fastema/trace.json"))]
    if "mistake" in metafunc.fixturenames:
        pairs = [(c.folder, m) for c in cases for m in (*EVERYWHERE, *SOME[c.family])]
        ids = [f"{folder.name}-{mistake.__name__}" for folder, mistake in pairs]
        metafunc.parametrize(("folder", "mistake"), pairs, ids=ids)


def test_a_mistake_is_found(folder, mistake, monkeypatch):
    case = Case(folder)
    mistake(case, monkeypatch)
    assert compare.faults(case, replay(case))


def test_annealing_of_no_steps_is_an_end_not_a_division():
    """`>` in place of `>=` at the end of annealing shows only here: the line meets its end."""
    constant = params.EMA(start=0.5, end=0.9, anneal_steps=0, first=0)
    assert ema.decay(constant, 1) == 0.9

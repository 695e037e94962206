"""The project's model, masks given, equals the reference through all steps of every case."""

import compare
import pytest
import torch
from replay import Case

from d2v.interop import names
from d2v.task import Pretraining


def test_equal(case, record, group):
    assert not compare.faults(case, record, group)


def test_what_must_be_in_every_case(case):
    """A case cannot pass by holding nothing."""
    always = {"targets", "predictions", "loss", "gradients", "decay", "after all steps"}
    assert always <= set(compare.groups(case))
    for step in range(len(case.trace["steps"])):
        for key in ("loss", "prediction", "target"):
            assert f"step{step}.{key}" in case.tensors


def test_few_elements_are_round_off(record):
    noise = torch.cat([v.flatten() for k, v in record.items() if k.startswith("noise.student")])
    keys = [v for k, v in record.items() if k.startswith("noise.") and k.endswith("k_proj.bias")]
    others = noise.sum() - sum(int(v.sum()) for v in keys) / 2
    assert others / len(noise) < 0.02


def test_names_go_both_ways(case):
    """Reference to project and back gives every tensor of the reference again."""
    for part, pairs in (("student", names.student), ("teacher", names.teacher)):
        table = pairs(case.family, case.params)
        prefix = f"{part}."
        theirs = {
            name.removeprefix(prefix): tensor
            for name, tensor in case.initial.items()
            if name.startswith(prefix) and not case.ignored(name)
        }
        ours = names.from_reference(theirs, table)
        back = names.to_reference(ours, table)
        assert back.keys() == theirs.keys()
        assert all(torch.equal(back[name], theirs[name]) for name in theirs)
        ours_names = [pair.ours for pair in table]
        assert len(set(ours_names)) == len(ours_names)
        flat = [name for pair in table for name in pair.theirs]
        assert len(set(flat)) == len(flat)


def test_a_missing_tensor_is_found(case, tmp_path):
    """A reference tensor without a place here is an error, not ignored."""
    other = Case(case.folder)
    other.initial["student.something_new"] = torch.zeros(1)
    with pytest.raises(AssertionError, match="something_new"):
        other.load(Pretraining(other.params))

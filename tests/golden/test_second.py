"""With the parameters of data2vec 2.0, masks given, the model equals the reference."""

import re

import pytest
import second_compare
import torch
from second_replay import CASES, Case, replay

from d2v.interop import names, second_names
from d2v.training import optim
from d2v.training.task import Pretraining

AMPLIFIED = 1e-4  # 4.6e-5 has been seen


def test_equal(second, second_record, group):
    assert not second_compare.faults(second, second_record, group)


def test_equal_in_single_precision(second):
    """As pre-training computes; AdamW amplifies rounding in some tensors (`second_replay.Case`)."""
    case = Case(second.folder, torch.float32)
    amplified = re.compile(
        rf"{case.folder.name} (step[12]\.prediction|features\.x): largest difference (\S+)"
    )
    for line in second_compare.faults(case, replay(case)):
        found = amplified.fullmatch(line)
        assert found, line
        assert float(found[2]) < AMPLIFIED


def test_what_must_be_in_every_case(second):
    """A case cannot pass by holding nothing."""
    always = set(second_compare.GROUPS) - {"class loss", "decoder", "after each step"}
    if second.folder.parent == CASES:
        always -= {"targets"}
    assert always <= set(second_compare.groups(second))
    assert len(second.trace["steps"]) == 3


def test_few_elements_are_round_off(second, second_record):
    noise = torch.cat([v.flatten() for n, v in second_record.items() if n.startswith("noise.stud")])
    assert noise.double().mean() < 0.02


def test_names_go_both_ways(second):
    """Reference to project and back gives every tensor of the reference again."""
    for network, table in (("student", second.student()), ("teacher", second.teacher())):
        theirs = {
            name.removeprefix(f"{network}."): tensor
            for name, tensor in second.initial.items()
            if name.startswith(f"{network}.") and not name.endswith(second_names.UNUSED)
        }
        ours = names.from_reference(second_names.separate(theirs), table)
        back = second_names.together(names.to_reference(ours, table))
        assert back.keys() == theirs.keys()
        assert all(torch.equal(back[name], theirs[name]) for name in theirs)
        for side in ([p.ours for p in table], [n for p in table for n in p.theirs]):
            assert len(set(side)) == len(side)


def test_a_missing_tensor_is_found(second):
    """A reference tensor without a place here is an error, not ignored."""
    other = Case(second.folder)
    other.initial["student.something_new"] = torch.zeros(1)
    with pytest.raises(AssertionError, match="something_new"):
        other.load(Pretraining(other.params))


def test_the_same_parameters_are_decayed(second):
    """`weight_decay_0` names those of the student without weight decay."""
    groups = optim.build(Pretraining(second.params), second.params.optimiser).param_groups
    pairs = {f"model.{pair.ours}": pair.theirs[0] for pair in second.student()}
    found = {pairs[n] for group in groups if group["weight_decay"] == 0 for n in group["names"]}
    # the reference has one tensor for the three biases
    found = {re.sub(r"\.attn\.[qkv]\.bias$", ".attn.qkv.bias", name) for name in found}
    assert found == set(second.trace["optimizer"]["weight_decay_0"])


def test_fixed_positions_are_the_references(second):
    name = "student.modality_encoders.IMAGE.fixed_positional_encoder.positions"
    if name in second.initial:
        ours = Pretraining(second.params).model.student.encoder.fixed
        assert torch.allclose(ours.double(), second.initial[name], rtol=0, atol=2e-6)

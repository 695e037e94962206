"""The project's model, masks given, equals the reference through all steps of every case."""

import compare
import golden_config
import pytest
import torch
from replay import CASES, Case

from d2v.interop import names
from d2v.training.task import Pretraining


def test_equal(case, record, group):
    assert not compare.faults(case, record, group)


def test_what_must_be_in_every_case(case):
    """A case cannot pass by holding nothing."""
    always = {"targets", "predictions", "loss", "gradients", "decay", "after all steps"}
    assert always <= set(compare.groups(case))
    for step in range(len(case.trace["steps"])):
        for key in ("loss", "prediction", "target"):
            assert f"step{step}.{key}" in case.tensors


def test_few_elements_are_round_off(case, record):
    """The wider tolerance is for few; how few in other cases depends on their gradients."""
    noise = torch.cat([v.flatten() for k, v in record.items() if k.startswith("noise.student")])
    keys = [v for k, v in record.items() if k.startswith("noise.") and k.endswith("k_proj.bias")]
    others = noise.sum() - sum(int(v.sum()) for v in keys) / 2
    assert others / len(noise) < (0.02 if case.folder.parent == CASES else 0.2)


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


def test_sizes_of_convolutions_are_read_and_nothing_is_run():
    """fairseq gives them as an expression; an archive must not be able to run code."""
    trace = Case(CASES / "audio_fastema").trace
    config = {**trace["config"], "conv_feature_layers": "[(8,10,5)] + 2*[(6, 3, 2)] + [(4,2,2)]"}
    layers = golden_config.pretrain({**trace, "config": config}).encoder.conv_layers
    assert layers == [[8, 10, 5], [6, 3, 2], [6, 3, 2], [4, 2, 2]]
    config["conv_feature_layers"] = "[print(1)]"
    with pytest.raises(ValueError, match=r"print\(1\) is no list of sizes"):
        golden_config.pretrain({**trace, "config": config})


def test_a_text_head_of_one_layer_is_the_first_of_a_list():
    """fairseq builds it as nn.Sequential whatever head_layers is."""
    p = Case(CASES / "text").params.model_copy(update={"regression": "linear"})
    found = {pair.ours: pair.theirs for pair in names.student("fairseq_text", p)}
    assert found["head.weight"] == ("encoder.regression_head.0.weight",)

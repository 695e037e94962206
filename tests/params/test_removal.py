"""Parameters of data2vec 2.0: what fits together, and that old runs keep their identity."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from d2v import params
from d2v.experiment import runs
from d2v.params.influence import LATER, without_later
from d2v.training.identity import identity

ROOT = Path(__file__).parents[2]
DECODER = {"layers": 2, "dim": 16, "kernel": 3, "groups": 2}
SECOND = {  # of vision in mini.yaml
    "encoder": {
        "hidden": "removed",
        "cls_token": False,
        "extra_tokens": 1,
        "fixed_positions": True,
    },
    "backbone": {"position_bias": {"kind": "none", "window": None}, "prenet_depth": 1},
    "regression": "none",
    "decoder": DECODER,
    "copies": 4,
    "mask": {"kind": "random", "prob": 0.75},
}


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    nested = {k: merged(one.get(k) or {}, v) for k, v in other.items() if isinstance(v, dict)}
    return {**one, **other, **nested}


def second(name: str = "vision", **changes: Any) -> dict[str, Any]:
    raw = copy.deepcopy(params.read_yaml(ROOT / "params" / "mini.yaml")["pretrain"][name])
    raw["target"]["top_k"] = 1
    mask = changes.get("mask", SECOND["mask"])
    return merged(merged({**raw, "mask": {}}, SECOND | {"mask": mask}), changes)


def fault(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        params.Pretrain.model_validate(second(**changes))
    return str(caught.value)


def test_the_parameters_of_version_2_fit_together() -> None:
    found = params.Pretrain.model_validate(second())
    assert found.copies == 4
    assert found.decoder is not None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"decoder": None}, "removed needs a decoder"),
        ({"encoder": {"hidden": "replaced"}}, "decoder needs encoder.hidden: removed"),
        ({"encoder": {"hidden": "replaced"}, "decoder": None}, "copies 4 needs"),
        ({"regression": "linear"}, "regression linear would not be used"),
        (
            {"backbone": {"position_bias": {"kind": "per_layer_2d", "window": [4, 4]}}},
            "all positions",
        ),
        ({"encoder": {"absolute_positions": True}}, "use fixed_positions"),
        ({"encoder": {"cls_token": True}}, "cls_token and extra_tokens exclude each other"),
        ({"mask": {"kind": "block", "patches": 8}}, "inverse_block or random"),
        ({"mask": {"kind": "random", "prob": 1.0}}, "must be above 0 and below 1"),
        ({"decoder": {**DECODER, "groups": 5}}, "dim 16 is not a multiple of groups 5"),
        (
            {"decoder": {**DECODER, "projection_ratio": 2.0}},
            "has no effect with projection_layers 1",
        ),
        ({"backbone": {"prenet_depth": 99}}, "prenet_depth 99 must be less than depth"),
        ({"target": {"top_k": 99}}, "is more than backbone.depth - prenet_depth"),
        ({"backbone": {"prenet_depth": 0}, "ema": {"shared": ["prenet"]}}, "prenet has no effect"),
        ({"encoder": {"extra_tokens": 0}, "loss": {"class_weight": 1.0}}, "needs encoder.hidden"),
        (
            {"mask": {"kind": "inverse_block", "prob": 0.95, "length": 3}},
            "no block of 3 x 3 visible patches fits",
        ),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], sentence: str) -> None:
    assert sentence in fault(**changes)


def test_the_loss_of_the_class_token_needs_a_teacher() -> None:
    raw = second(loss={"class_weight": 1.0})
    params.Pretrain.model_validate(raw)
    raw["target"] = {"kind": "input", "of": "patches"}
    with pytest.raises(ValidationError, match="class_weight needs the targets of a teacher"):
        params.Pretrain.model_validate(raw)


def test_spans_of_unequal_number_are_refused() -> None:
    spans = {"kind": "span", "prob": 0.5, "length": 5, "equal_counts": False}
    encoder = {"hidden": "removed", "cls_token": None, "fixed_positions": None}
    raw = second("speech", mask=spans, encoder=encoder)
    for key in ("cls_token", "fixed_positions"):
        del raw["encoder"][key]
    with pytest.raises(ValueError, match="equal_counts: true"):
        params.Pretrain.model_validate(raw)


# --- runs from before -------------------------------------------------------------------------


def values(name: str) -> dict[str, Any]:
    experiment = params.load(ROOT / "params" / "mini.yaml")
    return runs.parse(experiment, name).resolved()


def keys_of(values: Any) -> Iterator[str]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield key
            yield from keys_of(value)


def test_a_run_from_before_keeps_its_fingerprint_and_its_checkpoints() -> None:
    """Its parameters have none of the new keys, whose values are the earlier behaviour."""
    found: set[str] = set()
    for kind in ("vision", "speech"):
        now = values(f"pretrain/{kind}/seed0")
        old = without_later(now)
        found |= set(keys_of(now))
        assert not set(LATER) & set(keys_of(old))
        assert identity({"params": now}) == identity({"params": old})
    assert set(LATER) <= found


def test_a_new_parameter_with_another_value_counts() -> None:
    now = values("pretrain/vision/seed0")
    assert without_later({**now, "copies": 2}) != without_later(now)
    assert identity({"params": {**now, "copies": 2}}) != identity({"params": now})

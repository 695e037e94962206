"""The cost of pre-trainings beside those of another experiment, in `d2v plan`."""

import pytest
from workspace import ROOT

from d2v import params
from d2v.jobs import compared, plan
from d2v.params import Compare, Experiment, ParamsError
from d2v.results import budget
from d2v.util.errors import UserError

MINI = str(ROOT / "params/mini.yaml")
SPEED = plan.speed_of("h100", 0.5, None)


@pytest.fixture(scope="module")
def mini() -> Experiment:
    return params.load(MINI)


def beside(experiment: Experiment, name: str, **names: list[str]) -> list[compared.Comparison]:
    """The comparison of one pre-training with those of the miniature."""
    given = experiment.model_copy(update={"compare": Compare(file=MINI, names=names)})
    return compared.comparisons(given, [plan.pretraining(experiment, name, SPEED)], SPEED)


def test_equal_names_are_compared_and_several_are_added(mini: Experiment) -> None:
    (one,) = beside(mini, "text")
    assert one.others == ("text",)
    assert one.gpu_hours == one.other_gpu_hours > 0
    assert one.ratio == 1
    (two,) = beside(mini, "text", text=["text", "text"])
    assert two.other_pflop == pytest.approx(2 * one.pflop)
    assert two.ratio == pytest.approx(0.5)


def test_what_has_no_counterpart_is_left_out(mini: Experiment) -> None:
    other = mini.model_copy(update={"pretrain": {"new": mini.pretrain["text"]}})
    assert beside(other, "new") == []
    assert compared.comparisons(mini, [plan.pretraining(mini, "text", SPEED)], SPEED) == []


def test_a_wrong_name_or_file_is_reported(mini: Experiment) -> None:
    with pytest.raises(UserError, match=r"compare.names.text: .*no pretrain.texd; did you mean"):
        beside(mini, "text", text=["texd"])
    lost = mini.model_copy(update={"compare": Compare(file="params/none.yaml")})
    with pytest.raises(ParamsError, match=r"params/none.yaml: no such parameter file"):
        compared.comparisons(lost, [], SPEED)
    raw = params.read_params(ROOT / "params/mini.yaml")
    raw["compare"] = {"file": MINI, "names": {"texd": ["text"]}}
    with pytest.raises(ValueError, match=r"compare.names.texd: no pretrain.texd; did you mean"):
        Experiment.model_validate(raw)


@pytest.mark.slow
def test_version_2_is_planned_beside_version_1() -> None:
    second = params.load(ROOT / "params/paper2.yaml")
    assert second.compare is not None
    first = params.load(ROOT / second.compare.file)
    assert second.compare.names["vision-large"] == ["vision-large-stage1", "vision-large-stage2"]
    job = plan.pretraining(second, "vision-base", SPEED)
    (found,) = compared.comparisons(second, [job], SPEED)
    assert found.gpu_hours == job.gpu_hours
    assert found.other_pflop == plan.pretraining(first, "vision-base", SPEED).pflop
    text = budget.report(second, [job], SPEED, [found])
    assert "compared with params/paper.yaml" in text
    rows = [x.split() for x in text.splitlines() if x.startswith("pretrain/vision-base")]
    assert rows[1][-1] == f"{found.ratio:.2f}"

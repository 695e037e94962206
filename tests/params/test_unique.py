"""What would be counted twice, or pooled as if it were another seed, is refused by the check."""

import copy
from pathlib import Path

import pytest
import yaml
from mini_params import without_baselines

from d2v import params
from d2v.params.reading import read_params
from d2v.util.errors import UserError

MINI = Path(__file__).parents[2] / "params" / "mini.yaml"


def refused(tmp_path: Path, values: dict) -> str:
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as error:
        params.load(path)
    return str(error.value)


@pytest.mark.parametrize(
    ("group", "name", "key"),
    [
        ("finetune", "digits", "seeds"),
        ("pretrain", "vision", "seeds"),
        ("finetune", "digits", "metrics"),
        ("finetune", "digits", "arms"),
    ],
)
def test_repetitions_are_refused(tmp_path: Path, group: str, name: str, key: str) -> None:
    values = without_baselines()
    run = values[group][name]
    given = run.get(key) or ["scratch", "data2vec"]
    run[key] = [*given, given[0]]
    message = refused(tmp_path, values)
    assert f"{group}.{name}.{key}: {given[0]} is given more than once" in message


def test_two_tasks_for_one_cell_are_refused(tmp_path: Path) -> None:
    """They would be averaged as if they were seeds."""
    values = read_params(MINI)
    values["finetune"]["digits-low"] = copy.deepcopy(values["finetune"]["digits"])
    message = refused(tmp_path, values)
    assert "already filled by finetune.digits" in message


@pytest.mark.parametrize("row", ["from scratch", "input targets"])
def test_the_row_of_an_arm_is_no_name_for_another(tmp_path: Path, row: str) -> None:
    """Both arms of the task would be averaged as if they were seeds of one."""
    values = read_params(MINI)
    values["finetune"]["digits"]["row"] = row
    message = refused(tmp_path, values)
    assert f"finetune.digits.row: {row} is the row of another arm" in message


@pytest.mark.parametrize("path", sorted(MINI.parent.rglob("*.yaml")), ids=lambda path: path.name)
def test_shipped_experiments_have_no_repetition(path: Path) -> None:
    if "pretrain" in (read_params(path) or {}):
        params.load(path)

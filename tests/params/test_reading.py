"""Base files: null removes what a file inherits, and nothing else."""

from pathlib import Path

import pytest
import yaml

from d2v import params
from d2v.params.reading import read_params

ROOT = Path(__file__).parents[2]


def variant(tmp_path: Path, **groups: object) -> Path:
    path = tmp_path / "variant.yaml"
    base = str(ROOT / "params" / "paper.yaml")
    path.write_text(yaml.safe_dump({"base": base, "name": "variant", **groups}))
    return path


def test_null_removes_an_inherited_run_and_its_set(tmp_path: Path) -> None:
    whole = params.load(ROOT / "params" / "paper.yaml")
    less = params.load(
        variant(
            tmp_path,
            data={"audioset": None},
            pretrain={"audioset-base": None},
            finetune={"audioset": None, "cola": None, "cola-spans": None},
        )
    )
    assert whole.finetune.keys() - less.finetune.keys() == {"audioset", "cola", "cola-spans"}
    assert whole.data.keys() - less.data.keys() == {"audioset"}
    assert whole.pretrain.keys() - less.pretrain.keys() == {"audioset-base"}


def test_what_still_needs_a_removed_entry_is_named(tmp_path: Path) -> None:
    with pytest.raises(params.ParamsError, match=r"finetune\.audioset\.data: no data set audioset"):
        params.load(variant(tmp_path, data={"audioset": None}))


@pytest.mark.parametrize("group", ["data", "pretrain", "finetune"])
def test_null_for_what_is_not_inherited_is_refused(tmp_path: Path, group: str) -> None:
    with pytest.raises(params.ParamsError, match=rf"{group}\.mnliii: null removes an inherited"):
        read_params(variant(tmp_path, **{group: {"mnliii": None}}))


def test_null_inside_an_entry_is_a_value(tmp_path: Path) -> None:
    found = read_params(variant(tmp_path, finetune={"cola": {"settings": None}}))
    assert found["finetune"]["cola"]["settings"] is None


def test_a_file_without_base_removes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "alone.yaml"
    path.write_text("finetune: {cola: null}\n")
    assert read_params(path) == {"finetune": {"cola": None}}

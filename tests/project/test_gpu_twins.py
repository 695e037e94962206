"""The benchmark of a GPU runs through on a CPU with the other kinds, compiled with aot_eager."""

from pathlib import Path
from typing import Any

import pytest
from gpu_twin import call, resumed

pytestmark = pytest.mark.slow
KINDS = ("speech", "text")  # the last one is killed and resumed


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Figures of the essential part and the trainer."""
    folder: Path = tmp_path_factory.mktemp("twin")
    words = ["--kinds", *KINDS, "--backend", "aot_eager"]
    return call(folder, *words, "--parts", "equality", "recipes", "trainer")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_equal_and_timed(kind: str, found: dict[str, Any]) -> None:
    ways = found["equality"][kind]
    assert all(row["equal"] for row in ways.values() if isinstance(row, dict))
    (row,) = [row for row in found["recipes"] if row["kind"] == kind]
    assert row["ours"]["graphs"] > 0
    assert row["ours"]["breaks"] == row["ours"]["compiled_later"] == 0
    assert row["ratios"].keys() == {"peer eager", "peer compiled"}


def test_the_trainer_runs_with_every_kind(found: dict[str, Any]) -> None:
    assert resumed(found, "text")
    assert found["trainer"]["speech"]["of_the_step"] > 0
    assert "equal" not in found["trainer"]["speech"]

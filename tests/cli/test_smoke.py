"""What every Python has to be able to do, in seconds (`make smoke`); decoding is marked, too."""

import math
from pathlib import Path

import pytest
import trajectory

from d2v.training import log


@pytest.mark.slow
@pytest.mark.smoke
@pytest.mark.parametrize("kind", trajectory.KINDS)
def test_it_trains(kind: str, small_prepared: Path, tmp_path: Path) -> None:
    trajectory.train(small_prepared, tmp_path / "work", kind)
    losses = [line["loss"] for line in log.read(tmp_path / "work" / "log.jsonl")]
    assert len(losses) == trajectory.STEPS
    assert all(map(math.isfinite, losses))

"""micro_batch: auto finds the largest power of two that fits, once."""

from pathlib import Path

import pytest
import torch
from tiny import Points, Tiny, curve, train, weights

from d2v import params
from d2v.training import memory
from d2v.training.distributed import World
from d2v.util.errors import OutOfMemory
from d2v.util.files import read_json

CPU = torch.device("cpu")
AUTO = params.Train(steps=1, batch=48, micro_batch="auto")


def limit(most: int, asked: list[int]) -> memory.Fits:
    """A device on which `most` examples fit."""

    def fits(count: int) -> bool:
        asked.append(count)
        return count <= most

    return fits


@pytest.mark.parametrize(
    ("batch", "most", "found"), [(48, 1000, 16), (48, 8, 8), (48, 5, 4), (7, 9, 1), (64, 64, 64)]
)
def test_the_largest_power_of_two_that_fits_and_divides(batch: int, most: int, found: int) -> None:
    asked: list[int] = []
    assert memory.largest(batch, limit(most, asked)) == found
    assert asked == sorted(set(asked))


def test_a_device_without_room_for_one_example_is_an_error() -> None:
    with pytest.raises(OutOfMemory, match="not even one example"):
        memory.largest(8, limit(0, []))


def test_it_is_found_once_and_recorded(tmp_path: Path) -> None:
    asked: list[int] = []
    fits, world = limit(4, asked), World(0, 1, CPU)
    train, line = memory.settled(AUTO, Tiny(), Points(), tmp_path, world, fits)
    assert train.micro_batch == 4
    assert line is not None
    assert "4 examples" in line
    assert read_json(tmp_path / memory.FILE) == {"micro_batch": 4, "batch": 48}
    asked.clear()
    train, line = memory.settled(AUTO, Tiny(), Points(), tmp_path, world, limit(16, asked))
    assert (train.micro_batch, line, asked) == (4, None, [])
    # of 3 processes each has 16 of 48 examples; of 16 each has 3, which 4 does not divide
    train, _ = memory.settled(AUTO, Tiny(), Points(), tmp_path, World(0, 16, CPU), fits)
    assert train.micro_batch == 1


def test_numbers_stay(tmp_path: Path) -> None:
    given = AUTO.model_copy(update={"micro_batch": 2})
    assert memory.settled(given, Tiny(), Points(), tmp_path, World(0, 1, CPU)) == (given, None)
    assert not (tmp_path / memory.FILE).exists()


def test_a_run_with_it_is_the_run_with_that_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "a", micro_batch=8)
    train(tmp_path / "b", micro_batch="auto")
    assert "micro_batch auto: 8 examples" in capsys.readouterr().out
    assert [x["loss"] for x in curve(tmp_path / "a")] == [x["loss"] for x in curve(tmp_path / "b")]
    assert weights(tmp_path / "a").keys() == weights(tmp_path / "b").keys()

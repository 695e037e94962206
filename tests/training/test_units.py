"""Units: fitted centres are loaded again, and label frames by the nearest one."""

from pathlib import Path

import pytest
import torch

from d2v.model.encoders.spectra import Units
from d2v.training import units
from d2v.util.errors import UserError

FRONT = [[8, 10, 5], *[[8, 3, 2]] * 4, *[[8, 2, 2]] * 2]


class Tones:
    """Utterances of one of two tones."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, place: tuple[int, int]) -> torch.Tensor:
        hertz = (300, 2500)[place[1] % 2]
        random = torch.Generator().manual_seed(place[1])
        time = torch.arange(8000) / 16000
        noise = 0.05 * torch.randn(8000, generator=random)
        return torch.sin(2 * torch.pi * hertz * time) + noise

    def collate(self, examples: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"waves": torch.stack(examples)}


def test_two_sounds_are_two_units(tmp_path: Path) -> None:
    data, model = Tones(), Units(FRONT, 2)
    path = tmp_path / "units" / "x.safetensors"
    units.write(units.fit(model, data, seed=0), path)
    again = Units(FRONT, 2)
    again.load_state_dict(units.read(path))
    found = again(data.collate([data[0, i] for i in range(4)]))[:, 3:-3]
    assert all(len(row.unique()) == 1 for row in found)
    assert found[0, 0] == found[2, 0] != found[1, 0] == found[3, 0]
    assert torch.equal(units.fit(model, data, seed=0)["centres"], again.centres)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x.safetensors is missing: run the workflow"):
        units.read(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="not a complete safetensors file"):
        units.read(tmp_path / "x.safetensors")


def test_more_centres_than_frames_are_refused() -> None:
    with pytest.raises(UserError, match="5000 centres, but the split has fewer different frames"):
        units.fit(Units(FRONT, 5000), Tones(), seed=0)

"""`convert --to torch-export`: programs that give what the model gives, at any size."""

import json
from pathlib import Path

import pytest
import torch
from own_builds import folder

import d2v
from d2v.cli import commands as cli
from d2v.interop import exporting

Batch = dict[str, torch.Tensor]


def batches(kind: str) -> list[Batch]:
    """Batches of several sizes, and lengths if there are any; with padding in some."""
    torch.manual_seed(0)
    if kind == "vision":
        return [{"images": torch.randn(count, 3, 24, 24)} for count in (1, 2, 5)]
    found: list[Batch] = []
    for count, length in ((1, 5000), (3, 4007), (2, 12_346)):
        if kind == "speech":
            samples = torch.tensor([length, length - 1000, length - 1500][:count])
            found.append({"waves": torch.randn(count, length), "samples": samples})
        else:
            tokens = torch.randint(4, 70, (count, length // 400))
            tokens[1:, -3:] = 1  # padding
            found.append({"tokens": tokens})
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vision", "speech", "text"])
def test_the_program_gives_what_the_model_gives(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, out = folder(tmp_path / "c", kind), tmp_path / "exported"
    assert cli.main(["convert", str(made), "--to", "torch-export", "-o", str(out)]) == 0
    assert f"written: {out}" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {exporting.PROGRAM, exporting.DESCRIPTION}
    program = torch.export.load(out / exporting.PROGRAM).module()
    model = d2v.load(made, "cpu")
    told = json.loads((out / exporting.DESCRIPTION).read_text())
    for batch in batches(kind):
        found = program(*batch.values())
        hidden, logits, padding = model.hidden(batch, alone=True)
        assert [row["name"] for row in told["inputs"]] == list(batch)
        assert found.keys() == {"hidden", "logits"} | (
            {"padding"} if padding is not None else set()
        )
        real = torch.ones(hidden[-1].shape[:2], dtype=torch.bool)
        if padding is not None:
            assert torch.equal(found["padding"], padding)
            real = ~padding
        torch.testing.assert_close(found["hidden"][real], hidden[-1][real], rtol=1e-4, atol=5e-5)
        assert logits is not None
        if logits.dim() == 3:
            logits, found["logits"] = logits[real], found["logits"][real]
        torch.testing.assert_close(found["logits"], logits, rtol=1e-4, atol=5e-5)
    assert told["preparation"] == model.inputs.model_dump(mode="json")

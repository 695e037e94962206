"""What a finished run is, and what may fail after training without failing it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from d2v import params
from d2v.data import ngram
from d2v.data.letters import encode, frames_needed
from d2v.experiment import finished, folders, provenance, runs
from d2v.experiment.run import Run
from d2v.model import position_bias
from d2v.model.heads import ctc_loss, unaligned
from d2v.training import tracking
from d2v.util import errors


@pytest.mark.parametrize(
    "bias", [position_bias.GridBias(2, 3, 4), position_bias.DistanceBias(3, 4)]
)
def test_position_biases_are_contiguous_with_the_same_values(bias: Any) -> None:
    """Other strides make PyTorch take its slow attention on a GPU."""
    torch.manual_seed(0)
    torch.nn.init.normal_(bias.table)
    lengths = (7, 6) if isinstance(bias, position_bias.GridBias) else (7,)
    for length in lengths:
        bias.table.grad = None
        found = bias(length)
        assert found.stride(-1) == 1
        assert found.is_contiguous()
        weight = torch.randn(found.shape)
        (found * weight).sum().backward()
        if isinstance(bias, position_bias.GridBias):
            index = bias.index if length == 7 else bias.index[1:, 1:]
        else:
            at = torch.arange(length)
            index = (at[None] - at[:, None]).clamp(-3, 3) + 3
        expected = torch.zeros_like(bias.table)
        for i in range(length):
            for j in range(length):
                assert torch.equal(found[0, :, i, j], bias.table[index[i, j]])
                expected[index[i, j]] += weight[0, :, i, j]
        torch.testing.assert_close(bias.table.grad, expected)


def test_code_that_released_weights_pass_through_counts() -> None:
    files = {path.as_posix() for path in provenance.code_files()}
    assert {"interop/fairseq.py", "interop/hf_import.py", "interop/names.py"} <= files


def test_what_is_spared_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with errors.spared("the picture"):
        raise IndexError("two\nlines")
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "the picture failed" in said
    assert "IndexError: two lines" in said


class Broken:
    """A tracker that always fails."""

    def log(self, line: Any) -> None:
        raise OSError("no space")

    def close(self) -> None:
        raise OSError("no space")


def test_a_failing_tracker_does_not_stop_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Any] = []

    class Whole(Broken):
        def log(self, line: Any) -> None:
            seen.append(line)

        def close(self) -> None:
            seen.append("closed")

    trackers: list[tracking.Tracker] = [Broken(), Whole()]
    tracking.tell(trackers, [{"step": 1}])
    tracking.close(trackers)
    assert seen == [{"step": 1}, "closed"]
    assert capsys.readouterr().out.count("\n") == 2


@pytest.mark.parametrize(("text", "frames"), [("SEVEN", 6), ("ALL", 5), ("AA AA", 8)])
def test_frames_that_ctc_needs(text: str, frames: int) -> None:
    """One frame fewer than needed gives an infinite loss, which counts as zero."""
    letters = encode(text)
    assert frames_needed(text) == frames
    batch = {"letters": torch.tensor([letters]), "letter_counts": torch.tensor([len(letters)])}
    for length, impossible in ((frames, 0), (frames - 1, 1)):
        scores: Tensor = torch.zeros(1, length, 32).log_softmax(-1)
        assert unaligned(scores, None, batch) == impossible
        assert (ctc_loss(scores, None, batch) == 0) == bool(impossible)


def test_a_model_that_knows_no_word_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lm.arpa"
    ngram.write_arpa(["one two", "two one"], 2, path)
    known = ngram.unigrams(path)
    assert known == {"one", "two"}
    with pytest.raises(errors.UserError, match="knows none of the lexicon's 2 words"):
        ngram.report_known(path, known, ["ONE", "TWO"])
    ngram.report_known(path, known, ["one", "ONE"])
    assert "1 of the lexicon's 2 words (50.0 %)" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["", "params", "data", "code", "earlier", "predictions"])
def test_a_run_is_done_until_something_it_was_made_from_changes(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = params.load(Path("tests/params/tiny.yaml").resolve())
    monkeypatch.chdir(tmp_path)
    run = next(r for r in runs.finetune_runs(experiment) if r.arm == "data2vec")
    monkeypatch.setattr(Run, "fingerprint", lambda _: "f")
    monkeypatch.setattr(provenance, "code_sha256", lambda: "c")
    data = dict.fromkeys(run.datasets, "d")
    described = {
        "params_sha256": "f",
        "data_sha256": data,
        "code_sha256": "c",
        "finished": "2026-01-02",
    }
    described |= {"params": {"params_sha256": "x"}, "code": {"code_sha256": "x"}}.get(change, {})
    for name in data:
        _write(folders.meta_path(experiment, name), {"sha256": "new" if change == "data" else "d"})
    _write(run.metrics_path, {"metrics": {"dev": {}}, "provenance": described})
    if change != "predictions":
        run.predictions("dev").write_text("")
    source = run.source
    assert source is not None
    date = "2026-01-03" if change == "earlier" else "2026-01-01"
    _write(source.metrics_path, {"metrics": {}, "provenance": {"finished": date}})
    assert finished.up_to_date(run) == (change == "")


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))

"""Predictions keep their order, survive the file exactly, and carry every reported metric."""

import math

import jiwer
import pytest
import sklearn.metrics
import torch
from torch import nn

from d2v import evaluate
from d2v.data.letters import LETTERS
from d2v.errors import UserError
from d2v.evaluate import Prediction


class Numbers:
    """Ten examples whose input is their own index."""

    def __init__(self, references=(0, 1) * 5):
        self.ids = [f"example {i}" for i in range(10)]
        self.references = references

    def __len__(self):
        return 10

    def __getitem__(self, at):
        epoch, index = at
        assert epoch == 0
        return {"x": index}

    def collate(self, examples):
        return {"ids": ["-"], "x": torch.tensor([e["x"] for e in examples])}


class Odd(nn.Module):
    """Predicts oddness, of 3 wrongly; refuses to predict in training mode."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.sizes = []

    def predict(self, batch):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.sizes.append(len(batch["x"]))
        return [{"prediction": i % 2 if i != 3 else 0, "scores": []} for i in batch["x"].tolist()]


class Speller(nn.Module):
    """Log-probabilities that spell ONE, whatever it hears."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def predict(self, batch):
        logits = torch.full((4, len(LETTERS)), -20.0)
        for t, letter in enumerate("ONE|"):
            logits[t, LETTERS.index(letter)] = 0.0
        return [{"logits": logits} for _ in batch["x"]]


def test_order_batches_and_mode():
    task = Odd()
    rows = evaluate.run_predictions(task, Numbers(), 4)
    assert task.sizes == [4, 4, 2]
    assert task.training
    assert [r.id for r in rows] == Numbers().ids
    assert [r.prediction for r in rows] == [0, 1, 0, 0, 0, 1, 0, 1, 0, 1]


def test_metrics_from_the_file_are_those_of_scikit_learn(tmp_path):
    rows = evaluate.run_predictions(Odd(), Numbers(), 3)
    evaluate.write_predictions(tmp_path / "deep" / "predictions-test.tsv", rows)
    found = evaluate.score(tmp_path / "deep" / "predictions-test.tsv", ["accuracy", "matthews"])
    truth, guess = [r.reference for r in rows], [r.prediction for r in rows]
    assert found == {
        "accuracy": 0.9,
        "matthews": sklearn.metrics.matthews_corrcoef(truth, guess),
    }
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["predictions-test.tsv"]


def test_numbers_survive_the_file_exactly(tmp_path):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(50, 2, generator=generator).tolist()
    rows = [Prediction(str(i), a, b) for i, (a, b) in enumerate(values)]
    evaluate.write_predictions(tmp_path / "p.tsv", rows)
    names = ["pearson", "spearman"]
    assert evaluate.score(tmp_path / "p.tsv", names) == evaluate.score_rows(rows, names)


def test_transcripts_keep_both_readings(tmp_path):
    data = Numbers(["ONE TWO"] * 10)
    rows = evaluate.run_predictions(Speller(), data, 4, search=lambda logits: "ONE TWO")
    plain = evaluate.run_predictions(Speller(), data, 4)
    path = tmp_path / "p.tsv"
    evaluate.write_predictions(path, rows)
    assert path.read_text().split("\n")[:2] == [
        "id\treference\tprediction\tgreedy",
        "example 0\tONE TWO\tONE TWO\tONE",
    ]
    found = evaluate.score(path, ["wer", "greedy_wer", "greedy_cer"])
    assert found["wer"] == 0
    assert found["greedy_wer"] == jiwer.wer(["ONE TWO"] * 10, ["ONE"] * 10) == 0.5
    assert found["greedy_cer"] == pytest.approx(4 / 7)
    # without a search the prediction is the greedy reading
    assert evaluate.score_rows(plain, ["wer"]) == {"wer": 0.5}


def test_an_empty_transcript_is_kept(tmp_path):
    evaluate.write_predictions(tmp_path / "p.tsv", [Prediction("a", "ONE", "", "")])
    assert evaluate.read_predictions(tmp_path / "p.tsv") == [Prediction("a", "ONE", "", "")]
    assert evaluate.score(tmp_path / "p.tsv", ["wer"]) == {"wer": 1.0}


def test_validator_gives_the_metrics_asked_for():
    assert evaluate.validator(Numbers(), 4, ["accuracy"])(Odd(), 7) == {"accuracy": 0.9}


def test_constant_predictions_do_not_crash(tmp_path):
    rows = [Prediction(str(i), float(i), 2.0) for i in range(3)]
    evaluate.write_predictions(tmp_path / "p.tsv", rows)
    assert math.isnan(evaluate.score(tmp_path / "p.tsv", ["pearson"])["pearson"])


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("id\tlabel\n", ["accuracy"], r"p\.tsv:1: not a prediction file"),
        ("id\treference\tprediction\na\t1\n", ["accuracy"], r"p\.tsv:2: 2 fields, 3"),
        ("id\treference\tprediction\na\t1\tONE\n", ["accuracy"], r"p\.tsv: .*'ONE'"),
        ("id\treference\tprediction\na\tONE\tONE\n", ["greedy_wer"], "no column greedy"),
        ("id\treference\tprediction\na\t1\t1\n", ["acuracy"], "no metric acuracy"),
    ],
)
def test_faults_name_the_file(tmp_path, text, names, message):
    (tmp_path / "p.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        evaluate.score(tmp_path / "p.tsv", names)


def test_a_tab_in_a_field_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError, match="'a' has a tab"):
        evaluate.write_predictions(tmp_path / "p.tsv", [Prediction("a", "ONE\tTWO", "ONE")])
    with pytest.raises(UserError, match="cannot read"):
        evaluate.score(tmp_path / "p.tsv", ["wer"])
    assert not list(tmp_path.iterdir())

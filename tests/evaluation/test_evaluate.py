"""Predictions keep their order, survive the file exactly, and carry every reported metric."""

import math
from dataclasses import replace

import jiwer
import numpy as np
import pytest
import sklearn.metrics
import torch
from safetensors.torch import load_file
from torch import nn

from d2v import params
from d2v.data.letters import LETTERS
from d2v.evaluation import evaluate, metrics, predictions
from d2v.evaluation.predictions import Prediction
from d2v.util.errors import NotFinite, UserError

NAN = math.nan
FOURS = params.Train(steps=1, batch=4, micro_batch=4)


class Numbers:
    """Ten examples whose input is their own index."""

    def __init__(self, references=(0, 1) * 5):
        self.ids = [f"example {i}" for i in range(10)]
        self.references = references
        self.letters = LETTERS

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
    rows = evaluate.run_predictions(task, Numbers(), evaluate.batches(Numbers(), FOURS))
    assert task.sizes == [4, 4, 2]
    assert task.training
    assert [r.id for r in rows] == Numbers().ids
    assert [r.prediction for r in rows] == [0, 1, 0, 0, 0, 1, 0, 1, 0, 1]


def test_metrics_from_the_file_are_those_of_scikit_learn(tmp_path):
    rows = evaluate.run_predictions(Odd(), Numbers(), [range(7), [9, 7, 8]])
    predictions.write_predictions(tmp_path / "deep" / "predictions-test.tsv", rows)
    found = predictions.score(tmp_path / "deep" / "predictions-test.tsv", ["accuracy", "matthews"])
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
    predictions.write_predictions(tmp_path / "p.tsv", rows)
    names = ["pearson", "spearman"]
    assert predictions.score(tmp_path / "p.tsv", names) == predictions.score_rows(rows, names)


def test_transcripts_keep_both_readings(tmp_path):
    data = Numbers(["ONE TWO"] * 10)
    passes = evaluate.batches(data, FOURS)
    plain = evaluate.run_predictions(Speller(), data, passes)
    rows = [replace(row, prediction="ONE TWO") for row in plain]  # as a search does
    path = tmp_path / "p.tsv"
    predictions.write_predictions(path, rows)
    assert path.read_text().split("\n")[:2] == [
        "id\treference\tprediction\tgreedy",
        "example 0\tONE TWO\tONE TWO\tONE",
    ]
    found = predictions.score(path, ["wer", "greedy_wer", "greedy_cer"])
    assert found["wer"] == 0
    assert found["greedy_wer"] == jiwer.wer(["ONE TWO"] * 10, ["ONE"] * 10) == 0.5
    assert found["greedy_cer"] == pytest.approx(4 / 7)
    # without a search the prediction is the greedy reading
    assert predictions.score_rows(plain, ["wer"]) == {"wer": 0.5}


def test_an_empty_transcript_is_kept(tmp_path):
    predictions.write_predictions(tmp_path / "p.tsv", [Prediction("a", "ONE", "", "")])
    assert predictions.read_predictions(tmp_path / "p.tsv") == [Prediction("a", "ONE", "", "")]
    assert predictions.score(tmp_path / "p.tsv", ["wer"]) == {"wer": 1.0}


def test_validator_gives_the_metrics_asked_for():
    assert evaluate.validator(Numbers(), FOURS, ["accuracy"])(Odd(), 7) == {"accuracy": 0.9}


def test_batches_go_by_length_where_training_does():
    data, task = Numbers(), Odd()
    data.sizes = np.array([5, 1, 9, 2, 2, 30, 4, 4, 3, 1])
    sized = FOURS.model_copy(update={"sized": params.Sized(size=12, micro_batches=2)})
    passes = evaluate.batches(data, sized)
    # the longest alone, though it is longer than 12; then 12 // 9, 12 // 5, 12 // 4, 12 // 2
    assert passes == [[5], [2], [0, 6], [7, 8, 3], [4, 1, 9]]
    rows = evaluate.run_predictions(task, data, passes)
    assert [r.id for r in rows] == data.ids
    assert rows == evaluate.run_predictions(task, data, evaluate.batches(data, FOURS))


def test_loader_processes_predict_the_same():
    passes = evaluate.batches(Numbers(), FOURS)
    state = torch.get_rng_state()
    rows = evaluate.run_predictions(Odd(), Numbers(), passes, workers=1)
    assert torch.equal(state, torch.get_rng_state())
    assert rows == evaluate.run_predictions(Odd(), Numbers(), passes)


def test_emissions_are_kept_whole_and_exactly(tmp_path):
    kept: dict[str, torch.Tensor] = {}
    data = Numbers(["ONE"] * 10)
    evaluate.run_predictions(Speller(), data, evaluate.batches(data, FOURS), keep=kept.__setitem__)
    path = tmp_path / "run" / "emissions-dev.safetensors"
    evaluate.write_emissions(path, kept)
    found = load_file(path)
    assert sorted(found) == sorted(data.ids)
    assert all(torch.equal(found[id], kept[id]) for id in data.ids)
    assert found["example 0"].shape == (4, len(LETTERS))
    assert [p.name for p in path.parent.iterdir()] == ["emissions-dev.safetensors"]
    # what a search for weights decides later is not claimed by the run itself
    assert metrics.greedy(["wer", "cer", "greedy_wer"]) == ["greedy_wer", "greedy_cer"]
    assert metrics.greedy(["accuracy"]) == ["accuracy"]


class Tagger(nn.Module):
    """Gives each example three probabilities that depend on its number."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def predict(self, batch):
        generator = torch.Generator().manual_seed(0)
        table = torch.rand(10, 3, generator=generator)
        return [{"probabilities": table[i].tolist()} for i in batch["x"].tolist()]


@pytest.mark.parametrize(
    "output",
    [
        {"prediction": 0, "scores": [NAN, NAN]},
        {"prediction": NAN},
        {"probabilities": [0.5, NAN]},
        {"logits": torch.tensor([[0.0, 1.0], [NAN, 0.0]])},
    ],
)
def test_outputs_that_are_not_numbers_are_no_predictions(output, monkeypatch):
    """The class of the first NaN would count as the predicted one."""
    monkeypatch.setattr(Odd, "predict", lambda self, batch: [output] * len(batch["x"]))
    with pytest.raises(NotFinite, match="outputs for example example 0 are not numbers"):
        evaluate.run_predictions(Odd(), Numbers(), evaluate.batches(Numbers(), FOURS))


def test_tags_survive_the_file(tmp_path):
    data = Numbers(["0,2", "1", "", "2", "0", "1,2", "2", "", "0,1,2", "1"])
    rows = evaluate.run_predictions(Tagger(), data, evaluate.batches(data, FOURS))
    predictions.write_predictions(tmp_path / "p.tsv", rows)
    first = (tmp_path / "p.tsv").read_text().split("\n")[1]
    assert first == "example 0\t0,2\t0.496257 0.768222 0.0884774"
    truth = np.array([[str(c) in r.reference.split(",") for c in range(3)] for r in rows])
    guess = np.array([[float(p) for p in r.prediction.split()] for r in rows])
    expected = sklearn.metrics.average_precision_score(truth, guess)
    assert predictions.score(tmp_path / "p.tsv", ["map"]) == {"map": pytest.approx(expected)}


def test_constant_predictions_do_not_crash(tmp_path):
    rows = [Prediction(str(i), float(i), 2.0) for i in range(3)]
    predictions.write_predictions(tmp_path / "p.tsv", rows)
    assert math.isnan(predictions.score(tmp_path / "p.tsv", ["pearson"])["pearson"])


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
        predictions.score(tmp_path / "p.tsv", names)


def test_a_tab_in_a_field_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError, match="'a' has a tab"):
        predictions.write_predictions(tmp_path / "p.tsv", [Prediction("a", "ONE\tTWO", "ONE")])
    with pytest.raises(UserError, match="cannot read"):
        predictions.score(tmp_path / "p.tsv", ["wer"])
    assert not list(tmp_path.iterdir())

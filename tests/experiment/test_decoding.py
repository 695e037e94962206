"""Decoding runs: from what a fine-tuning kept to searched weights, predictions and metrics."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jiwer
import pytest
import torch
import workspace
import yaml
from letter_builds import lm_folder
from safetensors.torch import load_file, save_file

from d2v import params
from d2v.data.letters import LETTERS, encode
from d2v.evaluation import ctc, evaluate, predictions
from d2v.evaluation.predictions import Prediction
from d2v.experiment import decoding, execute, runs
from d2v.experiment.task_runs import DecodeRun, FinetuneRun
from d2v.jobs import cluster
from d2v.jobs.job import progress
from d2v.util.errors import UserError
from d2v.util.files import read_json, write_json

TINY = params.load(workspace.ROOT / "tests/params/tiny.yaml")
FINETUNE = FinetuneRun(TINY, "spoken-digits", 0, "data2vec")
DECODE = DecodeRun(TINY, "spoken-digits", 0, "data2vec")
RUN = DECODE.id
SEARCH = {"trials": 8, "beam": 10, "silence_score": [-1.0, 1.0], "seed": 3}
SPLITS = {"dev": 24, "test": 12, "clean": 9}  # utterances
DRAWN = random.Random(0)
WORDS = sorted({"".join(DRAWN.choices("ETAONI", k=DRAWN.randint(2, 5))) for _ in range(80)})


def experiment_file(folder, **changes):
    """tests/params/tiny.yaml with a search behind the letters' fine-tuning."""
    raw = yaml.safe_load((workspace.ROOT / "tests/params/tiny.yaml").read_text())
    task = raw["finetune"]["spoken-digits"]
    task["decode"] = {"beam": 20, "lm_weight": 1.0, "word_score": 0.0, "search": SEARCH, **changes}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def heard(text, draw):
    """Noisy log-probabilities (T, letters) of a transcript."""
    frames = [symbol for letter in encode(text) for symbol in (letter, 0)]
    rows = 2.0 * torch.randn(len(frames), len(LETTERS), generator=draw)
    rows[range(len(frames)), frames] += 5.0
    return rows.log_softmax(-1)


def fine_tuned(folder, experiment):
    """What a fine-tuning leaves behind, and the language; below the working folder."""
    draw, say = torch.Generator().manual_seed(0), random.Random(1)
    for name, count in SPLITS.items():
        texts = [
            " ".join(say.choices([*WORDS, "ABSENT"], k=say.randint(0, 6))) for _ in range(count)
        ]
        texts[1] = "ABSENT"  # not in the lexicon
        emissions = {f"{name}-{n:03d}": heard(text, draw) for n, text in enumerate(texts)}
        rows = [
            Prediction(id, text, ctc.greedy(e), ctc.greedy(e))
            for (id, e), text in zip(emissions.items(), texts, strict=True)
        ]
        predictions.write_predictions(FINETUNE.predictions(name), rows)
        evaluate.write_emissions(FINETUNE.emissions(name), emissions)
    metrics = {name: {"greedy_wer": 0.5} for name in SPLITS}
    head = {"metrics": metrics, "pretrain_run": "pretrain/speech/seed0", "setting": None}
    write_json(FINETUNE.metrics_path, head)
    folder = Path(experiment.prepared) / "lm"
    folder.mkdir(parents=True)
    lm_folder(folder, [" ".join(say.choices(WORDS, k=5)) for _ in range(300)])
    write_json(folder / "meta.json", {"sha256": "of the language"})


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Working folder with a finished fine-tuning; the experiment."""
    monkeypatch.chdir(tmp_path)
    experiment = params.load(experiment_file(tmp_path))
    fine_tuned(tmp_path, experiment)
    return experiment


def run():
    execute.execute(runs.load(Path("tiny.yaml"), RUN))
    return read_json(DECODE.metrics_path)


def test_metrics_are_those_of_the_predictions_and_say_where_they_come_from(place):
    found = run()
    assert list(found["metrics"]) == ["dev", "test", "clean"]
    for name, count in SPLITS.items():
        path = DECODE.predictions(name)
        rows = predictions.read_predictions(path)
        assert len(rows) == count
        references = [row.reference for row in rows]
        for metric, function, column in (
            ("wer", jiwer.wer, "prediction"),
            ("cer", jiwer.cer, "prediction"),
            ("greedy_wer", jiwer.wer, "greedy"),
            ("greedy_cer", jiwer.cer, "greedy"),
        ):
            said = function(references, [getattr(row, column) for row in rows])
            assert found["metrics"][name][metric] == said
    weights = found["weights"]
    assert weights["trials"] == 8
    assert weights["search_dev_wer"] <= found["preset"]["search_dev_wer"]
    assert (found["preset"]["lm_weight"], found["preset"]["trial"]) == (1.0, 0)
    assert found["finetune_run"] == FINETUNE.id
    assert found["pretrain_run"] == "pretrain/speech/seed0"
    assert found["provenance"]["data_sha256"] == {"lm": "of the language"}
    assert set(found["emissions_sha256"]) == set(SPLITS)


def test_predictions_are_those_of_the_chosen_weights_with_the_last_beam(place):
    weights = run()["weights"]
    chosen = params.Decode(beam=20, **{k: weights[k] for k in decoding.Weights._fields})
    search = ctc.BeamSearch(Path(place.prepared) / "lm", chosen)
    emissions = load_file(FINETUNE.emissions("test"))
    rows = predictions.read_predictions(DECODE.predictions("test"))
    assert [row.prediction for row in rows] == [search(emissions[row.id]) for row in rows]
    assert rows[1].reference == "ABSENT"
    assert "ABSENT" not in rows[1].prediction


def test_the_search_pays(place):
    found = run()["metrics"]["dev"]
    assert found["wer"] < 0.7 * found["greedy_wer"]


@pytest.mark.slow
def test_processes_change_nothing(place, tmp_path):
    one = run()
    experiment_file(tmp_path, cpus=3)
    DECODE.work.rename("elsewhere")
    three = run()
    for key in ("metrics", "weights", "preset", "at_edge", "emissions_sha256"):
        assert one[key] == three[key]
    assert (DECODE.work / "trials.jsonl").read_bytes() == Path(
        "elsewhere/trials.jsonl"
    ).read_bytes()


def test_a_second_run_does_nothing_again(place, monkeypatch, capfd):
    one = run()
    assert "trial 8/8" in capfd.readouterr().out
    monkeypatch.setattr("d2v.evaluation.beam_search.BeamSearch", None)  # nothing is decoded
    two = run()
    assert one["metrics"] == two["metrics"]
    assert "trial" not in capfd.readouterr().out


def test_finished_pieces_are_progress_to_the_launcher(place):
    assert progress(DECODE.work) == 0
    run()
    assert progress(DECODE.work) >= 1 + 8 + 3 * 2  # with the head of each journal


def test_a_decoding_asks_for_no_gpu():
    asked = params.load_as(cluster.Cluster, workspace.ROOT / "params/cluster.yaml").slurm.of(RUN)
    assert asked.gpus == 0


def test_other_outputs_are_searched_and_decoded_again(place):
    run()
    path = FINETUNE.emissions("dev")
    emissions = load_file(path)
    first = next(iter(emissions))
    emissions[first][-1] += 1e-3  # the greedy reading stays
    save_file(emissions, path)
    lines = (DECODE.work / "trials.jsonl").read_text().splitlines()
    run()
    after = (DECODE.work / "trials.jsonl").read_text().splitlines()
    assert after[0] != lines[0]
    assert len(after) == len(lines) == 9


def test_a_best_point_at_the_edge_is_kept_as_a_warning(place, tmp_path, capfd):
    experiment_file(tmp_path, search={**SEARCH, "lm_weight": [0.0, 0.02]})
    found = run()
    assert "widen decode.search.lm_weight" in found["at_edge"]["lm_weight"]
    assert "warning: the best lm_weight" in capfd.readouterr().out


def broken(path):
    path.write_bytes(path.read_bytes()[:-5])


def other_ids(path):
    emissions = load_file(path)
    save_file({f"x{name}": value for name, value in emissions.items()}, path)


def other_values(path):
    save_file({name: -value for name, value in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Path.unlink, r"emissions-dev\.safetensors is missing; run finetune/spoken-digits/"),
        (broken, r"emissions-dev\.safetensors cannot be read"),
        (other_ids, r"emissions-dev\.safetensors: its utterances are not those of"),
        (other_values, r"emissions-dev\.safetensors: dev-\d+ decodes differently"),
    ],
)
def test_outputs_that_do_not_belong_are_told(place, change, said):
    change(FINETUNE.emissions("dev"))
    with pytest.raises(UserError, match=said):
        run()
    assert not DECODE.results.exists()


def test_what_is_missing_is_told(place):
    (Path(place.prepared) / "lm/lm.arpa").unlink()
    with pytest.raises(UserError, match=r"lm\.arpa: no such file; run `d2v data lm`"):
        run()
    FINETUNE.metrics_path.unlink()
    with pytest.raises(UserError, match=r"finetune/spoken-digits/data2vec/seed0 has not finished"):
        run()


def test_a_split_without_words_cannot_choose(place):
    rows = [Prediction(f"dev-{n}", "", "", "") for n in range(3)]
    predictions.write_predictions(FINETUNE.predictions("dev"), rows)
    path = FINETUNE.emissions("dev")
    evaluate.write_emissions(path, {row.id: torch.zeros(0, len(LETTERS)) for row in rows})
    with pytest.raises(UserError, match="development split has no words"):
        run()


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on(place, tmp_path):
    """SIGKILL among the trials, then among the final decoding; the outcome is that of no kill."""
    experiment_file(tmp_path, cpus=2, beam=400, search={**SEARCH, "beam": 200, "trials": 12})
    command = [sys.executable, "-m", "d2v.cli", "run", RUN, "--launch", "debug"]
    work = DECODE.work

    def lines(name):
        path = work / name
        return path.read_bytes().splitlines() if path.exists() else []

    def killed_when(reached):
        with subprocess.Popen(
            [*command, "--params", "tiny.yaml"], stdout=subprocess.PIPE
        ) as process:
            until = time.monotonic() + 60
            while not reached():
                assert process.poll() is None, "it ended before it was killed"
                assert time.monotonic() < until
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)

    killed_when(lambda: len(lines("trials.jsonl")) >= 4)
    kept = lines("trials.jsonl")
    assert 4 <= len(kept) < 13
    killed_when(lambda: len(lines("decoded-dev.jsonl")) >= 2)
    assert lines("trials.jsonl")[: len(kept)] == kept
    assert len(lines("trials.jsonl")) == 13
    assert not DECODE.metrics_path.exists()
    after = run()
    trials = [json.loads(line).get("number") for line in lines("trials.jsonl")[1:]]
    assert trials == list(range(12))
    work.rename("disturbed")
    undisturbed = run()
    for key in ("metrics", "weights", "preset"):
        assert after[key] == undisturbed[key]


@pytest.mark.slow
def test_the_workflow_searches_behind_the_fine_tuning(tmp_path):
    folder = workspace.make(tmp_path)
    path = experiment_file(folder / "params", cpus=2)
    raw = yaml.safe_load(path.read_text())
    raw["finetune"]["spoken-digits"]["more"] = {"again": "dev"}
    path.write_text(yaml.safe_dump(raw))
    target = f"results/tiny/runs/{RUN}/metrics.json"
    ran = workspace.snakemake(folder, target)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Search the decoding weights of finetune/spoken-digits" in ran.stdout + ran.stderr
    found = read_json(folder / target)
    assert set(found["metrics"]) == {"dev", "test"}
    assert set(found["metrics"]["test"]) == {"wer", "cer", "greedy_wer", "greedy_cer"}
    source = read_json(folder / f"results/tiny/runs/{FINETUNE.id}/metrics.json")
    for name, scores in source["metrics"].items():
        assert scores["greedy_wer"] == found["metrics"][name]["greedy_wer"]
    again = workspace.snakemake(folder, target)
    assert "Nothing to be done" in again.stdout + again.stderr

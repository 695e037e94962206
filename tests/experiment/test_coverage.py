"""What is known before training: words that no decoding can write, and the data a run reads."""

import json
from pathlib import Path

import pytest
from preparing import run as prepare
from small_sets import speech_tree, write_lines

from d2v import params
from d2v.data.letters import spell
from d2v.experiment import contents, coverage, runs
from d2v.experiment.task_runs import FinetuneRun
from d2v.util.errors import UserError

TINY = Path("tests/params/tiny.yaml").resolve()


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params.Experiment:
    found = params.load(TINY)
    monkeypatch.chdir(tmp_path)
    tree = speech_tree(tmp_path / "tree", ("dev", "test", "train"))
    prepare("librispeech", tree, "-o", Path(found.prepared) / "spoken_digits", "--workers", 1)
    return found


def first(experiment: params.Experiment) -> FinetuneRun:
    return next(r for r in runs.finetune_runs(experiment) if r.params.decode)


def lexicon(experiment: params.Experiment, *words: str) -> None:
    path = Path(experiment.prepared) / "lm" / "lexicon.txt"
    write_lines(path, *(f"{word}\t{spell(word)}" for word in words))


def test_words_that_the_lexicon_lacks_are_counted_with_the_errors_they_cost(
    experiment: params.Experiment,
) -> None:
    run = first(experiment)
    assert coverage.lines(run) == []  # no lexicon yet: the data stage is told then
    # dev: ZERO ONE, ONE ONE, TWO ONE
    lexicon(experiment, "ZERO", "ONE")
    (line,) = coverage.lines(run)
    assert "lacks 1 of the 6 words of dev (1 different ones, such as TWO)" in line
    assert "the word error rate there is at least 16.67 %" in line
    lexicon(experiment, "ZERO", "ONE", "TWO")
    assert coverage.lines(run)[0].endswith("contains all 6 words of dev")
    lexicon(experiment, "zero", "one")
    with pytest.raises(UserError, match=r"none of the words of dev \(ONE, TWO, ZERO, \.\.\.\)"):
        coverage.lines(run)


def test_runs_without_a_lexicon_have_no_line(experiment: params.Experiment) -> None:
    lexicon(experiment, "ONE")
    for run in runs.all_runs(experiment):
        task = experiment.finetune.get(run.name)
        if task is None or task.decode is None:
            assert coverage.lines(run) == []


def test_an_edited_label_list_is_other_data(experiment: params.Experiment) -> None:
    run = first(experiment)
    task = experiment.finetune[run.name].model_copy(update={"labels": "labels-1.{seed}"})
    experiment = experiment.model_copy(update={"finetune": {**experiment.finetune, run.name: task}})
    run = first(experiment)
    folder = Path(experiment.prepared) / "spoken_digits"
    write_lines(Path(experiment.prepared) / "lm" / "meta.json", json.dumps({"sha256": "l"}))
    before = contents.contents(run)
    meta = json.loads((folder / "meta.json").read_text())
    assert before["spoken_digits"] == meta["sha256"]
    path = folder / "lists" / "labels-1.0.txt"
    path.write_text(path.read_text() + "3-7-0002\n")
    after = contents.contents(run)
    assert after["spoken_digits"].startswith(f"{meta['sha256']} with labels-1.0.txt ")
    assert after["lm"] == before["lm"]
    del meta["lists"]  # a set of an earlier version does not know its lists
    (folder / "meta.json").write_text(json.dumps(meta))
    assert contents.contents(run) == before

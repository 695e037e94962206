"""A few example predictions of the models, from stored predictions."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d2v.data.sentences import sentences
from d2v.evaluation.predictions import Prediction, read_predictions
from d2v.experiment import runs
from d2v.params import Experiment
from d2v.util.errors import UserError
from d2v.util.files import read_json

SHOWN = 5


@dataclass(frozen=True)
class Word:
    """A reference word and the recognised word; kind: equal, substitute, delete or insert."""

    kind: str
    reference: str
    read: str


@dataclass(frozen=True)
class Transcript:
    """An utterance with its reference and prediction aligned word by word."""

    id: str
    words: list[Word]


@dataclass(frozen=True)
class Answer:
    """An example of a labelled set with its reference and prediction."""

    id: str
    reference: str
    prediction: str
    words: str = ""  # text of the example, if it is a sentence

    @property
    def right(self) -> bool:
        """Whether the prediction equals the reference."""
        return self.reference == self.prediction


@dataclass(frozen=True)
class Shown:
    """The examples that are shown of one run."""

    run: str
    transcripts: list[Transcript]
    answers: list[Answer]


def collect(experiment: Experiment, results: Path) -> list[Shown]:
    """Examples of each task, from its first reported data2vec run if predictions are stored."""
    found = []
    for name, task in experiment.finetune.items():
        arms = [r for r in runs.reported_runs(experiment, name) if r.arm == task.arms[-1]]
        for run in arms[:1]:
            try:
                rows = read_predictions(results / "runs" / run.id / "predictions-test.tsv")
            except UserError:
                continue
            spoken = task.task.kind == "ctc"
            some = rows[:: max(len(rows) // SHOWN, 1)][:SHOWN]
            words = sentences(
                Path(experiment.prepared) / task.data, task.test_split, [row.id for row in some]
            )
            answers = [
                Answer(row.id, str(row.reference), str(row.prediction), words.get(row.id, ""))
                for row in some
                if not spoken and task.task.kind != "tag"
            ]
            transcripts = [_transcript(row) for row in some] if spoken else []
            if answers or transcripts:
                found.append(Shown(run.id, transcripts, answers))
    return found


def looks(experiment: Experiment, results: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stored attention of the first seed of each pre-training, if there is any."""
    for run in runs.pretrain_runs(experiment):
        found = read_json(results / "runs" / run.id / "attention.json")
        if found is not None and run.seed == experiment.pretrain[run.name].seeds[0]:
            yield f"pretrain/{run.name}", found


def _transcript(row: Prediction) -> Transcript:
    return Transcript(row.id, [*_aligned(row.reference, row.prediction)])


def _aligned(reference: str, read: str) -> Iterator[Word]:
    import jiwer

    out = jiwer.process_words([reference], [read])
    true, heard = out.references[0], out.hypotheses[0]
    for chunk in out.alignments[0]:
        span = max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
        for i in range(span):
            was = true[chunk.ref_start_idx + i] if chunk.type != "insert" else ""
            now = heard[chunk.hyp_start_idx + i] if chunk.type != "delete" else ""
            yield Word(chunk.type, was, now)

"""A decoding run: search for weights on the development split, then decode every split once.

It needs no GPU, because it reads the outputs that a fine-tuning has saved. Each trial and each
decoded chunk of utterances is saved at once, so that a killed run resumes where it stopped:

    work/<experiment>/decode/<name>/<arm>/seed<k>/trials.jsonl            one line per trial
    work/<experiment>/decode/<name>/<arm>/seed<k>/decoded-<split>.jsonl   one line per chunk
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from d2v import params
from d2v.evaluation import metrics, predictions, weight_search
from d2v.evaluation.beam_search import Counted, Decoders
from d2v.evaluation.ctc import Language, greedy
from d2v.evaluation.predictions import Prediction
from d2v.evaluation.weight_search import Trial, Weights
from d2v.experiment import folders, provenance
from d2v.experiment.task_runs import DecodeRun, FinetuneRun
from d2v.util import files
from d2v.util.errors import UserError
from d2v.util.files import read_json
from d2v.util.journal import Journal, Record

REPORTED = ("wer", "cer", "greedy_wer", "greedy_cer")  # always reported, for comparison
# source files that trials and decoded words depend on
CODE = (
    "arpa.py", "ctc.py", "flashlight_search.py", "lexicon_search.py", "metrics.py",
    "weight_search.py",
)  # fmt: skip


@dataclass(frozen=True)
class Outputs:
    """Saved outputs of a fine-tuning for one split; `emissions` (T, letters) are in rows' order."""

    name: str
    rows: list[Prediction]
    emissions: list[Tensor]
    sha256: str


def execute_decode(run: DecodeRun) -> dict[str, Any]:
    """Search for weights, decode all splits of the fine-tuning, and write their predictions.

    Returns the content of metrics.json. Raises UserError if the fine-tuning is not done, if its
    outputs are missing or from another run, or if lexicon or language model cannot be read.
    """
    source, decode = run.finetuning, run.decode
    found = read_json(source.metrics_path)
    if found is None:
        raise UserError(f"{source.id} has not finished; run it first (`d2v run {source.id}`)")
    language = Language(run.prepared / decode.lm, source.letters)
    given = _given(run)
    dev = outputs(source, "dev")
    trials = _search(dev, decode, language, run.work, given)
    chosen, known = trials[0], next(trial for trial in trials if trial.number == 0)
    weighted = _with(decode, chosen.weights, decode.beam)
    scores, hashes = {}, {}
    for name in found["metrics"]:
        split = dev if name == "dev" else outputs(source, name)
        rows = _decode(split, weighted, language, run.work, given)
        path = run.predictions(name)
        predictions.write_predictions(path, rows)
        names = dict.fromkeys([*run.params.metrics, *REPORTED])
        scores[name], hashes[name] = predictions.score(path, list(names)), split.sha256
    at_edge = weight_search.at_edge(decode, chosen.weights)
    for warning in at_edge.values():
        print(f"warning: {warning}", flush=True)
    return {
        **{key: found.get(key) for key in ("pretrain_run", "setting")},
        "finetune_run": source.id,
        "metrics": scores,
        "weights": {**_described(chosen), "beam": decode.beam, "trials": len(trials)},
        "preset": _described(known),
        "at_edge": at_edge,
        "emissions_sha256": hashes,
    }


def outputs(source: FinetuneRun, name: str) -> Outputs:
    """Saved outputs of a fine-tuning for a split.

    Raises UserError if they are missing, unreadable or do not match the predictions.
    """
    rows = predictions.read_predictions(source.predictions(name))
    path = source.emissions(name)
    again = f"run {source.id} again (`d2v run {source.id}`)"
    try:
        with safe_open(path, "pt") as file:
            ids = set(file.keys())
            if ids != {row.id for row in rows}:
                raise UserError(f"{path}: its utterances are not those of the predictions; {again}")
            emissions = [file.get_tensor(row.id).to(torch.float32) for row in rows]
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {again}") from None
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read ({error}); {again}") from None
    for row, tensor in zip(rows, emissions, strict=True):
        if greedy(tensor, source.letters) != row.greedy:
            raise UserError(f"{path}: {row.id} decodes differently from the predictions; {again}")
    return Outputs(name, rows, emissions, files.sha256(path))


def _search(
    dev: Outputs, decode: params.Decode, language: Language, work: Path, given: Record
) -> list[Trial]:
    """Run all trials on the development split; return them, best first."""
    search = decode.search
    assert search is not None
    depends = {"search": decode.model_dump(mode="json", exclude={"cpus", "lm", "beam"})}
    journal = Journal(work / "trials.jsonl", {**given, **depends, "emissions": dev.sha256})
    references = [row.reference for row in dev.rows]
    done = min(len(journal.records), search.trials)
    with (
        Decoders(language, dev.emissions, decode.cpus) as decoders,
        Counted("trial", search.trials, "trial", done) as counted,
    ):

        def measure(weights: Sequence[Weights]) -> Iterator[float]:
            ways = [_with(decode, w, search.beam) for w in weights]
            for texts in decoders.all(ways):
                yield metrics.compute("wer", references, texts)

        def told(trial: Trial, best: Trial) -> None:
            counted.add(1, f"WER {_words(trial)}; best {_words(best)}")

        return weight_search.search(decode, measure, journal, told)


def _decode(
    split: Outputs, decode: params.Decode, language: Language, work: Path, given: Record
) -> list[Prediction]:
    """The split's rows, with the words that the beam search finds as predictions."""
    depends = {"decode": decode.model_dump(mode="json", exclude={"cpus", "lm", "search"})}
    journal = Journal(
        work / f"decoded-{split.name}.jsonl", {**given, **depends, "emissions": split.sha256}
    )
    known = {row.id for row in split.rows}
    texts = {
        id: text
        for record in journal.records
        for id, text in record.items()
        if id in known and isinstance(text, str)
    }
    left = [number for number, row in enumerate(split.rows) if row.id not in texts]
    with (
        Decoders(language, split.emissions, decode.cpus) as decoders,
        Counted(f"decoding {split.name}", len(known), "utterance", len(texts)) as counted,
    ):
        chunks = decoders.chunks(left)
        found = decoders.run((decode, chunk) for chunk in chunks)
        for chunk, words in zip(chunks, found, strict=True):
            ids = [split.rows[number].id for number in chunk]
            journal.add(dict(zip(ids, words, strict=True)))
            texts |= journal.records[-1]
            counted.add(len(chunk))
    return [replace(row, prediction=texts[row.id]) for row in split.rows]


def _with(decode: params.Decode, weights: Weights, beam: int) -> params.Decode:
    return decode.model_copy(update={**weights._asdict(), "beam": beam})


def _described(trial: Trial) -> dict[str, float]:
    return {**trial.weights._asdict(), "search_dev_wer": trial.wer, "trial": trial.number}


def _words(trial: Trial) -> str:
    weights = ", ".join(f"{name} {value:g}" for name, value in trial.weights._asdict().items())
    return f"{100 * trial.wer:.2f} % ({weights})"


def _given(run: DecodeRun) -> Record:
    """What the whole run depends on: content of the language model set, code and libraries."""
    meta = read_json(folders.meta_path(run.experiment, run.decode.lm)) or {}
    code = sha256(
        b"".join((provenance.PACKAGE / "evaluation" / name).read_bytes() for name in CODE)
    ).hexdigest()
    libraries = {name: _version(name) for name in ("flashlight-text", "jiwer")}
    return {"lm": meta.get("sha256"), "code": code, "libraries": libraries}


def _version(library: str) -> str | None:
    """Version of a library; None if it is not installed (flashlight-text on a new Python)."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None

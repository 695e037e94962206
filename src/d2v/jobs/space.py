"""Disk space of the prepared sets of an experiment: measured where they are, else estimated."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePath

from d2v import params
from d2v.data.summary import summary
from d2v.params import Experiment
from d2v.params.data import LibriSpeech, PlainText
from d2v.params.prepared import command_of

# approximate size of the prepared sets that a group of `data:` makes, GB, by the group's kind
GROUPS: dict[str, dict[str, float]] = {
    "imagenet": {"imagenet": 150},
    "librispeech_lm": {"lm": 4},
    "librilight": {"librilight": 3600},
    "audioset": {"audioset": 350},
    "plain_text": {"corpus": 7, "tokenizer": 0.01},  # books and Wikipedia
    "cifar10": {"cifar10": 0.19},
    "digits": {"digits": 0.006},
    "spoken_digits": {"spoken_digits": 0.054},
    "verses": {"corpus": 0.005},
}
# LibriSpeech's subsets, GB (openslr.org/12), and the utterances that only Libri-light's lists have
SUBSETS = {
    "train-clean-100": 6.3,
    "train-clean-360": 23.0,
    "train-other-500": 30.0,
    "dev-clean": 0.34,
    "dev-other": 0.31,
    "test-clean": 0.35,
    "test-other": 0.33,
}
LIMITED = 0.3
# text that `d2v fetch` unpacks, GB, by the name of its folder
FETCHED = {"wikitext-103-raw": 0.54}
# GB of a prepared set per GB of its source; two bytes per token of about four letters
SHARES = {"image_folder": 1.0, "audio_folder": 1.0, "text_folder": 0.5, "plain_text": 0.5}


def prepared(
    experiment: Experiment, names: Sequence[str], root: Path = Path()
) -> dict[str, tuple[float | None, bool]]:
    """Size in GB of each named set (None: unknown), and whether it was measured.

    Sets that are prepared are measured. Others are estimated, from their sources if these exist.
    """
    found: dict[str, tuple[float | None, bool]] = {}
    for name in dict.fromkeys(names):
        there = summary(root / experiment.prepared / name)
        size = there.size / 1e9 if there else _estimate(experiment, name, root)
        found[name] = size, there is not None
    return found


def _estimate(experiment: Experiment, name: str, root: Path) -> float | None:
    group = experiment.group_of(name)
    match group:
        case None:
            return None
        case LibriSpeech():
            return _subsets(command_of(root, experiment.stages, f"{experiment.prepared}/{name}"))
        case PlainText() | params.Own() if group.kind in SHARES and name in _largest(experiment):
            fetched = [FETCHED[p] for p in PurePath(group.source).parts if p in FETCHED]
            source = _size(root / group.source) or (fetched[0] if fetched else None)
            if source is not None:
                return SHARES[group.kind] * source
    return GROUPS.get(group.kind, {}).get(name)


def _largest(experiment: Experiment) -> set[str]:
    """Sets that contain their sources, unlike tokenizers and language models made from those."""
    return {"corpus", *experiment.data}


def _subsets(command: str) -> float:
    """Size of the subsets after --splits in the command of a stage, or of all."""
    words = shlex.split(command)
    start = words.index("--splits") + 1 if "--splits" in words else len(words)
    chosen = [size for name, size in SUBSETS.items() if name in words[start:]]
    extra = LIMITED if "--limited-audio" in words else 0.0
    return sum(chosen or SUBSETS.values()) + extra


def _size(source: Path) -> float | None:
    """GB of a file, or of the files below a folder; None if there are none."""
    if source.is_file():
        return source.stat().st_size / 1e9
    total = 0
    for folder, _, files in os.walk(source):  # links are not followed: they may lead in circles
        total += sum(
            (Path(folder) / f).stat().st_size for f in files if (Path(folder) / f).exists()
        )
    return total / 1e9 if total else None

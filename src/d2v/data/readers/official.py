"""Example counts of the official sets, and how missing examples are reported."""

import sys
from collections.abc import Collection, Mapping
from typing import Any

from d2v.util.errors import UserError

# ImageNet-1K: ILSVRC 2012 (Russakovsky et al. 2015, table 2). LibriSpeech: utterances per subset
# (openslr.org/12). GLUE: rows per file, from dataset_infos.json of Hugging Face's glue; QQP without
# its broken rows (QQP-clean.zip), MRPC as divided by mrpc_dev_ids.tsv. AudioSet is not listed: each
# of its lists declares its length in its header.
OFFICIAL: dict[str, dict[str, int]] = {
    "imagenet": {"train": 1_281_167, "val": 50_000},
    "librispeech": {
        "train-clean-100": 28_539,
        "train-clean-360": 104_014,
        "train-other-500": 148_688,
        "dev-clean": 2_703,
        "dev-other": 2_864,
        "test-clean": 2_620,
        "test-other": 2_939,
    },
    "CoLA": {"train": 8_551, "dev": 1_043, "test": 1_063},
    "MNLI": {
        "train": 392_702,
        "dev_matched": 9_815,
        "dev_mismatched": 9_832,
        "test_matched": 9_796,
        "test_mismatched": 9_847,
    },
    "MRPC": {"train": 3_668, "dev": 408, "test": 1_725},
    "QNLI": {"train": 104_743, "dev": 5_463, "test": 5_463},
    "QQP": {"train": 363_846, "dev": 40_430, "test": 390_965},
    "RTE": {"train": 2_490, "dev": 277, "test": 3_000},
    "SST-2": {"train": 67_349, "dev": 872, "test": 1_821},
    "STS-B": {"train": 5_749, "dev": 1_500, "test": 1_379},
}
# QQP.zip, which GLUE published before QQP-clean.zip, has three more intact rows
EARLIER: dict[str, dict[str, int]] = {"QQP": {"train": 363_849}}
IMAGENET_CLASSES = 1000
# Kahn et al. 2020, table 1; data_preparation/README.md of libri-light gives 5,193 for medium
LIBRILIGHT_HOURS = {"small": 577.2, "medium": 5_189.0, "large": 51_934.0}
ENOUGH = 0.99  # share of a subset's hours, because files without a usable piece do not count


def check_counts(
    dataset: str,
    found: Mapping[str, int],
    allow_partial: bool = False,
    chosen: Collection[str] | None = None,
) -> bool:
    """Whether every split of a prepared set has as many examples as the official one.

    `chosen` are the splits that somebody asked for; by default, all count. With `allow_partial`,
    warns of a mismatch. Otherwise raises UserError with every split whose count differs, and with
    what to do.
    """
    official, earlier = OFFICIAL[dataset], EARLIER.get(dataset, {})
    faults = [
        f"{split} has {found.get(split, 0):,} of {count:,}"
        for split, count in official.items()
        if chosen is None or split in chosen
        if found.get(split, 0) not in (count, earlier.get(split))
    ]
    return tell(dataset, faults, allow_partial)


def check_hours(found: Mapping[str, float], allow_partial: bool = False) -> bool:
    """Whether Libri-light is complete, judged by the hours of its subsets before cutting.

    Like `check_counts`, warns or raises UserError with every subset that has fewer hours.
    """
    faults = [
        f"{subset} has {found.get(subset, 0.0):,.1f} of {hours:,.1f} hours"
        for subset, hours in LIBRILIGHT_HOURS.items()
        if found.get(subset, 0.0) < ENOUGH * hours
    ]
    return tell("librilight", faults, allow_partial)


def lacking(meta: Mapping[str, Any]) -> str:
    """Describe what a set lacks of the official one, by its meta.json; empty if nothing known."""
    missing = sum(split.get("missing", 0) for split in dict(meta.get("splits") or {}).values())
    words = [f"{missing:,} clips are missing"] if missing else []
    words += ["not the whole official set"] if meta.get("complete") is False else []
    return ", ".join(words)


def tell(dataset: str, faults: list[str], allow_partial: bool) -> bool:
    """Return True if there are no faults; otherwise warn of them, or raise UserError."""
    if not faults:
        return True
    text = f"{dataset} is not the whole official set: {'; '.join(faults)}"
    if not allow_partial:
        raise UserError(
            f"{text}; add what is missing or, to use only this part, set `partial: true` in the"
            " set's entry in the parameter file (d2v prepare: --allow-partial)"
        )
    print(f"warning: {text}", file=sys.stderr)
    return False

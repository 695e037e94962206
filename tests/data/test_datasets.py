"""Data sets of the trainer: what does not fit is refused; lists, loaders, memory, speed."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_builds import (
    AUGMENTED,
    BLOCKS,
    CTC,
    FRAMES,
    IMAGE_VIEW,
    NUMBER,
    PATCHES,
    SPANS,
    TEXT_VIEW,
    TOKENS,
    TWO,
    WAVE_VIEW,
    assert_equal,
    batch_of,
    build,
)
from small_sets import SENTENCES, glue_folder, write_lines
from torch.utils.data import DataLoader

from d2v.cli import prepare
from d2v.data.examples import Decoded, Examples
from d2v.util.errors import UserError

ORDER = ("ZERO", "ONE", "TWO")

# --- what does not fit ------------------------------------------------------------------------

MISFITS: dict[str, tuple[Callable[[Path], Examples], str]] = {
    "not prepared": (
        lambda p: build(p / "nothing", IMAGE_VIEW, PATCHES),
        r"nothing/meta\.json: missing",
    ),
    "no such split": (
        lambda p: build(p / "images", IMAGE_VIEW, PATCHES, split="test"),
        "has no split 'test', only dev, train",
    ),
    "other data": (
        lambda p: build(p / "images", WAVE_VIEW, FRAMES),
        "images: prepared as imagefolder, not as librispeech or audioset",
    ),
    "no such part": (
        lambda p: build(p / "speech", WAVE_VIEW, FRAMES, split="train+test"),
        "has no split 'test', only dev, train",
    ),
    "labels wanted": (
        lambda p: build(p / "corpus", TEXT_VIEW, TOKENS, task=TWO),
        "corpus: prepared as corpus, not as glue",
    ),
    "no such list": (
        lambda p: build(p / "images", IMAGE_VIEW, PATCHES, labels="labels-9.0"),
        r"lists/labels-9\.0\.txt: no such label list",
    ),
    "list of another split": (
        lambda p: build(p / "images", IMAGE_VIEW, PATCHES, split="dev", labels="labels-2.0"),
        r"labels-2\.0\.txt:1: no example of dev is named 'n02/n02_train1'",
    ),
    "classes of images": (
        lambda p: build(
            p / "images", IMAGE_VIEW, PATCHES, task=TWO.model_copy(update={"classes": 10})
        ),
        "2 classes, but task.classes is 10",
    ),
    "classes of texts": (
        lambda p: build(p / "MRPC", TEXT_VIEW, TOKENS, task=TWO.model_copy(update={"classes": 3})),
        "2 classes, but task.classes is 3",
    ),
    "numbers as classes": (
        lambda p: build(p / "STS-B", TEXT_VIEW, TOKENS, task=TWO),
        "labels are numbers",
    ),
    "classes as numbers": (
        lambda p: build(p / "MRPC", TEXT_VIEW, TOKENS, task=NUMBER),
        "labels are classes",
    ),
    "vocabulary": (
        lambda p: build(p / "corpus", TEXT_VIEW, TOKENS.model_copy(update={"vocab_size": 71})),
        "70 tokens, but encoder.vocab_size is 71",
    ),
    "short blocks": (
        lambda p: build(p / "corpus", TEXT_VIEW.model_copy(update={"max_tokens": 39}), TOKENS),
        "blocks of 40 tokens, but view.max_tokens is 39",
    ),
    "channels": (
        lambda p: build(p / "images", IMAGE_VIEW, PATCHES.model_copy(update={"channels": 2})),
        "encoder.channels is 2",
    ),
    "foreign mask": (
        lambda p: build(p / "images", IMAGE_VIEW, PATCHES, mask=SPANS),
        "cannot be combined: vision, vision, span",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_parameters_that_do_not_fit_the_data_are_refused(small_prepared: Path, misfit: str) -> None:
    builder, message = MISFITS[misfit]
    with pytest.raises(UserError, match=message):
        builder(small_prepared)


def test_a_split_without_labels_cannot_be_scored(small_prepared: Path, tmp_path: Path) -> None:
    source = glue_folder(tmp_path / "SST-2", "SST-2")
    write_lines(source / "test.tsv", "index\tsentence", f"0\t{SENTENCES[0]}")
    tokenizer = str(small_prepared / "tokenizer")
    out = tmp_path / "out"
    prepare.main(["glue", "SST-2", str(source), "--tokenizer", tokenizer, "-o", str(out)])
    with pytest.raises(UserError, match="the split 'test' has no labels"):
        build(out, TEXT_VIEW, TOKENS, task=TWO, split="test")


# --- lists, loaders, memory, speed ------------------------------------------------------------


def test_label_lists_choose_examples_in_their_order(small_prepared: Path) -> None:
    data = build(small_prepared / "images", IMAGE_VIEW, PATCHES, task=TWO, labels="labels-2.0")
    assert list(data.ids) == ["n02/n02_train1", "n01/n01_train0"]
    assert list(data.references) == [1, 0]
    assert batch_of(data, 0)["labels"].tolist() == [1]
    speech = build(small_prepared / "speech", WAVE_VIEW, FRAMES, task=CTC, labels="labels-1.0.txt")
    assert list(speech.references) == ["ONE TWO"]


def test_several_splits_are_read_like_one(small_prepared: Path) -> None:
    parts = [build(small_prepared / "speech", WAVE_VIEW, FRAMES, split=s) for s in ("train", "dev")]
    both = build(small_prepared / "speech", WAVE_VIEW, FRAMES, split="train+dev")
    assert list(both.ids) == [*parts[0].ids, *parts[1].ids]
    assert both.sizes.tolist() == [*parts[0].sizes, *parts[1].sizes]
    for i in range(6):
        part, place = divmod(i, 3)
        assert (both[0, i]["wave"] == parts[part][0, place]["wave"]).all()
    labelled = build(small_prepared / "speech", WAVE_VIEW, FRAMES, split="dev+train", task=CTC)
    assert list(labelled.references) == [f"{w} {s}" for s in ("ONE", "TWO") for w in ORDER]
    listed = build(
        small_prepared / "images", IMAGE_VIEW, PATCHES, split="dev+train", labels="labels-2.0"
    )
    assert list(listed.ids) == ["n02/n02_train1", "n01/n01_train0"]
    assert_equal(batch_of(pickle.loads(pickle.dumps(both)), 4), batch_of(both, 4))


@pytest.mark.slow
def test_loader_processes_give_the_same_batches(small_prepared: Path) -> None:
    data = build(small_prepared / "images", AUGMENTED, PATCHES, mask=BLOCKS)
    data[0, 0]  # files are mapped and items kept before the processes start
    places = [[(0, 0), (0, 3)], [(1, 2), (1, 1)]]
    loader: DataLoader[Any] = DataLoader(
        data,
        batch_sampler=places,
        collate_fn=data.collate,
        num_workers=1,
    )
    for batch, expected in zip(loader, places, strict=True):
        assert_equal(batch, data.collate([data[place] for place in expected]))


def test_data_sets_survive_pickling(small_prepared: Path) -> None:
    """As processes that are spawned need it."""
    data = build(small_prepared / "speech", WAVE_VIEW, FRAMES, mask=SPANS)
    expected = batch_of(data, 0, 2)
    assert_equal(batch_of(pickle.loads(pickle.dumps(data)), 0, 2), expected)


def test_only_sets_that_fit_are_kept_in_memory() -> None:
    calls: list[int] = []

    def decode(row: int) -> np.ndarray:
        calls.append(row)
        return np.zeros(1)

    for total, expected in ((1000, 1), (2**40, 3)):
        calls.clear()
        items = Decoded(decode, total)
        for _ in range(3):
            items[5]
        assert len(calls) == expected

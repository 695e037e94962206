"""Small sets in exactly the formats of what params/public.yaml reads."""

from pathlib import Path

import numpy as np
import soundfile
from glue_builds import folder as glue_files
from official_sets import RATE, WORDS, speak
from small_sets import SENTENCES, write_lines

from d2v.data.readers.cifar10 import TEST, TRAIN

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TASKS = {"cola": "CoLA", "mrpc": "MRPC", "rte": "RTE", "sst2": "SST-2", "stsb": "STS-B"}
IMAGES = 60  # per file of CIFAR-10


def cifar10(root: Path, images: int = IMAGES) -> Path:
    """The folder cifar-10-batches-bin, with images whose colour tells the class."""
    root.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in (*TRAIN, TEST):
        labels = (np.arange(images) % 10).astype(np.uint8)
        pixels = random.integers(0, 60, (images, 3, 32, 32), np.uint8)
        pixels[:, 0] += (19 * labels)[:, None, None]
        (root / name).write_bytes(
            np.hstack([labels[:, None], pixels.reshape(images, -1)]).tobytes()
        )
    (root / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")  # as published
    (root / "readme.html").write_text("<html></html>")
    return root


def wikitext(folder: Path, articles: int = 12) -> Path:
    """The folder wikitext-103-raw: articles behind their titles, with tokenised punctuation."""
    for split, count in (("train", articles), ("valid", 2), ("test", 2)):
        lines = []
        for number in range(count):
            body = SENTENCES[number % 8 :] + SENTENCES[: number % 8]
            lines += [" ", f" = Article {number} = ", " ", f" {body[0]} , well @-@ known . ", " "]
            lines += [f" = = Section of {number} = = ", " ", f" {' . '.join(body[1:])} . "]
            lines += [" = = = Numbers = = = ", " ", " It has 1 @,@ 234 @.@ 5 of them . "]
        write_lines(folder / f"wiki.{split}.raw", *lines)
    return folder


def librispeech(root: Path, limited: Path) -> None:
    """Three subsets, and Libri-light's small subsets with audio, most of it from another subset."""
    random = np.random.default_rng(1)
    splits = {"train-clean-100": 1, "dev-clean": 2, "test-clean": 3}
    for split, speaker in splits.items():
        _chapter(root / split / str(speaker) / "7", f"{speaker}-7", range(8), random)
    first = root / "train-clean-100" / "1" / "7"
    for place, speaker in (("1h/0/clean", 1), ("1h/1/other", 8), ("9h/clean", 9)):
        chapter = limited / place / str(speaker) / "7"
        if speaker == 1:  # an utterance of train-clean-100; the transcripts are the whole chapter's
            chapter.mkdir(parents=True)
            for name in ("1-7-0002.flac", "1-7.trans.txt"):
                (chapter / name).write_bytes((first / name).read_bytes())
        else:
            _chapter(chapter, f"{speaker}-7", range(4), random)


def _chapter(folder: Path, prefix: str, numbers: range, random: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    rows = []
    for number in numbers:
        text = " ".join(random.choice(WORDS, random.integers(2, 4)))
        soundfile.write(folder / f"{prefix}-{number:04d}.flac", speak(text, random), RATE)
        rows.append(f"{prefix}-{number:04d} {text}")
    write_lines(folder / f"{prefix}.trans.txt", *rows)


def glue(root: Path) -> None:
    """The five tasks."""
    for task in TASKS.values():
        glue_files(root / task, task)

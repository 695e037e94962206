"""Small data sets in the official layouts, for tests of readers and data sets."""

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

WORDS = ["ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"]
SENTENCES = [
    "the cat sat on the mat",
    "a dog ran over the hill and far away",
    "no man is an island",
    "all that glitters is not gold",
    "the early bird catches the worm",
    "a rolling stone gathers no moss",
    "still waters run deep and cold",
    "fortune favours the bold",
]


def write_lines(path: Path, *rows: str) -> Path:
    """A UTF-8 file of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def image_tree(root: Path, splits: tuple[str, ...] = ("dev", "train"), each: int = 3) -> Path:
    """Two classes of 32 x 32 JPEG files, and a list of two training images."""
    random = np.random.default_rng(0)
    for split in splits:
        for name in ("n01", "n02"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(each):
                pixels = random.integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
                Image.fromarray(pixels).save(folder / f"{name}_{split}{number}.JPEG", quality=95)
    write_lines(root / "lists" / "labels-2.0.txt", "n02/n02_train1", "n01/n01_train0")
    return root


def speech_tree(root: Path, splits: tuple[str, ...] = ("dev", "train"), each: int = 3) -> Path:
    """One speaker a split, noise of .2 to .6 s as FLAC, and a list of one training utterance."""
    random = np.random.default_rng(0)
    for speaker, split in enumerate(splits, 1):
        chapter, rows = root / split / str(speaker) / "7", []
        chapter.mkdir(parents=True)
        for number in range(each):
            name = f"{speaker}-7-{number:04d}"
            wave = random.integers(-9000, 9000, 3200 * (1 + number % 3), np.int16)
            soundfile.write(chapter / f"{name}.flac", wave, 16_000)
            rows.append(f"{name} {WORDS[number % 10]} {WORDS[speaker]}")
        write_lines(chapter / f"{speaker}-7.trans.txt", *rows)
    write_lines(root / "lists" / "labels-1.0.txt", f"{len(splits)}-7-0001")
    return root


def corpus_folder(root: Path) -> Path:
    """Two files of plain text; the first has two documents."""
    write_lines(root / "a.txt", *SENTENCES[:3], "", *SENTENCES[3:6])
    write_lines(root / "b.txt", *SENTENCES[6:])
    return root


def glue_folder(root: Path, name: str) -> Path:
    """train, dev and test files of a task, with quotes that are text."""
    rows = {
        "SST-2": [
            "sentence\tlabel",
            *(f'"{s} \t{i % 2}' for i, s in enumerate(SENTENCES)),
        ],
        "CoLA": [f"gj04\t{i % 2}\t{'' if i % 2 else '*'}\t{s}" for i, s in enumerate(SENTENCES)],
        "MRPC": [
            "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
            *(f'{i % 2}\t{i}\t{i + 9}\t{s}\t"{s}" a' for i, s in enumerate(SENTENCES)),
        ],
        "RTE": [
            "index\tsentence1\tsentence2\tlabel",
            *(
                f"{i}\t{s}\t{s} so\t{('entailment', 'not_entailment')[i % 2]}"
                for i, s in enumerate(SENTENCES)
            ),
        ],
        "STS-B": [
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
            *(
                f"{i}\tnews\tx\t2012\t{i}\tnone\tnone\t{s}\t{s}\t{i / 2:.3f}"
                for i, s in enumerate(SENTENCES)
            ),
        ],
    }[name]
    for split in ("train", "dev", "test"):
        write_lines(root / f"{split}.tsv", *rows)
    return root

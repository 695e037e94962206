"""Small sets in the official layouts of everything that params/paper.yaml reads."""

import json
from pathlib import Path

import numpy as np
import soundfile
from glue_builds import folder as glue_files
from PIL import Image
from small_sets import SENTENCES, write_lines

RATE = 16_000
SYNSETS = ("n01440764", "n01443537", "n01484850")
WORDS = ("ONE", "TWO", "SIX", "TEN", "NO", "YES")
TRAINING = ("train-clean-100", "train-clean-360", "train-other-500")
HELD_OUT = ("dev-clean", "dev-other", "test-clean", "test-other")
GLUE = {
    "cola": "CoLA",
    "mnli": "MNLI",
    "mrpc": "MRPC",
    "qnli": "QNLI",
    "qqp": "QQP",
    "rte": "RTE",
    "sst2": "SST-2",
    "stsb": "STS-B",
}
PITCH = {letter: 200 + 90 * n for n, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")}


def make(root: Path) -> dict[str, list[str]]:
    """Write all sets; returns for each prepared set the words behind `d2v prepare`."""
    _imagenet(root / "imagenet")
    _librispeech(root / "LibriSpeech", root / "librispeech_finetuning")
    _librilight(root / "librilight")
    _audioset(root / "audioset")
    write_lines(root / "text" / "books.txt", *(SENTENCES * 6), "", *(SENTENCES[::-1] * 6))
    for task in GLUE.values():
        glue_files(root / "glue_data" / task, task)
    limited = ["--limited", str(root / "librispeech_finetuning")]
    partial = "--allow-partial"
    commands = {
        "imagenet": ["imagenet", str(root / "imagenet"), partial],
        "librispeech": ["librispeech", str(root / "LibriSpeech"), *limited, "--official", partial],
        "lm": ["lm", str(root / "LibriSpeech" / TRAINING[0]), "--order", "2"],
        "librilight": ["librilight", str(root / "librilight")],
        "audioset": ["audioset", str(root / "audioset")],
        "tokenizer": ["tokenizer", str(root / "text"), "--vocab-size", "120", "--byte-fallback"],
        "corpus": ["corpus", str(root / "text"), "--block", "32"],
    }
    commands["tokenizer"].remove("--byte-fallback")  # 256 bytes are more than 120 tokens
    for name, task in GLUE.items():
        source = str(root / "glue_data" / task)
        commands[name] = ["glue", task, source, "--official", partial]
    return commands


def _imagenet(root: Path) -> None:
    """Three synsets, each with a colour of its own."""
    random = np.random.default_rng(0)
    number = 0
    for label, synset in enumerate(SYNSETS):
        for split, count in (("train", 12), ("val", 6)):
            folder = root / split / synset
            folder.mkdir(parents=True)
            for _ in range(count):
                number += 1
                pixels = random.integers(0, 90, (40, 48, 3), np.uint8)
                pixels[..., label] += 120
                Image.fromarray(pixels).save(folder / f"{synset}_{number}.JPEG")


def speak(text: str, random: np.random.Generator) -> np.ndarray:
    """A tone of its own for each letter, 80 ms long, and some noise (S,)."""
    time = np.arange(int(0.08 * RATE)) / RATE
    tones = [np.sin(2 * np.pi * PITCH[letter] * time) for letter in text]
    wave = np.concatenate(tones) + 0.02 * random.standard_normal(len(text) * len(time))
    return (8000 * wave).astype(np.int16)


def _librispeech(root: Path, limited: Path) -> None:
    random = np.random.default_rng(1)
    for speaker, split in enumerate((*TRAINING, *HELD_OUT), 1):
        chapter, rows = root / split / str(speaker) / "7", []
        chapter.mkdir(parents=True)
        for number in range(12 if split in TRAINING else 5):
            name = f"{speaker}-7-{number:04d}"
            text = " ".join(random.choice(WORDS, random.integers(2, 4)))
            soundfile.write(chapter / f"{name}.flac", speak(text, random), RATE)
            rows.append(f"{name} {text}")
        write_lines(chapter / f"{speaker}-7.trans.txt", *rows)
    for place, count in (("1h/0/clean", 4), ("1h/1/other", 4), ("9h/clean", 4)):
        speaker = {"1h/0/clean": 1, "1h/1/other": 3, "9h/clean": 2}[place]
        for number in range(count):
            path = limited / place / str(speaker) / "7" / f"{speaker}-7-{number:04d}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def _librilight(root: Path) -> None:
    random = np.random.default_rng(2)
    folder = root / "small" / "9" / "book"
    folder.mkdir(parents=True)
    for number in range(3):
        soundfile.write(folder / f"{number}.flac", speak("ONE TWO SIX TEN " * 8, random), RATE)
        voice = {"voice_activity": [[0.0, 4.9], [5.0, 10.0]]}
        (folder / f"{number}.json").write_text(json.dumps(voice))


def _audioset(root: Path) -> None:
    """Three classes of sounds, one or two in a clip."""
    classes = ["Hum", "Whistle, high", "Noise"]
    rows = [f'{n},/m/{n},"{name}"' for n, name in enumerate(classes)]
    write_lines(root / "class_labels_indices.csv", "index,mid,display_name", *rows)
    random = np.random.default_rng(3)
    time = np.arange(RATE) / RATE
    parts = [np.sin(2 * np.pi * 200 * time), np.sin(2 * np.pi * 3000 * time), None]
    (root / "clips").mkdir()
    for split, count in (("balanced_train", 12), ("unbalanced_train", 12), ("eval", 8)):
        lines = ["# comment", "# comment", "# YTID, start_seconds, end_seconds, positive_labels"]
        for number in range(count):
            labels = sorted({number % 3, int(random.integers(3))})
            wave = 0.01 * random.standard_normal(RATE)
            for label in labels:
                part = parts[label]
                wave = wave + (random.standard_normal(RATE) / 3 if part is None else part)
            name = f"{split[:2]}{number}"
            soundfile.write(root / "clips" / f"{name}.wav", (6000 * wave).astype(np.int16), RATE)
            ids = ",".join(f"/m/{label}" for label in labels)
            lines.append(f'{name}, 0.000, 10.000, "{ids}"')
        write_lines(root / f"{split}_segments.csv", *lines)

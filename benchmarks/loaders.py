"""What one core loads: images, seconds of speech and tokens as pre-training sees them.

    python benchmarks/loaders.py [--images 192] [--utterances 192] [--repeat 3] [-o FILE]

Synthetic JPEG and FLAC files (loading.py) and random words are prepared, then read through the data
sets of the Base recipes: shards, decoding, augmentation, masks, collation, in one thread, nothing
kept in memory. `needed` is what one H100 with 16 cores asks of each core at 2,800 images a second;
`covers` says how much of it one core gives. Shards v. loose files: loading.py.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import batches
import torch
from loading import write_images, write_speech

from d2v import params
from d2v.data import build_dataset, examples, prepare

NEEDED = 2800 / 16  # images a second and core
RATE = 16_000
BATCH = 32
WORDS, VOCABULARY = 3000, 1000
UNITS = {"vision": "images", "speech": "audio seconds", "text": "tokens"}


def write_text(folder: Path, sentences: int) -> Path:
    """A corpus of random words, twenty in a sentence."""
    draw = random.Random(0)
    letters = "etaoinshrdlu"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 8))) for _ in range(WORDS)]
    lines = (" ".join(draw.choices(words, k=20)) for _ in range(sentences))
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("\n".join(lines) + "\n")
    return folder


def prepared(top: Path, a: argparse.Namespace) -> dict[str, Path]:
    """All three sets, as shards."""
    out = {kind: top / "out" / kind for kind in UNITS}
    write_images(top / "images", a.images)
    write_speech(top / "speech", a.utterances)
    corpus = write_text(top / "corpus", a.sentences)
    tokenizer = top / "out" / "tokenizer"
    prepare.main(["imagefolder", str(top / "images"), "-o", str(out["vision"])])
    prepare.main(["librispeech", str(top / "speech"), "-o", str(out["speech"])])
    size = ["--vocab-size", str(VOCABULARY)]
    prepare.main(["tokenizer", str(corpus), *size, "-o", str(tokenizer)])
    words = ["--block", "512", "--tokenizer", str(tokenizer), "-o", str(out["text"])]
    prepare.main(["corpus", str(corpus), *words])
    return out


def dataset(kind: str, folder: Path) -> Any:
    """The recipe's examples of a set."""
    p = batches.recipe(kind)
    encoder = p.encoder
    if isinstance(encoder, params.TokenEncoder):
        encoder = encoder.model_copy(update={"vocab_size": VOCABULARY})
    return build_dataset(folder, "train", p.view, encoder=encoder, seed=1, train=True, mask=p.mask)


def measure(kind: str, folder: Path, repeat: int) -> dict[str, Any]:
    """Rate of one core, the median of several passes."""
    data = dataset(kind, folder)
    rates = []
    for epoch in range(repeat):
        loaded, began = 0.0, time.process_time()
        for first in range(0, len(data), BATCH):
            places = range(first, min(first + BATCH, len(data)))
            loaded += amount(data.collate([data[epoch, n] for n in places]))
        rates.append(loaded / (time.process_time() - began))
    found = {"unit": UNITS[kind], "per_s_and_core": statistics.median(rates)}
    found["spread"] = (max(rates) - min(rates)) / found["per_s_and_core"]
    if UNITS[kind] == "images":
        found |= {"needed": NEEDED, "covers": found["per_s_and_core"] / NEEDED}
    return found


def amount(batch: dict[str, Any]) -> float:
    """Images, seconds or tokens of a batch."""
    if "images" in batch:
        return len(batch["images"])
    if "waves" in batch:
        return float(batch["waves"].numel() / RATE)
    return float((batch["tokens"] != 1).sum())


def run(words: Sequence[str] = ()) -> dict[str, Any]:
    """Measure as the words of the command line say."""
    a = arguments(words)
    threads = torch.get_num_threads()
    kept, examples.IN_MEMORY = examples.IN_MEMORY, 0  # no pass profits from the one before
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as top:
            folders = prepared(Path(top), a)
            return {kind: measure(kind, folder, a.repeat) for kind, folder in folders.items()}
    finally:
        examples.IN_MEMORY = kept
        torch.set_num_threads(threads)


def table(rows: dict[str, Any]) -> str:
    """Markdown, a row a set."""
    lines = ["| loader | a second and core | needed for one H100 | covers |", "|---|---|---|---|"]
    for kind, row in rows.items():
        needed = f"{row['needed']:.0f} | {row['covers']:.0%}" if "needed" in row else " | "
        lines.append(f"| {kind} | {row['per_s_and_core']:,.0f} {row['unit']} | {needed} |")
    return "\n".join(lines)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line's words."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--utterances", type=int, default=192)
    parser.add_argument("--sentences", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path, help="JSON")
    return parser.parse_args(words)


def main() -> None:
    """Print a table; with -o also write the figures as JSON."""
    a = arguments(None)
    found = run(sys.argv[1:])
    print(table(found))
    if a.out:
        a.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What one core loads: images, seconds of speech and tokens as pre-training sees them.

    python benchmarks/loaders.py [--images 192] [--utterances 192] [--repeat 3] [-o FILE]

Synthetic JPEG and FLAC files and random words are prepared, then read through the data sets of the
Base recipes, batch by batch as their samplers make them: shards, decoding, augmentation, masks,
collation, in one thread, nothing kept in memory. `needed` is what one H100 with 16 cores asks of
each core at 2,800 images a second; `covers` says how much of it one core gives, and a sentence
whether the loader or the GPU would wait. "vision, device" is the same with view.decode device,
which leaves decoding and augmentation to the GPU. The second table compares shards with loose
files; loading.py does it with more files, and says how.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import batches
import loose
import reports
import torch
from synthetic import write_images, write_speech, write_text

from d2v import params
from d2v.cli import prepare
from d2v.data import build_dataset, examples
from d2v.data.sampler import SizedBatches

H100, CORES = 2800, 16  # images a second of ViT-B, beside so many cores
NEEDED = H100 / CORES
RATE = 16_000
BATCH = 32  # where the recipe counts examples
VOCABULARY = 1000
UNITS = {
    "vision": "images",
    "vision, device": "images",
    "speech": "audio seconds",
    "text": "tokens",
}


def prepared(top: Path, a: argparse.Namespace) -> dict[str, Path]:
    """All three sets, as shards."""
    out = {kind: top / "out" / kind for kind in batches.KINDS}
    write_images(top / "vision", a.images)
    write_speech(top / "speech", a.utterances)
    corpus = write_text(top / "corpus", a.sentences)
    tokenizer = top / "out" / "tokenizer"
    prepare.main(["imagefolder", str(top / "vision"), "-o", str(out["vision"])])
    prepare.main(["librispeech", str(top / "speech"), "-o", str(out["speech"])])
    size = ["--vocab-size", str(VOCABULARY)]
    prepare.main(["tokenizer", str(corpus), *size, "-o", str(tokenizer)])
    words = ["--block", "512", "--tokenizer", str(tokenizer), "-o", str(out["text"])]
    prepare.main(["corpus", str(corpus), *words])
    return out


def dataset(kind: str, folder: Path, device: bool = False) -> Any:
    """The recipe's examples of a set."""
    p = batches.recipe(kind)
    encoder, view = p.encoder, p.view
    if isinstance(encoder, params.TokenEncoder):
        encoder = encoder.model_copy(update={"vocab_size": VOCABULARY})
    if device:
        view = view.model_copy(update={"decode": "device"})
    return build_dataset(folder, "train", view, encoder=encoder, seed=1, train=True, mask=p.mask)


def passes(kind: str, data: Any, epoch: int) -> Iterator[list[tuple[int, int]]]:
    """Micro-batches of an epoch."""
    sized = batches.recipe(kind).train.sized
    if sized is None:
        for first in range(0, len(data), BATCH):
            yield [(epoch, n) for n in range(first, min(first + BATCH, len(data)))]
    else:
        order = SizedBatches(data.sizes, sized.model_copy(update={"micro_batches": 1}))
        for n in range(len(order.ends)):
            yield order.keys(epoch * len(order.ends) + n)


def measure(name: str, folder: Path, repeat: int) -> dict[str, Any]:
    """Rate of one core, the median of several passes."""
    kind, _, where = name.partition(", ")
    data = dataset(kind, folder, where == "device")
    first = next(passes(kind, data, 0))
    data.collate(data.__getitems__(first[:2]))  # imports, and files that are mapped once
    rates = []
    for epoch in range(repeat):
        loaded, began = 0.0, time.process_time()
        for places in passes(kind, data, epoch):
            loaded += amount(data.collate(data.__getitems__(places)))
        rates.append(loaded / (time.process_time() - began))
    found = {"unit": UNITS[name], "per_s_and_core": statistics.median(rates)}
    found["spread"] = (max(rates) - min(rates)) / found["per_s_and_core"]
    if UNITS[name] == "images":
        found |= {"needed": NEEDED, "covers": found["per_s_and_core"] / NEEDED}
    return found


def amount(batch: dict[str, Any]) -> float:
    """Images, seconds or tokens of a batch."""
    if "waves" in batch:
        return float(batch["waves"].numel() / RATE)
    if "tokens" in batch:
        return float((batch["tokens"] != 1).sum())
    return len(batch["ids"])


def run(words: Sequence[str] = ()) -> dict[str, Any]:
    """Measure as the words of the command line say."""
    a = arguments(words)
    threads = torch.get_num_threads()
    kept, examples.IN_MEMORY = examples.IN_MEMORY, 0  # no pass profits from the one before
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as top:
            folders = prepared(Path(top), a)
            found = {
                name: measure(name, folders[name.partition(", ")[0]], a.repeat) for name in UNITS
            }
            found["vision"]["files"] = images(Path(top) / "vision", folders["vision"], a.images)
            speech = Path(top) / "speech", folders["speech"], a.utterances
            found["speech"]["files"] = utterances(*speech)
            return found
    finally:
        examples.IN_MEMORY = kept
        torch.set_num_threads(threads)


def images(tree: Path, folder: Path, count: int) -> list[dict[str, Any]]:
    """Shards beside loose image files: rows of the second table."""
    rows = loose.Table("vision", tree, folder, count, quiet=True)
    loose.measure_images(rows)
    return rows.rows


def utterances(tree: Path, folder: Path, count: int) -> list[dict[str, Any]]:
    """Shards beside loose audio files."""
    rows = loose.Table("speech", tree, folder, count, quiet=True)
    loose.measure_speech(rows, sorted(tree.rglob("*.flac")))
    return rows.rows


def verdict(row: dict[str, Any]) -> str:
    """Whether 16 such cores keep one H100 busy, and by how much they do or do not."""
    rate = row["per_s_and_core"] * CORES
    if rate < H100:
        return (
            f"The loader is the bottleneck: {CORES} such cores load {rate:,.0f} images/s,"
            f" {row['covers']:.0%} of the {H100:,} of one H100;"
            f" {H100 / row['per_s_and_core']:.0f} cores would do."
        )
    return (
        f"The loader is not the bottleneck: {CORES} such cores load {rate:,.0f} images/s,"
        f" {row['covers']:.2f} times the {H100:,} of one H100."
    )


def table(rows: dict[str, Any]) -> str:
    """Markdown: rates, a row a set; what follows for one H100; shards v. loose files."""
    lines = ["| loader | a second and core | needed for one H100 | covers |", "|---|---|---|---|"]
    for name, row in rows.items():
        needed = f"{row['needed']:.0f} | {row['covers']:.0%}" if "needed" in row else " | "
        lines.append(f"| {name} | {row['per_s_and_core']:,.0f} {row['unit']} | {needed} |")
    lines += ["", verdict(rows["vision"]), "", "| shards v. loose files, us an example |"]
    lines[-1] += " files | loose | shards | loose / shards |"
    lines.append("|---|---|---|---|---|")
    for row in (row for found in rows.values() for row in found.get("files", [])):
        lines.append(
            f"| {row['set']}: {row['work']} | {row['cache']} | {row['loose_us']:.1f}"
            f" | {row['shards_us']:.1f} | {row['ratio']:.2f} |"
        )
    return "\n".join(lines)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line's words."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--utterances", type=int, default=192)
    parser.add_argument("--sentences", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("-o", "--out", type=reports.out, help="JSON")
    return parser.parse_args(words)


def main() -> None:
    """Print a table; with -o also write the figures as JSON."""
    a = arguments(None)
    found = run(sys.argv[1:])
    print(table(found))
    if a.out:
        reports.write(a.out, found)


if __name__ == "__main__":
    main()

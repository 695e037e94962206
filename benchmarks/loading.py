"""Shards against loose files, at equal work: torchvision's ImageFolder, one soundfile call a file.

    python benchmarks/loading.py [--images 2000] [--utterances 1000] [--workers 2] [--save]

Everything is synthetic: photograph-like JPEG files of 500 x 375 pixels in folders of 50, and FLAC
files of 2 to 16 s with transcripts. Both sides give the same thing: names and labels or lengths of
all examples ("plan"), the file's bytes ("bytes"; "mapped": where they lie, every page touched), or
pixels and samples ("decoded"; "checked": the samples compared with their MD5; "from PCM": shards
that were prepared with --pcm). "write" is `d2v prepare`, through to the disk: every file is decoded
to check it and its colours are counted, or with --headers it is copied; beside it stands decoding
the loose files and keeping nothing.

One run: both sides take turns, the least of three repetitions counts (of writing: one). "warm" is
what later epochs see: files in the page cache, shards mapped. "cold" files were put out of it
(fsync, posix_fadvise DONTNEED); without root the file system's own entries stay in memory, which
spares loose files part of what they cost.
Memory is what a process of its own grows by apart from mapped files, with N and with 4 N examples.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from loose import Table, Work, each, measure_images, measure_speech
from synthetic import write_images, write_speech

from d2v.data import writing
from d2v.data.readers import imagefolder, librispeech
from d2v.data.shards import Shards

RESULTS = Path(__file__).parent / "results"
PREPARE = {"images": imagefolder.prepare_imagefolder, "speech": librispeech.prepare_librispeech}
SHARD_BYTES = 16 * 2**20  # so that a small set has shards enough for all workers
Prepare = Callable[..., None]


def measure_writing(table: Table, prepare: Prepare, read: Work, workers: int) -> None:
    """Preparing with one and with several processes, beside decoding the loose files once."""
    out, everything = table.prepared.with_name("again"), range(table.count)
    for headers in (False, True):
        for count in sorted({1, workers}):
            began = time.perf_counter()
            read(everything)
            between = time.perf_counter()
            prepare(table.loose, out, workers=count, headers=headers)
            times = between - began, time.perf_counter() - between
            how = "write --headers" if headers else "write"
            table.add(f"{how}, {count} process(es)", "warm", *(t / table.count for t in times))


# --- memory ---------------------------------------------------------------------------------------


def anonymous() -> int:
    """Bytes of this process that are no mapped files."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


def growth(work: str, loose: Path, prepared: Path) -> float:
    """MiB that one pass of `work` takes at most (to be called in a process of its own)."""
    if work.startswith("loose"):
        from torchvision.datasets import ImageFolder
    before, most, over = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            most[0] = max(most[0], anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    if work.startswith("write"):
        PREPARE[work.split()[1]](loose, prepared.with_name("again"), workers=1)
    elif work.startswith("loose"):
        found = ImageFolder(str(loose / "train"), loader=lambda path: Path(path).read_bytes())
        each(lambda n: found[n])(range(len(found)))
    else:
        table = Table(work, loose, prepared, len(Shards(prepared / "train")))
        table.bytes()(range(table.count))
    over.set()
    watcher.join()
    return (most[0] - before) / 2**20


def measure_memory(sets: dict[str, tuple[Path, Path]], counts: dict[str, int]) -> list[dict]:
    """Growth with N and 4 N examples."""
    rows = []
    print(f"\n{'memory':32} {'N':>8} {'MiB, N':>8} {'MiB, 4N':>8}")
    for work in ("loose images", "read images", "read speech", "write images", "write speech"):
        name = work.split()[1]
        found = []
        for size in (name, f"{name}4"):
            loose, prepared = sets[size]
            command = [sys.executable, __file__, "--growth", work, str(loose), str(prepared)]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found.append(round(float(said), 1))
        rows.append({"work": work, "examples": counts[name], "mib": found})
        print(f"{work:32} {counts[name]:>8} {found[0]:>8} {found[1]:>8}", flush=True)
    return rows


def four_times(root: Path, to: Path) -> None:
    """Four trees in one, of links to the files of one."""
    for path in root.rglob("*"):
        if path.is_file():
            group = path.relative_to(root / "train").parts
            for copy in range(4):
                words = [word.replace(group[0], f"{group[0]}{copy}", 1) for word in group]
                new = to.joinpath("train", *words)
                new.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix == ".txt":
                    text = path.read_text().replace(f"{group[0]}-", f"{group[0]}{copy}-")
                    new.write_text(text)
                else:
                    os.link(path, new)


def main() -> None:
    """Print the tables; with --save also write them to benchmarks/results/."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=2000, metavar="N")
    parser.add_argument("--utterances", type=int, default=1000, metavar="N")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="beside a single one")
    parser.add_argument("--folder", type=Path, help="disk to measure (default: temporary files)")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS}/loading-DEVICE.json")
    parser.add_argument("--growth", nargs=3, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.growth:
        print(growth(a.growth[0], Path(a.growth[1]), Path(a.growth[2])))
        return
    for reader in (imagefolder, librispeech):
        reader.write_split = partial(writing.write_split, shard_bytes=SHARD_BYTES)  # type: ignore
    with tempfile.TemporaryDirectory(dir=a.folder) as name:
        top = Path(name)
        sets = {n: (top / n / "loose", top / n / "out") for n in
                ("images", "speech", "images4", "speech4")}  # fmt: skip
        images = write_images(sets["images"][0], a.images)
        speech = sorted(write_speech(sets["speech"][0], a.utterances))
        for kind in PREPARE:
            four_times(sets[kind][0], sets[f"{kind}4"][0])
            for size in (kind, f"{kind}4"):
                PREPARE[kind](*sets[size], workers=a.workers)
        mib = [sum(p.stat().st_size for p in paths) / 2**20 for paths in (images, speech)]
        print(f"{a.images} images, {mib[0]:.0f} MiB; {a.utterances} utterances, {mib[1]:.0f} MiB")
        print(
            f"{'set':7} {'work':30} {'cache':5} {'loose, us':>10} {'shards, us':>10} {'ratio':>8}"
        )
        tables = [Table("images", *sets["images"], a.images),
                  Table("speech", *sets["speech"], a.utterances)]  # fmt: skip
        librispeech.prepare_librispeech(tables[1].loose, tables[1].pcm, pcm=True)
        read = measure_images(tables[0]), measure_speech(tables[1], speech)
        for table, prepare, work in zip(tables, PREPARE.values(), read, strict=True):
            measure_writing(table, prepare, work, a.workers)
        memory = measure_memory(sets, {"images": a.images, "speech": a.utterances})
    if a.save:
        RESULTS.mkdir(exist_ok=True)
        device = f"{platform.machine()}-{os.cpu_count()}cpu"
        found: dict[str, object] = {"synthetic": True, "device": device, "mib": mib}
        found |= {"rows": [row for table in tables for row in table.rows], "memory": memory}
        (RESULTS / f"loading-{device}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

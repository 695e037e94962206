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
import io
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from d2v.data import imagefolder, librispeech, sound, writing
from d2v.data.shards import Shards

REPEATS = 3
PAGE = 4096
DECODED = 500  # examples that are decoded for a row
FOLDER = 50  # files in one
KINDS = 64  # different files; the others have the content of one of them
RESULTS = Path(__file__).parent / "results"
PREPARE = {"images": imagefolder.prepare_imagefolder, "speech": librispeech.prepare_librispeech}
SHARD_BYTES = 16 * 2**20  # so that a small set has shards enough for all workers
Work = Callable[[Sequence[int]], object]  # for the examples at some places
Side = Callable[[], Work]  # makes what is measured
Prepare = Callable[..., None]


# --- synthetic files ------------------------------------------------------------------------------


def write_images(root: Path, count: int) -> list[Path]:
    """JPEG files as ImageFolder wants them; about 100 KB each."""
    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(KINDS):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
        pixels = (smooth + rng.normal(0, 14, smooth.shape)).clip(0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
        kinds.append(buffer.getvalue())
    paths = []
    for n in range(count):
        group = root / "train" / f"n{n // FOLDER:08d}"
        group.mkdir(parents=True, exist_ok=True)
        paths.append(group / f"{group.name}_{n}.JPEG")
        paths[-1].write_bytes(kinds[n % KINDS])
    return paths


def write_speech(root: Path, count: int) -> list[Path]:
    """FLAC files and transcripts as in LibriSpeech."""
    rng = np.random.default_rng(0)
    kinds = []
    for _ in range(KINDS):
        samples = int(rng.uniform(2, 16) * 16_000)
        noise = rng.normal(0, 1, samples).cumsum()
        loud = np.interp(np.arange(samples), np.linspace(0, samples, 40), rng.uniform(0, 1, 40))
        wave = np.sin(0.02 * noise) * loud * 0.4 + rng.normal(0, 0.004, samples)
        buffer = io.BytesIO()
        soundfile.write(buffer, (wave * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16), 16_000,
                        format="FLAC", subtype="PCM_16")  # fmt: skip
        kinds.append(buffer.getvalue())
    paths = []
    for first in range(0, count, FOLDER):
        chapter = root / "train" / f"{first}" / "1"
        chapter.mkdir(parents=True)
        names = [f"{first}-1-{n:04d}" for n in range(min(FOLDER, count - first))]
        lines = "".join(f"{name} ONE TWO THREE\n" for name in names)
        (chapter / f"{first}-1.trans.txt").write_text(lines)
        paths += [chapter / f"{name}.flac" for name in names]
    for n, path in enumerate(paths):
        path.write_bytes(kinds[n % KINDS])
    return paths


# --- time -----------------------------------------------------------------------------------------


class Table:
    """Rows of one data set: `loose` files and what is `prepared` from them."""

    def __init__(self, name: str, loose: Path, prepared: Path, count: int) -> None:
        self.name, self.loose, self.prepared, self.count = name, loose, prepared, count
        self.split, self.pcm = prepared / "train", prepared.with_name("pcm")
        self.shuffled = random.Random(0).sample(range(count), count)
        self.rows: list[dict[str, object]] = []

    def row(self, work: str, loose: Side, shards: Side, places: Sequence[int]) -> None:
        """Both sides for the examples at these places, warm and cold, in turns."""
        for cache in ("warm", "cold"):
            works = [loose(), shards()]
            best = [float("inf"), float("inf")]
            for _ in range(REPEATS):
                for side, make in enumerate((loose, shards)):
                    if cache == "cold":
                        works = []  # mapped files would stay in the page cache
                        for folder in (self.loose, self.prepared, self.pcm):
                            evict(folder)
                    one = works[side] if works else make()
                    began = time.perf_counter()
                    one(places)
                    best[side] = min(best[side], time.perf_counter() - began)
            self.add(work, cache, *(seconds / len(places) for seconds in best))

    def write(self, prepare: Prepare, read: Work, workers: int) -> None:
        """Preparing with one and with several processes, beside decoding the loose files once."""
        out, everything = self.prepared.with_name("again"), range(self.count)
        for headers in (False, True):
            for count in sorted({1, workers}):
                began = time.perf_counter()
                read(everything)
                between = time.perf_counter()
                prepare(self.loose, out, workers=count, headers=headers)
                times = between - began, time.perf_counter() - between
                how = "write --headers" if headers else "write"
                self.add(f"{how}, {count} process(es)", "warm", *(t / self.count for t in times))

    def add(self, work: str, cache: str, loose: float, shards: float) -> None:
        """Keep a row and print it, in microseconds an example."""
        a, b = 1e6 * loose, 1e6 * shards
        found = {"set": self.name, "work": work, "cache": cache, "loose_us": round(a, 2)}
        self.rows.append(found | {"shards_us": round(b, 2), "ratio": round(a / b, 2)})
        print(f"{self.name:7} {work:30} {cache:5} {a:10.1f} {b:10.1f} {a / b:8.2f}", flush=True)

    def bytes(self) -> Work:
        """Payloads, copied."""
        shards = Shards(self.split)
        return each(lambda n: bytes(shards.payload(n)))

    def mapped(self) -> Work:
        """Payloads where they lie, each page touched."""
        shards = Shards(self.split)
        return each(lambda n: np.frombuffer(shards.payload(n), np.uint8)[::PAGE].any())

    def decoded(self, decode: Callable[[memoryview, str], np.ndarray], pcm: bool = False) -> Work:
        """Payloads, decoded."""
        shards = Shards(self.pcm / "train" if pcm else self.split)
        return each(lambda n: decode(shards.payload(n), ""))


def each(one: Callable[[int], object]) -> Work:
    """`one` for all places."""

    def work(places: Sequence[int]) -> None:
        for place in places:
            one(place)

    return work


def evict(folder: Path) -> None:
    """Put files out of the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def measure_images(table: Table, workers: int) -> None:
    """All rows of images."""
    from torchvision.datasets import ImageFolder

    tree, places = str(table.loose / "train"), table.shuffled
    raw = ImageFolder(tree, loader=lambda path: Path(path).read_bytes())
    whole = ImageFolder(tree)

    def sizes(_: Sequence[int]) -> None:
        for path, _ in ImageFolder(tree).samples:
            with Image.open(path) as image:
                assert image.size

    read = each(lambda n: np.asarray(whole[n][0]))
    table.row("plan: labels", lambda: lambda _: ImageFolder(tree).targets,
              lambda: lambda _: Shards(table.split).numbers("label"), places)  # fmt: skip
    table.row("plan: labels and sizes", lambda: sizes,
              lambda: lambda _: Shards(table.split).numbers("width"), places)  # fmt: skip
    for name, order in (("in order", range(table.count)), ("shuffled", places)):
        table.row(f"bytes, {name}", lambda: each(lambda n: raw[n][0]), table.bytes, order)
    table.row("bytes, mapped, shuffled", lambda: each(lambda n: raw[n][0]), table.mapped, places)
    table.row("decoded, shuffled", lambda: read, lambda: table.decoded(imagefolder.decode),
              places[:DECODED])  # fmt: skip
    table.write(imagefolder.prepare_imagefolder, read, workers)


def measure_speech(table: Table, paths: list[Path], workers: int) -> None:
    """All rows of speech."""

    def plain(payload: memoryview, _: str) -> np.ndarray:
        return soundfile.read(io.BytesIO(payload), dtype="int16")[0]

    def copied(payload: memoryview, _: str) -> np.ndarray:
        return sound.samples_of(payload, sound.PCM, "").copy()

    raw = each(lambda n: paths[n].read_bytes())
    read = each(lambda n: soundfile.read(paths[n], dtype="int16")[0])
    table.row("plan: lengths", lambda: lambda _: [soundfile.info(path).frames for path in paths],
              lambda: lambda _: Shards(table.split).numbers("samples"), paths)  # fmt: skip
    for name, order in (("in order", range(table.count)), ("shuffled", table.shuffled)):
        table.row(f"bytes, {name}", lambda: raw, table.bytes, order)
    table.row("bytes, mapped, shuffled", lambda: raw, table.mapped, table.shuffled)
    for name, how in (("decoded", plain), ("decoded and checked", sound.decode)):
        table.row(f"{name}, shuffled", lambda: read, lambda how=how: table.decoded(how),
                  table.shuffled[:DECODED])  # fmt: skip
    librispeech.prepare_librispeech(table.loose, table.pcm, workers=workers, pcm=True)
    table.row("decoded, shuffled, from PCM", lambda: read, lambda: table.decoded(copied, pcm=True),
              table.shuffled[:DECODED])  # fmt: skip
    table.write(librispeech.prepare_librispeech, read, workers)


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
        measure_images(tables[0], a.workers)
        measure_speech(tables[1], speech, a.workers)
        memory = measure_memory(sets, {"images": a.images, "speech": a.utterances})
    if a.save:
        RESULTS.mkdir(exist_ok=True)
        device = f"{platform.machine()}-{os.cpu_count()}cpu"
        found: dict[str, object] = {"synthetic": True, "device": device, "mib": mib}
        found |= {"rows": [row for table in tables for row in table.rows], "memory": memory}
        (RESULTS / f"loading-{device}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

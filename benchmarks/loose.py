"""Rows of a table: shards against loose files, at equal work (loading.py says how)."""

import io
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from d2v.data import sound
from d2v.data.readers import imagefolder
from d2v.data.shards import Shards

REPEATS = 3
PAGE = 4096
DECODED = 500  # examples that are decoded for a row
Work = Callable[[Sequence[int]], object]  # for the examples at some places
Side = Callable[[], Work]  # makes what is measured


class Table:
    """Rows of one data set: `loose` files and what is `prepared` from them."""

    def __init__(
        self, name: str, loose: Path, prepared: Path, count: int, quiet: bool = False
    ) -> None:
        self.name, self.loose, self.prepared, self.count = name, loose, prepared, count
        self.split, self.pcm = prepared / "train", prepared.with_name("pcm")
        self.shuffled = random.Random(0).sample(range(count), count)
        self.rows: list[dict[str, Any]] = []
        self.quiet = quiet

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

    def add(self, work: str, cache: str, loose: float, shards: float) -> None:
        """Keep a row, in microseconds an example, and print it."""
        a, b = 1e6 * loose, 1e6 * shards
        found = {"set": self.name, "work": work, "cache": cache, "loose_us": round(a, 2)}
        self.rows.append(found | {"shards_us": round(b, 2), "ratio": round(a / b, 2)})
        if self.quiet:
            return
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


def measure_images(table: Table) -> Work:
    """All rows of images that are read; returns what decodes loose files."""
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
    return read


def measure_speech(table: Table, paths: list[Path]) -> Work:
    """As measure_images; with bare samples if they are prepared."""

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
    if table.pcm.exists():
        table.row("decoded, shuffled, from PCM", lambda: read,
                  lambda: table.decoded(copied, pcm=True), table.shuffled[:DECODED])  # fmt: skip
    return read

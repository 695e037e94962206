"""Preparation of 5,000 small recordings that need resampling, with one process and with two.

    python benchmarks/own_audio.py [--count 5000] [--seconds 1.0]

Prints the time of each and their ratio, checks that both write the same bytes, and prints the
largest memory of a process for a tenth of the recordings and for all of them.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import yaml

RATE = 44_100
PREPARE = """
import resource, sys
from d2v.cli import prepare
prepare.main(sys.argv[1:])
own, children = (resource.getrusage(who).ru_maxrss for who in (0, resource.RUSAGE_CHILDREN))
print(max(own, children))
"""


def recordings(folder: Path, count: int, seconds: float) -> None:
    """Stereo WAV files of tones and noise, and their manifest."""
    folder.mkdir(parents=True)
    t = np.arange(round(seconds * RATE)) / RATE
    draw = np.random.default_rng(0)
    noise = 0.01 * draw.standard_normal((len(t), 2))
    rows = ["path,text"]
    for i in range(count):
        wave = 0.3 * np.sin(2 * np.pi * (100 + i % 3000) * t)[:, None] + np.roll(noise, i, 0)
        soundfile.write(folder / f"{i:05}.wav", wave, RATE)
        rows.append(f"{i:05}.wav,abc")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")


def prepared(source: Path, out: Path, workers: int) -> tuple[float, float]:
    """Seconds, and the largest memory of a process in MB."""
    group = {
        "kind": "audio_folder",
        "source": str(source),
        "manifest": "metadata.csv",
        "resample": True,
        "splits": {"fractions": {"train": 0.98, "dev": 0.02}},
    }
    head = {"name": "own", "title": "own", "scale": "own", "prepared": "prepared"}
    file = out.with_name(f"{out.name}.yaml")
    file.write_text(
        yaml.safe_dump({**head, "data": {"set": group}, "pretrain": {}, "finetune": {}})
    )
    words = ["audio-folder", file, "set", "-o", out, "--workers", workers]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, *map(str, words)], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - began, int(done.stdout.split()[-1]) / 1024


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=5000, help="recordings (default: 5000)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each (default: 1)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        recordings(root / "few", args.count // 10, args.seconds)
        recordings(root / "all", args.count, args.seconds)
        _, few = prepared(root / "few", root / "out-few", 1)
        one, memory = prepared(root / "all", root / "out-1", 1)
        two, _ = prepared(root / "all", root / "out-2", 2)
        same = all(
            path.read_bytes() == (root / "out-2" / path.relative_to(root / "out-1")).read_bytes()
            for path in (root / "out-1").rglob("*.bin")
        )
        shutil.rmtree(root / "out-1")
    print(f"{args.count:,} recordings of {args.seconds:g} s, {RATE} Hz stereo, to 16 kHz mono")
    print(f"one process {one:.1f} s, two processes {two:.1f} s: {one / two:.2f} times as fast")
    print(f"same bytes: {same}")
    print(f"largest process: {few:.0f} MB for {args.count // 10:,}, {memory:.0f} MB for all")


if __name__ == "__main__":
    main()

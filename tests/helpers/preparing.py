"""`d2v prepare` in this process, and killed in the middle and started again."""

import signal
import subprocess
import sys
import time
from pathlib import Path

from d2v.cli import prepare
from d2v.data.shards import PARTS, hash_of

PIECE_BYTES, SHARD_BYTES = 300, 600  # small, so that a small set has many shards
SCRIPT = f"""
import sys, time
from d2v.data.readers import corpus, glue, own_files, own_images, own_text
from d2v.cli import prepare
from d2v.data.tokenizer import Tokenizer
corpus.PIECE_BYTES = glue.PIECE_BYTES = own_text.PIECE_BYTES = {PIECE_BYTES}
corpus.SHARD_BYTES = glue.SHARD_BYTES = own_text.SHARD_BYTES = {SHARD_BYTES}
own_files.SMALLEST_SHARD = {SHARD_BYTES}
pause = float(sys.argv[1])
def slow(place, name):
    read = getattr(place, name)
    setattr(place, name, lambda *a, **k: (time.sleep(pause), read(*a, **k))[1])
slow(Tokenizer, "encode")
slow(own_images, "image_example")
prepare.main(sys.argv[2:])
"""


def run(*words: object) -> None:
    """`d2v prepare WORDS...`; raises what it raises."""
    prepare.main([str(word) for word in words])


def killed_and_resumed(out: Path, split: str, *command: object) -> str:
    """Hash of what `d2v prepare` makes when its first try is killed after two shards."""
    words = [str(word) for word in (*command, "-o", out, "--workers", 1)]
    first = subprocess.Popen([sys.executable, "-c", SCRIPT, "0.02", *words])
    parts = out.with_name(out.name + ".tmp") / PARTS / split
    deadline = time.monotonic() + 60
    while len(list(parts.glob("*.npz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert not out.exists()
    assert len(list(parts.glob("*.npz"))) >= 2
    subprocess.run([sys.executable, "-c", SCRIPT, "0", *words], check=True)
    assert not parts.exists()
    return hash_of(out)

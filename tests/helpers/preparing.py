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
from d2v.data.readers import corpus, glue; from d2v.cli import prepare
from d2v.data.tokenizer import Tokenizer
corpus.PIECE_BYTES = glue.PIECE_BYTES = {PIECE_BYTES}
corpus.SHARD_BYTES = glue.SHARD_BYTES = {SHARD_BYTES}
pause, encode = float(sys.argv[1]), Tokenizer.encode
Tokenizer.encode = lambda self, text: (time.sleep(pause), encode(self, text))[1]
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

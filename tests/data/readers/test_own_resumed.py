"""One's own data: a preparation that is killed and run again gives the bytes of one that is not.

test_own_audio.py has the same for recordings.
"""

from pathlib import Path
from typing import Any

import own_sets
import pytest
from preparing import PIECE_BYTES, SHARD_BYTES, killed_and_resumed
from small_sets import SENTENCES, write_lines

from d2v.data.readers import corpus, own_files, own_text
from d2v.data.shards import hash_of

TEXTS = ("labelled_text", "text_folder")
HALVES = {"fractions": {"train": 0.5, "dev": 0.5}}


def group(kind: str, source: Path) -> dict[str, Any]:
    if kind == "image_folder":
        folders = {split: split for split in ("train", "dev", "test")}
        more: dict[str, Any] = {"splits": {"folders": folders}, "classes": 2}
        own_sets.photos(source)
    elif kind == "labelled_text":
        columns = {"texts": ["sentence"], "label": "mood", "classes": 2}
        more = {"splits": HALVES, "file": "reviews.csv", **columns}
        own_sets.sentences(source, 60)
    else:
        more = {"splits": {"fractions": {"train": 1.0}}, "block": 24}
        for number in range(8):
            write_lines(source / f"{number}.txt", *SENTENCES[number:], "", *SENTENCES[:number])
    return {"kind": kind, "source": str(source), **more}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image_folder", *TEXTS])
def test_killed_in_the_middle_and_run_again_it_is_the_same(
    kind: str, tmp_path: Path, small_prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (corpus, own_text):
        monkeypatch.setattr(module, "PIECE_BYTES", PIECE_BYTES)
        monkeypatch.setattr(module, "SHARD_BYTES", SHARD_BYTES)
    monkeypatch.setattr(own_files, "SMALLEST_SHARD", SHARD_BYTES)
    given = group(kind, tmp_path / "files")
    tokens = ["--tokenizer", small_prepared / "tokenizer"] if kind in TEXTS else []
    whole = own_sets.prepared(tmp_path / "set", *tokens, "--workers", 1, **given)
    file = tmp_path / "set-params" / "own.yaml"
    command = [kind.replace("_", "-"), file, "set", *tokens]
    resumed = killed_and_resumed(tmp_path / "again", "train", *command)
    assert resumed == hash_of(whole) == own_sets.meta(whole)["sha256"]

"""Small data sets of one's own, as people have them, and `d2v prepare` of one of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml
from PIL import Image

from d2v.cli import prepare

# German and Polish, with capitals, punctuation, and letters beyond A to Z
SAID = ("Zażółć gęślą jaźń!", "Straße – „äöü“", "Dzień dobry, Łódź.", "Grüße aus Köln")
FORMATS = (("wav", 16_000, 1), ("flac", 16_000, 1), ("mp3", 44_100, 2), ("ogg", 48_000, 1))
EMPTY: dict[str, Any] = {"pretrain": {}, "finetune": {}}


def tone(
    path: Path, seconds: float = 1.5, rate: int = 16_000, channels: int = 1, pitch: float = 220.0
) -> Path:
    """A tone with a little noise, in the format of the file's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(round(pitch)).standard_normal(len(t))
    wave = 0.3 * np.sin(2 * np.pi * pitch * t) + 0.01 * noise
    soundfile.write(path, np.stack([wave] * channels, 1), rate)
    return path


def recordings(root: Path, count: int = 12) -> Path:
    """Recordings in four formats and a metadata.csv with path, text, who and split."""
    rows = ["path,text,who,split"]
    for i in range(count):
        suffix, rate, channels = FORMATS[i % 4]
        name = f"clips/{i:02}.{suffix}"
        tone(root / name, 2.0 + 0.05 * i, rate, channels, 200.0 + 10 * i)
        rows.append(
            f'{name},"{SAID[i % 4]}",s{i % 6},{("train", "dev", "test")[max(0, i % 6 - 3)]}'
        )
    (root / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def photos(root: Path, splits: tuple[str, ...] = ("train", "dev", "test"), each: int = 4) -> Path:
    """Photographs of two classes in folders, as JPEG, PNG and WebP."""
    draw = np.random.default_rng(0)
    for split in splits:
        for level, name in ((60, "cats"), (180, "dogs")):
            for i in range(each):
                path = root / split / name / f"{i}.{('jpg', 'png', 'webp')[i % 3]}"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = draw.integers(level, level + 60, (40, 36, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(path)
    return root


def sentences(root: Path, count: int = 24) -> Path:
    """A CSV of sentences with two classes."""
    root.mkdir(parents=True, exist_ok=True)
    rows = ["sentence,mood"]
    for i in range(count):
        good = i % 2 == 0
        name = f"{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10]}"
        rows.append(f'"film {name}, {"a joy" if good else "a bore"}",{"good" if good else "bad"}')
    (root / "reviews.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def params_of(folder: Path, name: str, **group: Any) -> Path:
    """A parameter file with one data set of one's own, and no runs."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {"name": "own", "title": "own", "scale": "own", "prepared": "prepared/own", **EMPTY}
    path = folder / "own.yaml"
    data: dict[str, Any] = {name: json.loads(json.dumps(group, default=str))}
    if group["kind"] in ("labelled_text", "text_folder") and "vocab_size" not in group:
        data["tokenizer"] = {"kind": "checkpoint_tokenizer", "source": "none"}
    path.write_text(yaml.safe_dump({**values, "data": data}, allow_unicode=True))
    return path


def prepared(out: Path, *more: object, **group: Any) -> Path:
    """`d2v prepare` of the group, with its parameter file next to OUT; raises what it raises."""
    file = params_of(out.parent / f"{out.name}-params", out.name, **group)
    command = group["kind"].replace("_", "-")
    prepare.main([command, str(file), out.name, "-o", str(out), *map(str, more)])
    return out


def meta(folder: Path) -> dict[str, Any]:
    """The meta.json of a prepared set."""
    found: dict[str, Any] = json.loads((folder / "meta.json").read_text())
    return found

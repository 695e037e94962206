"""Checkpoints of every format, small, and what can go wrong with one of their files."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from own_builds import content, folder
from released_builds import (
    beit_state,
    case,
    fairseq_state,
    fine_tuned_beit,
    fine_tuned_roberta,
    fine_tuned_speech,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

import d2v
from d2v.interop.matching import described
from d2v.training import checkpoint

# what may stand in a configuration in place of something else
VALUES = [
    None, True, False, 0, 1, -1, 3, 7, 10**6, 10**12, 2**70, 0.5, -2.5, 1e308, float("nan"),
    float("inf"), "", "x", "0", "../x", "é\n", [], [1], ["a", None], [[]], {}, {"a": 1}, "x" * 5000,
]  # fmt: skip
Kinds = dict[str, tuple[str, Path]]  # name: kind of input, file or folder


def every_format(root: Path, tokenizer: Path) -> Kinds:
    """A checkpoint of each format and modality."""
    found: Kinds = {}
    for kind in ("speech", "vision", "text"):
        found[f"d2v-{kind}"] = kind, folder(root / f"d2v-{kind}", kind, tokenizer)
        found[f"hf-{kind}"] = kind, d2v.convert(root / f"d2v-{kind}", "hf", root / f"hf-{kind}")
        found[f"run-{kind}"] = kind, run(root / f"run-{kind}", kind, tokenizer)
    pickled = {
        "fairseq-speech": fairseq_state(case("audio_fastema")),
        "fairseq-text": fairseq_state(case("text_fastema")),
        "fairseq-vision": fairseq_state(case("vision_fastema")),
        "ctc-speech": fine_tuned_speech(case("audio_fastema"), args=True),
        "roberta-text": fine_tuned_roberta(case("text")),
        "beit-vision": beit_state(case("vision_beit_fastema")),
        "tuned-vision": fine_tuned_beit(case("vision_beit_fastema")),
    }
    for name, state in pickled.items():
        torch.save(state, root / f"{name}.pt")
        found[name] = name.split("-")[1], root / f"{name}.pt"
    return found


def run(root: Path, kind: str, tokenizer: Path) -> Path:
    """A checkpoint as the trainer writes it."""
    made = content(kind, tokenizer)
    a = made.architecture
    view = {"kind": kind, "max_tokens": 40, "normalise": "dataset", "resize": None}
    parts = {"encoder": a.encoder, "backbone": a.backbone, "task": a.task}
    p: dict[str, Any] = {
        name: part.model_dump(mode="json") for name, part in parts.items() if part is not None
    }
    p |= {"view": view, "data": "set", "prepared": "prepared", "run": "finetune/x/data2vec/seed0"}
    inputs = described(made).model_dump(mode="json")
    return checkpoint.save(root, 4, made.tensors, {}, {"params": p, "inputs": inputs})


def mangled(source: Path, out: Path, random: Random) -> str:
    """Copy a checkpoint to `out` with one fault in it; returns what was done."""
    if source.is_dir():
        shutil.copytree(source, out)
        files = sorted(path for path in out.iterdir() if path.suffix != ".md")
        path = random.choice(files)
    else:
        shutil.copy(source, out)
        path = out
    by_suffix: dict[str, Callable[[Path, Random], str]] = {
        ".json": _json,
        ".safetensors": _safetensors,
        ".pt": _pickled,
    }
    ways = [_flipped, _cut, *[by_suffix.get(path.suffix, _cut)] * 6]
    if source.is_dir():
        ways.append(_removed)
    return f"{path.name}: {random.choice(ways)(path, random)}"


def _flipped(path: Path, random: Random) -> str:
    data = bytearray(path.read_bytes())
    places = [random.randrange(len(data)) for _ in range(random.choice((1, 3, 30)))] if data else []
    if random.random() < 0.5:  # headers are at both ends
        places = [place % min(400, len(data)) * random.choice((1, -1)) for place in places]
    for place in places:
        data[place] = random.randrange(256)
    path.write_bytes(data)
    return f"bytes {places[:3]} changed"


def _cut(path: Path, random: Random) -> str:
    size = path.stat().st_size
    left = random.choice((0, 1, size // 2, max(size - 1, 0), random.randrange(size + 1)))
    path.write_bytes(path.read_bytes()[:left])
    return f"cut to {left} bytes"


def _removed(path: Path, random: Random) -> str:
    path.unlink()
    return "removed"


def _json(path: Path, random: Random) -> str:
    values = json.loads(path.read_text())
    said = "; ".join(_changed(values, random) for _ in range(random.choice((1, 1, 2))))
    path.write_text(json.dumps(values))
    return said


def _safetensors(path: Path, random: Random) -> str:
    tensors = load_file(path)
    said = _tensors(tensors, random)
    save_file({name: t.contiguous() for name, t in tensors.items()}, path)
    return said


def _pickled(path: Path, random: Random) -> str:
    state = copy.deepcopy(torch.load(path, weights_only=False))
    weights = next(state[key] for key in ("model", "module") if key in state)
    config = [state[key] for key in ("cfg", "args") if state.get(key) is not None]
    if random.random() < 0.4:
        said = _tensors(weights, random)
    elif random.random() < 0.7 and config:
        values = config[0] if isinstance(config[0], dict) else vars(config[0])
        said = _changed(values, random)
    else:
        key = random.choice(sorted(state))
        state[key] = random.choice(VALUES)
        said = f"{key} = {state[key]!r:.40}"
    torch.save(state, path)
    return said


def _tensors(tensors: dict[str, Tensor], random: Random) -> str:
    """Drop, rename, reshape, retype or add one."""
    if not tensors:  # of a run's optimiser
        return "left"
    name = random.choice([name for name in tensors if torch.is_tensor(tensors[name])])
    tensor = tensors[name]
    match random.randrange(6):
        case 0:
            del tensors[name]
            return f"{name} dropped"
        case 1:
            tensors[random.choice(("x", name + ".x", name[:-1], "x." + name))] = tensors.pop(name)
            return f"{name} renamed"
        case 2:
            ways = [tensor[None], tensor.flatten(), tensor.sum()]
            ways += [tensor[:0], tensor[: len(tensor) // 2]] if tensor.ndim else []
            tensors[name] = random.choice(ways).clone()
            return f"{name} reshaped to {list(tensors[name].shape)}"
        case 3:
            kinds = (torch.int64, torch.bool, torch.float16, torch.float64, torch.uint8)
            tensors[name] = tensor.to(random.choice(kinds))
            return f"{name} as {tensors[name].dtype}"
        case 4:
            tensors["one.too.many"] = torch.zeros(2)
            return "a tensor added"
        case _:
            tensors[name] = tensor.float() * float("nan")
            return f"{name} full of NaN"


def _changed(values: Any, random: Random, path: str = "") -> str:
    """Change, remove or rename one entry somewhere in nested dictionaries and lists."""
    if not isinstance(values, dict | list) or not values:
        return f"{path} left"
    key = random.choice(sorted(values, key=str) if isinstance(values, dict) else range(len(values)))
    inner = f"{path}.{key}"
    if isinstance(values[key], dict | list) and values[key] and random.random() < 0.85:
        return _changed(values[key], random, inner)
    if random.random() < 0.2:
        del values[key]
        return f"{inner} removed"
    if random.random() < 0.1 and isinstance(values, dict):
        values[f"{key}x"] = values.pop(key)
        return f"{inner} renamed"
    values[key] = copy.deepcopy(random.choice(VALUES))
    return f"{inner} = {values[key]!r:.40}"

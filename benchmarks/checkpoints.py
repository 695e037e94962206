"""Time and memory of loading and exporting a Base model, beside reading its tensors once.

    python benchmarks/checkpoints.py [--modality speech|vision|text] [--repeat 3] [-o FILE]

Every measurement is a process of its own. Time is the least of the repetitions, files in the page
cache; memory is what the largest resident set grew by. "read" opens the same file with its own
library and looks at every number once; "load" is d2v.load, then the same look at every weight.
The bar: load takes at most 1.2 times the time and memory of read; an export does not take the
memory of two models.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import reports
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from d2v import params
from d2v.interop import convert, names, own
from d2v.interop.content import Architecture, Content
from d2v.interop.loading import load
from d2v.interop.module import Model
from d2v.params import ImageInput, TokenInput, WaveInput

SIZES = {"dim": 768, "depth": 12, "heads": 12, "ffn_dim": 3072}
FORMATS = ("d2v", "hf", "fairseq")
INPUTS = {"speech": WaveInput(), "vision": ImageInput(), "text": TokenInput(max_tokens=512)}


CONVS = [[512, 10, 5], *[[512, 3, 2]] * 4, *[[512, 2, 2]] * 2]
ENCODERS: dict[str, params.Encoder] = {
    "speech": params.WaveEncoder(kind="speech", conv_layers=CONVS),
    "text": params.TokenEncoder(kind="text", vocab_size=50265, max_positions=512),
    "vision": params.PatchEncoder(kind="vision", image_size=224, patch_size=16),
}
FAMILIES: dict[str, names.Family] = {"speech": "fairseq_audio", "text": "fairseq_text"}
OWN = {
    "vision": {
        "norm_first": True, "key_bias": False, "final_norm": True, "layer_scale": 1e-4,
        "position_bias": params.PositionBias(kind="shared_2d", window=[14, 14]),
    }
}  # fmt: skip


def architecture(modality: str) -> Architecture:
    """The encoder and backbone of the paper's Base model."""
    backbone = params.Backbone(**{"norm_first": False, **SIZES, **OWN.get(modality, {})})
    return Architecture(encoder=ENCODERS[modality], backbone=backbone)


def write(folder: Path, modality: str) -> None:
    """The same random model in every format; fairseq's for what it has in that form."""
    made = architecture(modality)
    tensors = {name: t.clone() for name, t in Model(made).state_dict().items()}
    source = Content("d2v", folder, made, INPUTS[modality], tensors)
    own.write(source, folder / "d2v")
    convert.convert(folder / "d2v", "hf", folder / "hf")
    family = FAMILIES.get(modality)
    if family is not None:
        theirs = names.to_reference(tensors, names.student(family, made))
        state = {"cfg": {"model": _settings(made)}, "model": theirs}
        torch.save(state, folder / "fairseq.pt")


def _settings(a: Architecture) -> dict[str, object]:
    b, e = a.backbone, a.encoder
    if isinstance(e, params.WaveEncoder):
        return {
            "_name": "data2vec_audio", "extractor_mode": "layer_norm", "conv_bias": False,
            "layer_norm_first": False, "conv_feature_layers": str(e.conv_layers),
            "conv_pos": 95, "pos_conv_depth": 5, "conv_pos_groups": 16, "dropout": 0.1,
            "attention_dropout": 0.1, "activation_dropout": 0.0, "encoder_layerdrop": 0.05,
            "encoder_embed_dim": b.dim, "encoder_layers": b.depth,
            "encoder_attention_heads": b.heads, "encoder_ffn_embed_dim": b.ffn_dim,
        }  # fmt: skip
    inner = {"embed_dim": b.dim, "layers": b.depth, "attention_heads": b.heads,
             "ffn_embed_dim": b.ffn_dim, "normalize_before": False}  # fmt: skip
    outer = {"dropout": 0.1, "attention_dropout": 0.1, "encoder": inner}
    return {"_name": "data2vec_text", "transformer": outer}


def look(tensors: Iterable[Tensor]) -> float:
    """Touch every number."""
    return sum(float(tensor.sum()) for tensor in tensors)


def read(path: Path) -> None:
    """The file's tensors, with the library of its format."""
    if path.suffix == ".pt":
        look(torch.load(path, weights_only=True)["model"].values())
    else:
        look(load_file(path / "model.safetensors", backend="pread").values())


def once(what: str, path: Path) -> dict[str, float]:
    """One measurement, in this process."""
    torch.set_num_threads(1)
    look([torch.ones(1)])
    load_file(_tiny(path), backend="pread")  # what is imported at first use
    out = path.parent / f"{path.name}.out"
    before, start = _peak(), time.perf_counter()
    if what == "read":
        read(path)
    elif what == "load":
        look(load(path).parameters())
    else:
        convert.convert(path, "hf", out)
    return {"seconds": time.perf_counter() - start, "mib": _peak() - before}


def _tiny(path: Path) -> Path:
    small = path.parent / "tiny.safetensors"
    save_file({"x": torch.ones(1)}, small)
    return small


def _peak() -> float:
    """Largest resident set of this program, MiB; getrusage counts what it was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(folder: Path, path: Path, what: str, repeat: int) -> dict[str, float]:
    """The least of some processes."""
    found = []
    for _ in range(repeat):
        words = [sys.executable, __file__, "--once", what, "--path", str(path)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
        for out in folder.glob("*.out"):
            subprocess.run(["rm", "-r", str(out)], check=True)
    return {key: min(row[key] for row in found) for key in ("seconds", "mib")}


def main() -> None:
    """Print a table of ratios, and write the numbers if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modality", choices=tuple(INPUTS), default="speech")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("-o", "--out", type=reports.out)
    parser.add_argument("--once", choices=("read", "load", "export"), help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.once:
        print(json.dumps(once(a.once, a.path)))
        return
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, a.modality)
        for form in FORMATS:
            path = folder / (f"{form}.pt" if form == "fairseq" else form)
            if path.exists():
                rows[form] = {
                    w: measure(folder, path, w, a.repeat) for w in ("read", "load", "export")
                }
    print(
        f"{a.modality} Base       read            load              load / read     export / read"
    )
    for form, found in rows.items():
        r, w, e = found["read"], found["load"], found["export"]
        print(
            f"{form:10} {r['seconds']:6.2f} s {r['mib']:5.0f} MiB"
            f" {w['seconds']:6.2f} s {w['mib']:5.0f} MiB"
            f"   {w['seconds'] / r['seconds']:5.2f} {w['mib'] / r['mib']:5.2f}"
            f"      {e['mib'] / r['mib']:5.2f} of its memory"
        )
    if a.out:
        reports.write(a.out, {"modality": a.modality, "formats": rows})


if __name__ == "__main__":
    main()

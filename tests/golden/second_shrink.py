"""Make the cases of data2vec 2.0 that the repository keeps: second_shrink.py FULL_DIR SMALL_DIR.

Nothing is rounded. All inputs, masks, losses, gradient norms and initial values are kept, so that
all steps can be replayed. Of the tensors inside, step 0 keeps what enters and leaves the student's
blocks, the output of the teacher's last feed-forward network, targets and predictions (images:
only predictions; text: the decoder's whole output). Of the last parameters, the vectors of the
first shared block, of the decoder and of ALiBi are kept. Traces are compressed. Held-out cases have
the whole files, uncompressed.
"""

import lzma
import re
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save, save_file
from torch import Tensor

INPUTS = r"step\d\.(wav|wav_padding_mask|img|tokens|mask|cls_prediction|cls_target)"
INSIDE = r"step0\.(local_features|student_in|student_out|prediction)"
TRACE = {
    "audio": re.compile(rf"{INPUTS}|{INSIDE}|step0\.target|features\.x|step\d\..*alibi_scale"),
    "image": re.compile(rf"{INPUTS}|{INSIDE}|features\.x"),
    "text": re.compile(rf"{INPUTS}|{INSIDE}|step0\.(target|decoder_out)|features\.x"),
}
TEACHER_POSITIONS = "teacher.modality_encoders.IMAGE.fixed_positional_encoder"  # the student's
# xz for numbers of four bytes: how likely a byte is depends on its place among the four
PACKING = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 1, "lp": 2, "pb": 2}]
FINAL = re.compile(r"(student|teacher)\.((blocks\.)?0\.|.*decoder|.*alibi_scale)")


def trace(kind: str, tensors: dict) -> dict:
    """The tensors of a trace that are kept."""
    last = max(n for n in tensors if n.endswith(".ffn_out"))
    return {n: t for n, t in tensors.items() if TRACE[kind].fullmatch(n) or n == last}


def is_vector(tensor: Tensor) -> bool:
    """Whether a tensor has at most one dimension that is longer than 1."""
    return tensor.squeeze().ndim <= 1


def main(source: Path, target: Path) -> None:
    """Write the small folder."""
    for folder in sorted(path.parent for path in source.glob("*/trace.json")):
        out = target / folder.name
        out.mkdir(parents=True, exist_ok=True)
        final = load_file(folder / "params_final.safetensors")
        final = {n: t for n, t in final.items() if is_vector(t) and FINAL.match(n)}
        save_file(final, out / "params_final.safetensors")
        initial = load_file(folder / "params_initial.safetensors")
        initial = {n: t for n, t in initial.items() if not n.startswith(TEACHER_POSITIONS)}
        save_file(initial, out / "params_initial.safetensors")
        kept = trace(folder.name, load_file(folder / "trace.safetensors"))
        packed = lzma.compress(save(kept), filters=PACKING)
        out.joinpath("trace.safetensors.xz").write_bytes(packed)
        shutil.copyfile(folder / "trace.json", out / "trace.json")
        out.joinpath("trace.json").chmod(0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

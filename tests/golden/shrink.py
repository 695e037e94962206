"""Make the folder of cases that the repository keeps: python shrink.py FULL_DIR SMALL_DIR.

Nothing is rounded. Left out are: teacher tensors that equal the student's at the start, index
buffers, of the final parameters the matrices of all but the first block, feed-forward outputs of
the final student, and in the cases with a slow teacher (named in SLOW) whatever the fast cases
hold too; other slow cases are left out.
"""

import re
import shutil
import sys
from pathlib import Path

from replay import Case
from safetensors.torch import save_file

SLOW = ("text",)  # it alone holds what the released text teacher does (fairseq#4881)
FIRST = re.compile(r"(layers|blocks)\.0\.|table")
BRIEF = (".wav", ".wav_padding_mask", ".img", "_tokens", ".mask", ".prediction", ".target", ".loss")


def initial(case: Case) -> dict:
    """Initial values without what can be had from others."""
    prefix = {
        "fairseq_audio": "encoder.",
        "fairseq_text": "encoder.sentence_encoder.",
        "fairseq_vision": "encoder.",
        "data2vec_vision": "",
    }[case.family]
    kept = {}
    for name, tensor in case.initial.items():
        twin = case.initial.get(name.replace("teacher.", f"student.{prefix}", 1))
        copied = name.startswith("teacher.") and twin is not None and twin.equal(tensor)
        if not copied and not name.startswith("buffer.") and not case.ignored(name):
            kept[name] = tensor
    return kept


def final(case: Case, whole: bool) -> dict:
    """Final values of vectors, and of the first block's matrices."""
    return {
        name: tensor
        for name, tensor in case.final.items()
        if (tensor.ndim == 1 or (whole and FIRST.search(name) is not None))
        and not case.ignored(name)
    }


def main(source: Path, target: Path) -> None:
    """Write the small folder."""
    for folder in sorted(path.parent for path in source.glob("*/trace.json")):
        fast = folder.name.endswith("_fastema")
        if not fast and folder.name not in SLOW:
            continue
        case, out = Case(folder), target / folder.name
        out.mkdir(parents=True, exist_ok=True)
        trace = {
            name: tensor
            for name, tensor in case.tensors.items()
            if (fast and not name.startswith("features.ffn_out"))
            or name.endswith(BRIEF)
            or name.startswith("quirk")
        }
        save_file(trace, out / "trace.safetensors")
        save_file(initial(case), out / "params_initial.safetensors")
        save_file(final(case, whole=fast), out / "params_final.safetensors")
        shutil.copyfile(folder / "trace.json", out / "trace.json")
        out.joinpath("trace.json").chmod(0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

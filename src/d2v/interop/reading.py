"""Read any checkpoint; the format is detected from its content."""

from pathlib import Path
from typing import Any

from d2v.interop import beit, fairseq, fairseq_second, hf_import, own, pickles
from d2v.interop.content import Content
from d2v.training.layout import META, MODEL
from d2v.util.errors import UserError

FORMATS = (
    "a folder of d2v or of Hugging Face's Data2Vec models, or a file of fairseq or data2vec_vision"
)


def read(path: str | Path) -> Content:
    """Content of a checkpoint in any known format; no code in it is executed, nothing is written.

    Raises UserError with a one-sentence message for a checkpoint whose format is unknown, that is
    incomplete, or whose tensors do not fit.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    try:
        return _fitting(_read(path))
    except UserError:
        raise
    except Exception as error:  # a malformed file can raise any exception
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"{path}: an entry does not match its format ({reason}); fetch or create it again"
        ) from error


def _read(path: Path) -> Content:
    if path.is_file() and path.name in (MODEL, META) and (path.parent / META).is_file():
        path = path.parent
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".safetensors":
        raise UserError(f"{path}: only weights; give the folder with its {META} or config.json")
    state = pickles.read(path)
    if isinstance(state, dict):
        if fairseq_second.recognised(state):
            return fairseq_second.read(path, state)
        family = fairseq.recognised(state)
        if family is not None:
            return fairseq.read(path, state, family)
        if beit.recognised(state):
            return beit.read(path, state)
    raise UserError(f"{path}: not a data2vec checkpoint ({_holds(state)}); supported: {FORMATS}")


def _fitting(content: Content) -> Content:
    """The content; raises UserError if its record of inputs belongs to another model."""
    a, inputs = content.architecture, content.inputs
    faults = (
        [f"{inputs.kind} for a model of {a.encoder.kind}"]
        if inputs.kind != a.encoder.kind
        else list(inputs.fits(a.encoder, a.outputs))
    )
    if faults:
        raise UserError(f"{content.source}: its record of inputs is wrong: {'; '.join(faults)}")
    return content


def _folder(path: Path) -> Content:
    if (path / META).is_file():
        return own.read(path)
    if (path / hf_import.CONFIG).is_file():
        return hf_import.read(path)
    steps = sorted(path.glob("**/step-*/" + META))
    hint = f"; did you mean {steps[-1].parent}?" if steps else f"; supported: {FORMATS}"
    raise UserError(f"{path}: it holds neither {META} nor {hf_import.CONFIG}{hint}")


def _holds(state: Any) -> str:
    if not isinstance(state, dict):
        return f"it holds a {type(state).__name__}"
    return f"it holds {', '.join(sorted(map(str, state))[:8]) or 'nothing'}"

"""The DVC stages of data sets of one's own, written from one template for an experiment.

`workflow/own/template.yaml` has a stage for every kind; its words in brackets, such as <NAME>, are
filled in. A stage depends on the group `data.NAME` in the parameter file and in its base files, so
that DVC by itself notices a change there.
"""

import shlex
from pathlib import Path
from posixpath import normpath
from typing import Any

import yaml

from d2v import params
from d2v.params import CheckpointTokenizer, Experiment
from d2v.params.prepared import generated, read_stages
from d2v.params.reading import base_files
from d2v.util.errors import UserError
from d2v.util.files import write_text

TEMPLATE = Path("workflow/own/template.yaml")
HEAD = """\
# Written by d2v from {template} for {file}; `d2v data --params {file}` and
# Snakemake write it again. DVC runs its stages like those of the official sets.
"""
OURS = HEAD.partition(" {")[0].encode()  # how each of these files begins, of any version


def write_stages(file: Path, experiment: Experiment, root: Path = Path()) -> Path | None:
    """Write the file of stages of an experiment with data sets of one's own; return its path.

    Nothing is written for an experiment that names another file of stages or has no such data sets,
    or if the file is up to date. Raises UserError if the template is missing or damaged, or if d2v
    did not write the file.
    """
    if not generated(experiment):
        return None
    template = read_stages(root, TEMPLATE)
    stages: dict[str, Any] = {}
    for name, group in experiment.data.items():
        for kind, made, read in _stages(name, group):
            given = {
                "FILE": file.as_posix(),
                "NAME": name,
                "OUT": f"{experiment.prepared}/{made}",
                "READ": f"{experiment.prepared}/{read}",
                "ORDER": str(getattr(group, "ngram", "")),
                "SOURCE": group.source if isinstance(group, CheckpointTokenizer) else "",
            }
            if not isinstance(template.get(kind, {}).get("cmd"), str):
                raise UserError(
                    f"{TEMPLATE}: it has no stage {kind} with a cmd; take the file from a new"
                    " project of `d2v init`"
                )
            stage = _filled(template[kind], given)
            quoted = {word: shlex.quote(text) for word, text in given.items()}
            stage["cmd"] = _filled(template[kind]["cmd"], quoted)
            stage["params"] = [{place: [f"data.{name}"]} for place in _files(root, file, name)]
            stages[made] = stage
    path = root / experiment.stages
    text = HEAD.format(template=TEMPLATE, file=file.as_posix())
    text += yaml.safe_dump({"stages": stages}, sort_keys=False, allow_unicode=True, width=1000)
    before = path.read_bytes() if path.is_file() else None
    if path.exists() and not (before or b"").startswith(OURS):
        raise UserError(
            f"{path}: not written by d2v, which writes the stages of {file} there; move it away, or"
            f" to another path that {file} names as `stages`"
        )
    if before != text.encode():
        write_text(path, text)
    return path


def _stages(name: str, group: params.Data) -> list[tuple[str, str, str]]:
    """Stages of a group: their kind in the template, the set they make, the set they read."""
    match group:
        case params.ImageFolder():
            return [("image_folder", name, "")]
        case params.AudioFolder():
            lm = [("lm", f"{name}_lm", name)] if group.ngram else []
            return [("audio_folder", name, ""), *lm]
        case params.TextFolder():
            made = [("text_tokenizer", "tokenizer", "")] if group.vocab_size else []
            return [*made, ("text_folder", name, "tokenizer")]
        case params.LabelledText():
            return [("labelled_text", name, "tokenizer")]
        case CheckpointTokenizer():
            return [("checkpoint_tokenizer", "tokenizer", "")]
    return []


def _files(root: Path, file: Path, name: str) -> list[str]:
    """The parameter files that say something about `data.name`, relative to the root."""
    found = [path for path, raw in base_files(file) if (raw.get("data") or {}).get(name)]
    return list(dict.fromkeys(normpath(path.as_posix()) for path in found))


def _filled(value: Any, given: dict[str, str]) -> Any:
    """A part of the template with the words in capitals replaced."""
    if isinstance(value, dict):
        return {_filled(k, given): _filled(v, given) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(part, given) for part in value]
    if isinstance(value, str):
        for word, text in given.items():
            value = value.replace(f"<{word}>", text.replace("${", "\\${"))
    return value

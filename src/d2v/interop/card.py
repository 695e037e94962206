"""The model card of an exported checkpoint, written from the provenance of its run."""

import json
from typing import Any

from d2v.interop.content import Content

PAPER = "https://arxiv.org/abs/2202.03555"
RELEASED = (
    "The weights come from a released checkpoint. Its authors' licence holds for them: see where it"
    " was fetched (data2vec_vision says CC-BY-NC; fairseq says that its MIT licence covers its"
    " pre-trained models)."
)
OWN = (
    "Nobody has chosen a licence for these weights yet. The licences of the data that they were"
    " trained on, and of the weights that they started from, may limit their use."
)


def model_card(content: Content, architecture: str | None, notes: list[str]) -> str:
    """Text of README.md: the model, its data, recipe, metrics and licence, as far as known.

    `architecture` is the class of transformers that reads the folder, None if it is for d2v.
    """
    reader = f"transformers.{architecture}" if architecture else "d2v.load"
    parts = [
        _head(content, "transformers" if architecture else "d2v"),
        f"# {_title(content)}\n",
        f"A data2vec model ({PAPER}), written for `{reader}`.\n",
        *_section("Data", _data(content.provenance)),
        *_section("Metrics", _metrics(content.provenance)),
        *_section("Recipe", _recipe(content.provenance)),
        *_section("Where it comes from", _origin(content)),
        *_section("Left out or filled in", [f"- {note}" for note in (*content.notes, *notes)]),
        *_section("Licence", [OWN if _format(content) in ("run", "d2v") else RELEASED]),
    ]
    return "\n".join(parts)


def _head(content: Content, library: str) -> str:
    tags = ["data2vec", content.architecture.encoder.kind]
    if content.architecture.task is not None:
        tags.append(content.architecture.task.kind)
    lines = [f"library_name: {library}", "tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join(["---", *lines, "---", ""])


def _format(content: Content) -> str:
    """Format from which the weights were first read, even if they were converted to ours since."""
    return str(content.provenance.get("format", content.format))


def _title(content: Content) -> str:
    return str(content.provenance.get("run") or content.source.name)


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}\n", *lines, ""] if lines else []


def _data(provenance: dict[str, Any]) -> list[str]:
    found = (provenance.get("params") or {}).get("data_sha256") or {}
    return [f"- {name} (sha256 of the prepared set: `{sha256}`)" for name, sha256 in found.items()]


def _metrics(provenance: dict[str, Any]) -> list[str]:
    """Table of the metrics of each split, as fractions, as in metrics.json."""
    splits = (provenance.get("results") or {}).get("metrics") or {}
    rows = [
        f"| {split} | {name} | {value:.4g} |"
        for split, values in splits.items()
        for name, value in values.items()
    ]
    return ["| split | metric | value |", "|---|---|---:|", *rows] if rows else []


def _recipe(provenance: dict[str, Any]) -> list[str]:
    p = provenance.get("params")
    if not p:
        return []
    text = json.dumps(p, indent=1, sort_keys=True)
    return ["All parameters that define the result:\n", "```json", text, "```"]


def _origin(content: Content) -> list[str]:
    lines = [f"- read from: `{content.source.name}` ({_format(content)})"]
    described = (content.provenance.get("results") or {}).get("provenance") or {}
    names = ("git_commit", "dirty", "code_sha256", "device", "wall_s", "finished")
    lines += [f"- {name}: `{described[name]}`" for name in names if name in described]
    lines += [
        f"- {name}: `{content.provenance[name]}`"
        for name in ("step", "source", "sha256", "pretrain")
        if name in content.provenance
    ]
    return lines

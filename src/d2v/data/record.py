"""The record of how a model's inputs are made and its outputs are named, read from prepared data.

Training stores this record in every checkpoint, so that weights can be checked against other data
and used where the data they were trained on is gone.
"""

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from d2v import params
from d2v.data.encodings import FILES, Kind, encoding
from d2v.util.files import read_json

# means and standard deviations of red, green and blue in [0, 1] that recipes name
NORMALISATIONS: dict[str, Any] = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "half": ([0.5] * 3, [0.5] * 3),
}


def chosen(view: params.View) -> bool:
    """Whether a view sets how its inputs are standardised, rather than leaving it to the data."""
    return getattr(view, "normalise", "dataset") != "dataset"


def colours(
    meta: Mapping[str, Any], kind: str, channels: int
) -> tuple[list[float] | None, list[float] | None]:
    """Mean and standard deviation of each channel in [0, 1] (C,); None if they are unknown.

    `kind` is `view.normalise`; `meta` is the meta.json of the prepared set.
    """
    mean, std = NORMALISATIONS.get(kind, (meta.get("mean"), meta.get("std")))
    if mean is None or std is None:
        return None, None
    # the statistics of a set are for red, green, blue and grey
    place = slice(3, 4) if channels == 1 and kind not in NORMALISATIONS else slice(channels)
    return mean[place], std[place]


def spelt_out(classes: Sequence[str]) -> list[str]:
    """Translate ImageNet class ids (n01440764) to their usual names; other names stay as given.

    The names are not unique: two classes of ImageNet-1K are called crane.
    """
    if not all(re.fullmatch(r"n\d{8}", name) for name in classes):
        return list(classes)
    from timm.data.imagenet_info import ImageNetInfo

    known = ImageNetInfo("imagenet-1k")
    words = {name: known.label_name_to_description(name) for name in known.label_names()}
    return [words.get(name, name) for name in classes]


# --- tokenizers -------------------------------------------------------------------------------


def tokenizer_files(prepared: Path, wanted: str | None) -> tuple[Kind, dict[str, bytes]] | None:
    """Return the kind and the files of the prepared tokenizer with this SHA-256, None if absent."""
    for path in sorted(prepared.glob("*/meta.json")):
        meta = read_json(path) or {}
        if wanted and meta.get("kind") == "tokenizer" and meta.get("sha256") == wanted:
            kind: Kind = meta.get("encoding", "sentencepiece")
            try:
                return kind, {name: path.with_name(name).read_bytes() for name in FILES[kind]}
            except FileNotFoundError:
                continue
    return None


def files_hash(kind: Kind, files: Mapping[str, bytes]) -> str:
    """SHA-256 of a tokenizer, as in the meta.json of its prepared set (`shards.hash_of`)."""
    total = sha256()
    for name in sorted(FILES[kind]):
        total.update(f"{sha256(files[name]).hexdigest()}  {name}\n".encode())
    return total.hexdigest()


def pieces_hash(kind: Kind, files: Mapping[str, bytes]) -> str | None:
    """SHA-256 over the pieces that the ids stand for: equal for one tokenizer in two formats.

    None if the files cannot be read.
    """
    try:
        pieces = encoding(kind, files).pieces()
    except Exception:  # from any package; encoding with this tokenizer reports the reason
        return None
    return sha256("".join(f"{i} {piece}\n" for i, piece in pieces).encode()).hexdigest()

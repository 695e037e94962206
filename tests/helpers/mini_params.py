"""The miniature's parameters as plain values in which no two groups are the same object."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from d2v.params.reading import read_yaml

MINI = Path(__file__).parents[2] / "params" / "mini.yaml"


def without_baselines() -> dict[str, Any]:
    """mini.yaml without probes and input targets, so that a change of a group is of it alone."""
    raw: dict[str, Any] = json.loads(_text())
    raw["pretrain"] = {k: v for k, v in raw["pretrain"].items() if not k.endswith("-input")}
    for task in raw["finetune"].values():
        del task["baseline"]
        task["settings"].pop("input", None)
        task["arms"] = ["scratch", "data2vec"]
        task.pop("probe", None)
    return raw


@cache
def _text() -> str:
    return json.dumps(read_yaml(MINI))

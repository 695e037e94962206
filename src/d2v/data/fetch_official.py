"""`d2v fetch DATASET`: the official sets that may be downloaded, and where the others are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from d2v.data.downloads import Remote, download, merge, unpack
from d2v.errors import UserError


@dataclass(frozen=True)
class Part:
    """A file to download; `gives` is what unpacking it makes, empty for a file that stays one."""

    remote: Remote
    gives: str = ""
    folder: str = ""  # where a file that stays one belongs


def _speech(subset: str, md5: str) -> Part:
    url = f"https://www.openslr.org/resources/12/{subset}.tar.gz"
    return Part(Remote(url, f"md5:{md5}"), f"LibriSpeech/{subset}")


def _glue(task: str, file: str) -> Part:
    return Part(Remote(f"https://dl.fbaipublicfiles.com/glue/data/{file}"), f"glue_data/{task}")


_MRPC = "https://dl.fbaipublicfiles.com/senteval/senteval_data/msr_paraphrase"
# checksums: openslr.org/resources/12/md5sum.txt; torchaudio's LibriLightLimited
SETS: dict[str, dict[str, list[Part]]] = {
    "librispeech": {
        "dev-clean": [_speech("dev-clean", "42e2234ba48799c1f50f24a7926300a1")],
        "dev-other": [_speech("dev-other", "c8d0bcc9cca99d4f8b62fcc847357931")],
        "test-clean": [_speech("test-clean", "32fa31d27d2e1cad72775fee3f4849a9")],
        "test-other": [_speech("test-other", "fb5a50374b501bb3bac4815ee91d3135")],
        "train-clean-100": [_speech("train-clean-100", "2a93770f6d5c6c964bc36631d331a522")],
        "train-clean-360": [_speech("train-clean-360", "c0e676e450a7ff2f54aeade5171606fa")],
        "train-other-500": [_speech("train-other-500", "d1a0fd59409feb2c614ce4d30c387708")],
    },
    "librilight-lists": {
        "lists": [
            Part(
                Remote(
                    "https://dl.fbaipublicfiles.com/librilight/data/librispeech_finetuning.tgz",
                    "sha256:5d1efdc777b548194d7e09ba89126e2188026df9fd57aa57eb14408d2b2342af",
                ),
                "librispeech_finetuning",
            )
        ]
    },
    "librispeech-lm": {
        name: [Part(Remote(f"https://www.openslr.org/resources/11/{name}"), "", "librispeech-lm")]
        for name in ("4-gram.arpa.gz", "librispeech-lexicon.txt", "librispeech-vocab.txt")
    },
    "glue": {
        "CoLA": [_glue("CoLA", "CoLA.zip")],
        "MNLI": [_glue("MNLI", "MNLI.zip")],
        "MRPC": [
            Part(Remote(f"{_MRPC}_train.txt"), "", "glue_data/MRPC"),
            Part(Remote(f"{_MRPC}_test.txt"), "", "glue_data/MRPC"),
            Part(
                Remote("https://dl.fbaipublicfiles.com/glue/data/mrpc_dev_ids.tsv"),
                "",
                "glue_data/MRPC",
            ),
        ],
        "QNLI": [_glue("QNLI", "QNLIv2.zip")],
        "QQP": [_glue("QQP", "QQP-clean.zip")],
        "RTE": [_glue("RTE", "RTE.zip")],
        "SST-2": [_glue("SST-2", "SST-2.zip")],
        "STS-B": [_glue("STS-B", "STS-B.zip")],
    },
}
BY_HAND = {
    "imagenet": "its licence asks for an account: register at image-net.org, download"
    " ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz, and put"
    " them into the folder that params/paper.yaml names under data.imagenet",
    "librilight": "it is 3.5 TB: get small.tar, medium.tar and large.tar as"
    " github.com/facebookresearch/libri-light says, and unpack them into the folder that"
    " params/paper.yaml names under data.librilight",
    "audioset": "its clips belong to those who uploaded them: get the segment lists and"
    " class_labels_indices.csv from research.google.com/audioset, and the clips as 16 kHz mono FLAC"
    " or WAV into clips/, in the folder that params/paper.yaml names under data.audioset",
    "books-wikipedia": "the corpus of the paper is not handed out: any *.txt or *.jsonl will do, in"
    " the folder that params/paper.yaml names under data.text",
}


def fetch_official(name: str, target: Path) -> list[str]:
    """Bring a set, or some parts of it (`librispeech:dev-clean,dev-other`), below `target`.

    Returns what is new. Archives stay where they are, so that nothing is downloaded twice. Raises
    UserError for an unknown name, with where to get what cannot be downloaded, and as `download`
    and `unpack` do.
    """
    dataset, _, chosen = name.partition(":")
    if dataset in BY_HAND:
        raise UserError(f"{dataset} cannot be fetched; {BY_HAND[dataset]}")
    if dataset not in SETS:
        known = ", ".join([*SETS, *BY_HAND])
        raise UserError(f"{dataset}: no such data set; known are {known}")
    parts = SETS[dataset]
    wanted = chosen.split(",") if chosen else list(parts)
    if unknown := [part for part in wanted if part not in parts]:
        raise UserError(f"{dataset} has no part {unknown[0]}; it has {', '.join(parts)}")
    return [new for part in wanted for new in fetch_parts(parts[part], target)]


def fetch_parts(parts: Sequence[Part], target: Path) -> list[str]:
    """Download and unpack what is not there; returns the names of what is new."""
    new = []
    for part in parts:
        if part.gives:
            if (target / part.gives).exists():
                continue
            archive = download(part.remote, target / "archives")
            print(f"{part.remote.name}: unpacking", flush=True)
            _place(archive, part.gives, target)
            new.append(part.gives)
        else:
            file = target / part.folder / part.remote.name
            before = file.exists()
            download(part.remote, file.parent)
            new += [] if before else [f"{part.folder}/{part.remote.name}"]
    return new


def _place(archive: Path, gives: str, target: Path) -> None:
    """Unpack an archive so that `gives` (FOLDER/NAME) is there; its top folder is either part."""
    fresh = archive.with_name(f"{archive.name}.unpacked")
    unpack(archive, fresh)
    folder, _, name = gives.partition("/")
    if (fresh / gives).exists():
        merge(fresh, target)
    elif name and (fresh / name).exists():
        merge(fresh, target / folder)
    else:
        raise UserError(f"{archive}: no {gives} in it: the server has another file now")

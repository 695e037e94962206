"""`d2v fetch DATASET`: download official sets, or say where to get those that it cannot."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from d2v.data.fetch.archives import merge, unpack
from d2v.data.fetch.downloads import Remote, download
from d2v.util.errors import UserError
from d2v.util.locks import alone_in
from d2v.util.outputs import check_into


@dataclass(frozen=True)
class Part:
    """A file to download; `gives` is what unpacking it creates, empty if it is not unpacked."""

    remote: Remote
    gives: str = ""
    folder: str = ""  # folder for a file that is not unpacked


def _speech(subset: str, md5: str) -> Part:
    url = f"https://www.openslr.org/resources/12/{subset}.tar.gz"
    return Part(Remote(url, f"md5:{md5}"), f"LibriSpeech/{subset}")


def _glue(task: str, file: str, sha256: str) -> Part:
    return Part(Remote(f"{_FILES}/glue/data/{file}", f"sha256:{sha256}"), f"glue_data/{task}")


def _mrpc(path: str, sha256: str) -> Part:
    return Part(Remote(f"{_FILES}/{path}", f"sha256:{sha256}"), "", "glue_data/MRPC")


_FILES = "https://dl.fbaipublicfiles.com"
# checksums: openslr.org/resources/12/md5sum.txt; torchaudio's LibriLightLimited; dataset_infos.json
# of Hugging Face's glue. None are published for the language model, so those found are recorded
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
                    f"{_FILES}/librilight/data/librispeech_finetuning.tgz",
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
        "CoLA": [
            _glue(
                "CoLA",
                "CoLA.zip",
                "f212fcd832b8f7b435fb991f101abf89f96b933ab400603bf198960dfc32cbff",
            )
        ],
        "MNLI": [
            _glue(
                "MNLI",
                "MNLI.zip",
                "e7c1d896d26ed6caf700110645df426cc2d8ebf02a5ab743d5a5c68ac1c83633",
            )
        ],
        "MRPC": [
            _mrpc(
                "senteval/senteval_data/msr_paraphrase_train.txt",
                "60a9b09084528f0673eedee2b69cb941920f0b8cd0eeccefc464a98768457f89",
            ),
            _mrpc(
                "senteval/senteval_data/msr_paraphrase_test.txt",
                "a04e271090879aaba6423d65b94950c089298587d9c084bf9cd7439bd785f784",
            ),
            _mrpc(
                "glue/data/mrpc_dev_ids.tsv",
                "971d7767d81b997fd9060ade0ec23c4fc31cbb226a55d1bd4a1bac474eb81dc7",
            ),
        ],
        "QNLI": [
            _glue(
                "QNLI",
                "QNLIv2.zip",
                "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5",
            )
        ],
        "QQP": [
            _glue(
                "QQP",
                "QQP-clean.zip",
                "40e7c862c04eb26ee04b67fd900e76c45c6ba8e6d8fab4f8f1f8072a1a3fbae0",
            )
        ],
        "RTE": [
            _glue(
                "RTE",
                "RTE.zip",
                "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee",
            )
        ],
        "SST-2": [
            _glue(
                "SST-2",
                "SST-2.zip",
                "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa",
            )
        ],
        "STS-B": [
            _glue(
                "STS-B",
                "STS-B.zip",
                "e60a6393de5a8b5b9bac5020a1554b54e3691f9d600b775bd131e613ac179c85",
            )
        ],
    },
}
# checksums: cs.toronto.edu/~kriz/cifar.html; Hugging Face's dataset_infos.json of wikitext, whose
# first address (research.metamind.io on S3) has answered 403 since 2024; this one, of an author of
# the set, serves the same file. None are published for GPT-2's files in fairseq
SETS |= {
    "cifar10": {
        "binary": [
            Part(
                Remote(
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                    "md5:c32a1d4ab5d03f1284b67883e8d87530",
                ),
                "cifar-10-batches-bin",
            )
        ]
    },
    "wikitext103": {
        "raw": [
            Part(
                Remote(
                    "https://wikitext.smerity.com/wikitext-103-raw-v1.zip",
                    "sha256:91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794",
                ),
                "wikitext-103-raw",
            )
        ]
    },
    "gpt2-bpe": {
        name: [Part(Remote(f"{_FILES}/fairseq/gpt2_bpe/{name}"), "", "gpt2_bpe")]
        for name in ("dict.txt", "encoder.json", "vocab.bpe")
    },
}
BY_HAND = {
    "imagenet": "its licence requires an account: register at image-net.org, download"
    " ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz, and put"
    " them into the folder that params/paper.yaml names under data.imagenet",
    "librilight": "it is 3.5 TB: get small.tar, medium.tar and large.tar as described"
    " at github.com/facebookresearch/libri-light, and unpack them into the folder that"
    " params/paper.yaml names under data.librilight",
    "audioset": "its clips belong to those who uploaded them: get the segment lists and"
    " class_labels_indices.csv from research.google.com/audioset, put them into the folder that"
    " params/paper.yaml names under data.audioset, and the clips, as 16 kHz mono FLAC or WAV, into"
    " its folder clips/",
    "books-wikipedia": "the paper's corpus is not distributed: put any *.txt or *.jsonl files into"
    " the folder that params/paper.yaml names under data.text",
}


def fetch_official(name: str, target: Path) -> list[str]:
    """Fetch a set, or some parts of it (`librispeech:dev-clean,dev-other`), into `target`.

    Returns the names of what is new. Archives are kept, so that nothing is downloaded twice. Raises
    UserError for an unknown name, for a set that cannot be downloaded (saying where to get it), and
    as `download` and `unpack` do.
    """
    dataset, _, chosen = name.partition(":")
    if dataset in BY_HAND:
        raise UserError(f"{dataset} cannot be fetched; {BY_HAND[dataset]}")
    if dataset not in SETS:
        known = ", ".join([*SETS, *BY_HAND])
        raise UserError(f"{dataset}: no such data set; known sets: {known}")
    parts = SETS[dataset]
    wanted = chosen.split(",") if chosen else list(parts)
    if unknown := [part for part in wanted if part not in parts]:
        raise UserError(f"{dataset} has no part {unknown[0]}; it has {', '.join(parts)}")
    check_into(target)
    with alone_in(target):  # a second fetch waits for the first and finds what it downloaded
        return [new for part in wanted for new in fetch_parts(parts[part], target)]


def fetch_parts(parts: Sequence[Part], target: Path) -> list[str]:
    """Download and unpack the missing parts; return the names of what is new."""
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
    """Unpack an archive to `gives` (FOLDER/NAME); its top folder may be FOLDER or NAME."""
    fresh = archive.with_name(f"{archive.name}.unpacked")
    unpack(archive, fresh)
    folder, _, name = gives.partition("/")
    if (fresh / gives).exists():
        merge(fresh, target)
    elif name and (fresh / name).exists():
        merge(fresh, target / folder)
    else:
        raise UserError(f"{archive}: contains no {gives}: the file on the server has changed")

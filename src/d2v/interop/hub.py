"""`d2v.push` and `d2v.pull`: checkpoints on the Hugging Face hub, through huggingface_hub.

Weights travel as safetensors only. Pickles are neither pushed nor pulled, and nothing that a
repository holds is executed. Tokens, proxies and the hub's address are those of huggingface_hub.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from glob import escape
from pathlib import Path
from typing import Any

from d2v.interop.card import model_card
from d2v.interop.reading import read
from d2v.util.errors import UserError
from d2v.util.extras import named
from d2v.util.files import remove_folder
from d2v.util.outputs import new_folder

# weights, configuration, tokenizers and the card; tokenizer.model is sentencepiece's protobuf
TRAVEL = ("*.safetensors", "*.json", "*.txt", "*.model", "*.bpe", "README.md")
CARD = "README.md"
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LIBRARIES = ("huggingface_hub", "httpx", "httpcore", "hf_xet")  # whose errors are reported


def is_name(text: str | Path) -> bool:
    """Whether a text can be the name of a repository, organisation/name."""
    return isinstance(text, str) and NAME.fullmatch(text) is not None


def pull(
    name: str, out: str | Path | None = None, revision: str | None = None, say: bool = False
) -> Path:
    """Fetch a checkpoint from the Hugging Face hub; returns its folder, which `d2v.load` reads.

    `name` is organisation/name, `revision` a branch, tag or commit (default: the main branch). By
    default, the folder is named after the repository and created in the current folder. It appears
    when it is complete and has been read. Raises UserError if it exists, for a repository without
    safetensors weights or that is no data2vec model, and for errors of the hub.
    """
    if not is_name(name):
        raise UserError(f"{name}: not a name on the hub; give organisation/name")
    folder = Path(out) if out is not None else Path(name.split("/")[1])
    with named(), _told(name):
        import huggingface_hub

        with new_folder(folder) as part:
            api = huggingface_hub.HfApi()
            found = api.model_info(name, revision=revision)
            files = _weights_among(name, [file.rfilename for file in found.siblings or ()])
            chosen = [escape(file) for file in files]
            api.snapshot_download(name, revision=found.sha, local_dir=part, allow_patterns=chosen)
            remove_folder(part / ".cache")  # of huggingface_hub
            _check(part, name)
    if say:
        print(f"{folder}: {name} at {found.sha}")
    return folder


def cached(name: str, revision: str | None = None) -> Path:
    """Folder of a checkpoint of the hub in huggingface_hub's cache; fetched if it is not there.

    Raises UserError as `pull`.
    """
    with named(), _told(name):
        import huggingface_hub

        made = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=list(TRAVEL), ignore_patterns="*/*"
        )
        folder = Path(made)
        _weights_among(name, [path.name for path in folder.iterdir()])
    return folder


def push(
    folder: str | Path,
    name: str,
    private: bool = True,
    message: str | None = None,
    say: bool = False,
) -> str:
    """Publish a folder that `d2v convert` wrote on the Hugging Face hub; returns its address.

    The repository is created if it does not exist, by default as a private one. One commit
    publishes all files or none; a folder without README.md gets the model card of an export. Raises
    UserError for a folder that is no checkpoint or has files that do not belong to one, and for
    errors of the hub.
    """
    folder = Path(folder)
    if not is_name(name):
        raise UserError(f"{name}: not a name on the hub; give organisation/name")
    if not folder.is_dir():
        raise UserError(f"{folder}: not a folder; write one with `d2v convert`")
    content = read(folder)
    if content.format == "run":
        raise UserError(f"{folder}: a checkpoint of a run; convert it first with `d2v convert`")
    names = sorted(path.name for path in folder.iterdir())
    if strange := [file for file in names if not _travels(file)]:
        raise UserError(
            f"{folder / strange[0]}: not pushed, because only safetensors, configuration, tokenizer"
            " and README.md are; move it elsewhere"
        )
    contents: dict[str, Any] = {file: folder / file for file in _weights_among(str(folder), names)}
    if CARD not in contents:
        contents[CARD] = model_card(content, None, []).encode()
    with named(), _told(name):
        import huggingface_hub as hub

        api = hub.HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        files = [hub.CommitOperationAdd(path, file) for path, file in contents.items()]
        done = api.create_commit(name, files, commit_message=message or f"d2v push {folder.name}")
        address = str(done.repo_url)
    if say:
        print(f"{address}: {len(files)} files")
    return address


def _travels(file: str) -> bool:
    return "/" not in file and any(fnmatch(file, pattern) for pattern in TRAVEL)


def _weights_among(name: str, files: list[str]) -> list[str]:
    """Those of the files that travel; raises UserError if there are no weights among them."""
    found = [file for file in files if _travels(file)]
    if not any(file.endswith(".safetensors") for file in found):
        there = ", ".join(sorted(files)[:8]) or "nothing"
        raise UserError(
            f"{name}: no weights as safetensors, the only format that d2v exchanges with the hub;"
            f" there: {there}"
        )
    return found


def _check(folder: Path, name: str) -> None:
    """Raise UserError unless a folder is a checkpoint; its name in the message is the hub's."""
    try:
        read(folder)
    except UserError as error:
        raise UserError(str(error).replace(str(folder), name)) from None


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Errors of huggingface_hub and of the network in one sentence."""
    try:
        yield
    except (UserError, ImportError):
        raise
    except Exception as error:
        theirs = type(error).__module__.startswith(LIBRARIES)
        of_disk = isinstance(error, OSError) and error.errno is not None
        if of_disk or not (theirs or isinstance(error, OSError)):
            raise
        raise UserError(f"{name}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    kind = type(error).__name__
    known = {
        "RepositoryNotFoundError": "not on the hub, or private; check the name, or log in with"
        " `hf auth login`",
        "GatedRepoError": "gated: request access on its page, and log in with `hf auth login`",
        "RevisionNotFoundError": "it has no such revision",
        "LocalEntryNotFoundError": "the hub cannot be reached, and it is not in the local cache",
        "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set, and it is not in the local cache",
        "ConnectError": "the hub cannot be reached; check the network, a proxy, or HF_ENDPOINT",
    }
    status = getattr(getattr(error, "response", None), "status_code", None)
    if kind not in known and status in (401, 403):
        return "the hub refuses it: log in with `hf auth login`, with a token that may write there"
    return known.get(kind) or " ".join(f"{kind}: {error}".split())[:300]

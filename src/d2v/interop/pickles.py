"""Read PyTorch's pickled files without executing any code in them.

PyTorch's own restricted reader (weights_only) builds tensors and plain containers and refuses
everything else. The released checkpoints also hold configuration objects. For the classes listed
here, the reader is given stand-ins that only store their arguments and state. Anything else is
refused by name.
"""

import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from d2v.util.errors import UserError

# classes of configuration objects in files of fairseq, data2vec_vision and DeepSpeed
INERT = frozenset(
    {
        "argparse.Namespace",
        "copyreg._reconstructor",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "numpy.ndarray",
        "pathlib.Path",
        "pathlib.PosixPath",
        "typing.Any",
        *(f"builtins.{kind.__name__}" for kind in (bool, bytes, dict, float, int, list)),
        *(f"builtins.{kind.__name__}" for kind in (object, str, tuple)),
    }
)
DEFAULTS = "collections.defaultdict"  # becomes a plain dictionary
INERT_MODULES = re.compile(r"(omegaconf|fairseq|fairseq_user_dir_\d+|examples|deepspeed)(\.|$)")

# names that PyTorch's reader handles itself
BUILDERS = re.compile(
    r"torch\.(\w*Storage|b?float\d+\w*|u?int\d+|bool|complex\d+|q\w+\d+|Tensor|Size|device)"
    r"|torch\.(_utils|_tensor)\._rebuild\w+|torch\.nn\.parameter\.Parameter"
    r"|torch\.storage\.\w+Storage|torch\.serialization\._get_layout"
    r"|collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|complex|bytearray)"
)


class Inert:
    """Stand-in for an object in a pickle: its arguments and state, without any behaviour."""

    name = ""  # class that it stands for
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *arguments: Any) -> "Inert":
        made = object.__new__(cls)
        made.arguments = arguments
        return made

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read(path: Path) -> Any:
    """Content of a torch.save file; tensors of the newer zip format are memory-mapped.

    Configuration objects are returned as `Inert`. Raises UserError if the file is incomplete, is
    not a PyTorch file, or requests anything but tensors, containers and configuration.
    """
    zipped = zipfile.is_zipfile(path)
    try:
        names = list(_globals(path, zipped))
        stand_ins: list[Any] = [(_stand_in(name), name) for name in names if _inert(name)]
        stand_ins += [(_dictionary, name) for name in names if name == DEFAULTS]
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped or None)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # a damaged pickle raises anything
        refused = [name for name in _asked_for(path, zipped) if not _known(name)]
        if refused:
            raise UserError(
                f"{path}: refused, nothing was executed: loading it would call"
                f" {', '.join(refused)}; only tensors and configuration are read"
            ) from None
        raise UserError(
            f"{path}: not a complete torch.save file ({_reason(error)}); fetch or create it again"
        ) from None


def _reason(error: Exception) -> str:
    """First line of an error message, without PyTorch's advice to disable the restricted reader."""
    text = str(error)
    if "WeightsUnpickler error:" in text:
        text = text.split("WeightsUnpickler error:")[1].strip()
    elif "weights_only" in text:
        text = ""
    return text.split("\n")[0][:200].rstrip(" .") or type(error).__name__


def plain(value: Any) -> Any:
    """Content of a configuration object as dictionaries, lists, numbers and strings."""
    if isinstance(value, Inert):
        return _plain_state(value)
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else str(plain(key)): plain(v) for key, v in value.items()
        }
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | None) else str(type(value).__name__)


def _plain_state(value: Inert) -> Any:
    state = value.state
    if isinstance(state, tuple) and len(state) == 2:  # attributes, slots
        state = {**(state[0] or {}), **(state[1] or {})}
    if isinstance(state, dict):
        for key in ("_content", "_val"):  # omegaconf's containers and leaves
            if key in state:
                return plain(state[key])
        return plain(state)
    # one argument: the value of an enumeration; several: the content of a container
    return plain(value.arguments[0]) if len(value.arguments) == 1 else plain(value.arguments)


def _stand_in(name: str) -> type[Inert]:
    return type(name.rsplit(".", 1)[-1], (Inert,), {"name": name})


def _dictionary(*_default: Any) -> dict[Any, Any]:
    """Replacement for defaultdict(default factory); PyTorch's reader fills the dictionary."""
    return {}


def _inert(name: str) -> bool:
    return name in INERT or INERT_MODULES.match(name) is not None


def _known(name: str) -> bool:
    """Whether PyTorch's reader or a stand-in handles the name."""
    return _inert(name) or name == DEFAULTS or BUILDERS.fullmatch(name) is not None


def _asked_for(path: Path, zipped: bool) -> list[str]:
    found = []
    try:
        for name in _globals(path, zipped):
            found.append(name)
    except Exception:  # a damaged pickle: keep the names found before the damage
        pass
    return found


def _globals(path: Path, zipped: bool) -> Iterator[str]:
    """Dotted names that the pickle requests, each once, found without loading it."""
    seen = set()
    for name in _stream_names(path, zipped):
        if name not in seen:
            seen.add(name)
            yield name


def _stream_names(path: Path, zipped: bool) -> Iterator[str]:
    if zipped:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith((".pkl", "/data.pkl")):
                    with archive.open(member) as stream:
                        yield from _pickle_names(stream)
        return
    with path.open("rb") as stream:
        for _ in range(4):  # magic number, version, system, content
            yield from _pickle_names(stream)


def _pickle_names(stream: IO[bytes]) -> Iterator[str]:
    strings: list[str] = []
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            yield _current(module, name)
        elif operation.name == "STACK_GLOBAL":
            yield _current(*strings[-2:]) if len(strings) > 1 else "a name that it makes up"
        elif isinstance(argument, str):
            strings.append(argument)


def _current(module: str, name: str) -> str:
    """Python 3 equivalent of a Python 2 name, as used in pickles of protocol 2."""
    if (module, name) in NAME_MAPPING:
        return ".".join(NAME_MAPPING[module, name])
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"

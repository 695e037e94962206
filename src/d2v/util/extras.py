"""Optional packages: which extra of d2v installs a package that is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from d2v.util.errors import UserError

# top-level module: the smallest extra of pyproject.toml that installs it
EXTRAS = {
    **dict.fromkeys(
        (
            *("jiwer", "pandas", "pyarrow", "scipy", "sklearn", "soxr", "tensorboard", "timm"),
            *("torchaudio", "torchvision", "tqdm", "zstandard"),
        ),
        "train",
    ),
    **dict.fromkeys(
        (
            *("dvc", "espeakng_loader", "jinja2", "requests", "shtab", "snakemake", "submitit"),
            "snakemake_interface_executor_plugins",
        ),
        "workflow",
    ),
    **dict.fromkeys(("huggingface_hub", "tokenizers", "transformers"), "hf"),
    "flashlight": "decode",
}


def explained(error: ImportError) -> UserError | None:
    """The missing package and the command that installs it; None for a module of no extra."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS or not isinstance(error, ModuleNotFoundError):
        return None
    return UserError(
        f"this needs the package {module}, which is not installed:"
        f' pip install "d2v[{EXTRAS[module]}]"'
    )


@contextmanager
def named() -> Iterator[None]:
    """Turn the failed import of an optional package into a UserError that names its extra."""
    try:
        yield
    except ImportError as error:
        told = explained(error)
        if told is None:
            raise
        raise told from None

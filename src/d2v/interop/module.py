"""Build the modules of a checkpoint without memory for weights, then assign its weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from d2v import params
from d2v.interop.content import Architecture, Content, refuse_faults, refuse_more_modules
from d2v.model.data2vec import Student, build_decoder, regression_head
from d2v.model.ema import Teacher, is_prenet
from d2v.model.heads import LetterHead
from d2v.model.heads import build as build_head
from d2v.model.transformer import Kept
from d2v.util.errors import UserError

if TYPE_CHECKING:
    from d2v.interop.hidden_states import Features, Inputs, Layers, Pool

BACKBONE = "teacher.backbone."


class Model(nn.Module):
    """A loaded checkpoint, in evaluation mode.

    `student` is always present. `head` belongs to a fine-tuned model, `regression` or `decoder` and
    `teacher` to a pre-trained one; each is None if the checkpoint has none. `inputs` describes how
    inputs are prepared, `params` how the modules were built.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.params = a = architecture
        self.student = Student(a.encoder, a.backbone)
        self.head = None
        if a.task is not None and a.outputs:
            self.head = build_head(
                a.task, a.backbone.dim, a.outputs, a.backbone.norm_eps, a.encoder.length
            )
        self.regression = regression_head(a.regression, a.backbone) if a.regression else None
        self.decoder = build_decoder(a.decoder, a.encoder, a.backbone)
        self.teacher = None
        if a.shared is not None:
            ema = params.EMA(start=1.0, end=1.0, anneal_steps=0, shared=a.shared)
            self.teacher = Teacher(self.student.encoder, self.student.backbone, ema)
        self.content: Content

    @property
    def inputs(self) -> Any:
        """How the model's input (waveforms, pixels or tokens) is prepared."""
        return self.content.inputs

    @property
    def prefix(self) -> int:
        """Number of leading positions that stand for no part of the input: the class token."""
        return int(self.student.encoder.prefix)

    @property
    def provenance(self) -> dict[str, Any]:
        """Origin of the weights, as far as the checkpoint records it."""
        return self.content.provenance

    @property
    def letters(self) -> list[str] | None:
        """Letters of a CTC head's outputs, in order; None for other models."""
        found: list[str] | None = getattr(self.inputs, "letters", None)
        return found

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes, in order; None if they are unknown."""
        found: list[str] | None = self.inputs.classes
        return found

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of texts; raises UserError if the checkpoint has none."""
        from d2v.interop.tokenizing import tokenizer

        return tokenizer(self.content)

    def features(
        self,
        inputs: "Inputs",
        layers: "Layers" = "all",
        pool: "Pool | None" = None,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> Iterator["Features"]:
        """Hidden states and logits of each input; see `d2v.features`."""
        from d2v.interop.hidden_states import hidden_states

        return hidden_states(self, inputs, layers, pool, batch_size, progress)

    @torch.inference_mode()
    def hidden(
        self, batch: dict[str, Tensor], alone: bool = False
    ) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """Outputs for a batch without gradients; see `forward`."""
        return self.forward(batch, alone)

    def forward(
        self, batch: dict[str, Tensor], alone: bool = False
    ) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """Hidden states (B, P + T, D), logits, and padding (B, T) of a batch.

        The hidden states are the input of the first block and the output of each block. Logits are
        taken before the softmax and have shape (B, outputs), or (B, T, letters) for CTC; they are
        None without a head. With `alone`, no input is influenced by its padding, while by default
        padding acts as in training, which released speech models do not prevent.
        """
        x, padding = self.student.encoder.local_features(batch)
        with self.student.encoder.without_padding() if alone else nullcontext():
            h, padding = self.student.encoder(x, padding)
        output = self.student.backbone(h, padding, keep=Kept(("block",)))
        if padding is not None:
            padding = padding[:, self.prefix :]
        return [h, *output.layers["block"]], self._logits(output.x, padding), padding

    def _logits(self, x: Tensor, padding: Tensor | None) -> Tensor | None:
        if self.head is None:
            return None
        prefix = self.prefix
        if isinstance(self.head, LetterHead):
            logits: Tensor = self.head.out(x[:, prefix:])
        else:
            logits = self.head(x, prefix, padding)
        return logits


class _NoValues(TorchFunctionMode):
    """Skips the random initialisation of weights, which would be overwritten anyway.

    PyTorch's code for initialisation on the meta device takes a second and 150 MiB to import.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name == "randn":
            func = torch.empty
        elif name in DRAWING:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


DRAWING = {"normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_"}


@contextmanager
def without_values() -> Iterator[None]:
    """Build modules inside the block with shapes only: no values and no memory for them."""
    with torch.device("meta"), _NoValues():
        yield


def empty(architecture: Architecture) -> Model:
    """The modules of an architecture, with shapes but without values."""
    with without_values():
        return Model(architecture)


def filled(content: Content) -> Model:
    """The modules of a checkpoint with its tensors, which are assigned without a copy.

    Raises UserError that lists every missing, surplus and wrongly shaped tensor.
    """
    model = empty_of(content)
    model.load_state_dict(whole(content, model.state_dict()), assign=True)
    model.content = content
    return model.eval()


def empty_of(content: Content) -> Model:
    """The modules of a checkpoint without values; raises UserError if they cannot be built."""
    refuse_more_modules(content.architecture, content.tensors, content.source)
    try:
        return empty(content.architecture)
    except (RuntimeError, ValueError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{content.source}: a model of these sizes cannot be built ({reason})"
        ) from None


def whole(content: Content, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint's tensors for the modules: as float32, with shared ones filled in.

    Raises UserError that lists every missing, surplus, wrongly shaped and non-float tensor.
    """
    tensors = with_shared(content.tensors, wanted, content.architecture)
    faults = [f"{name}: missing" for name in wanted if name not in tensors]
    faults += [f"{name}: surplus" for name in tensors if name not in wanted]
    faults += [
        f"{name}: {list(tensor.shape)}, {list(wanted[name].shape)} is expected"
        for name, tensor in tensors.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    faults += [
        f"{name}: {str(tensor.dtype).removeprefix('torch.')}, floating-point numbers are expected"
        for name, tensor in tensors.items()
        if not tensor.is_floating_point()
    ]
    refuse_faults(content.source, faults)
    return {name: tensor.float() for name, tensor in tensors.items()}


def with_shared(
    tensors: dict[str, Tensor], wanted: Iterable[str], a: Architecture
) -> dict[str, Tensor]:
    """The tensors, plus copies of student tensors that the teacher shares but lacks itself."""
    prefixes = tuple(f"teacher.encoder.{module}" for module in a.shared or ())
    if "prenet" in (a.shared or ()):
        own = (name.removeprefix(BACKBONE) for name in wanted if name.startswith(BACKBONE))
        prefixes += tuple(BACKBONE + n for n in own if is_prenet(n, a.backbone.prenet_depth))
    filled = dict(tensors)
    for name in wanted:
        source = name.replace("teacher.", "student.", 1)
        if name.startswith(prefixes) and name not in tensors and source in tensors:
            filled[name] = tensors[source].clone()
    return filled

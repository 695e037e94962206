"""One optimiser step of pre-training, this project's and the peer's, timed by its parts."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from d2v import params
from d2v.training import compiling, devices, graphs, optim
from d2v.training.precision import Working
from d2v.training.step import Step
from d2v.training.task import Pretraining

Batch = dict[str, Tensor]
PARTS = ("front end", "teacher", "student", "backward", "optimiser", "ema")


class Clock:
    """Seconds by part of a step; on a GPU its queue is waited for at every boundary.

    One that is not `running` measures nothing and waits for nothing.
    """

    def __init__(self, device: torch.device, running: bool = True) -> None:
        self.device, self.running = device, running
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add what happens inside to `name`."""
        if not self.running:
            yield
            return
        began = self._now()
        yield
        self.seconds[name] += self._now() - began

    def around(self, owner: Any, method: str, name: str) -> None:
        """Add all calls of a method of an object to `name`."""
        inner: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **more: Any) -> Any:
            with self.part(name):
                return inner(*args, **more)

        owner.__dict__[method] = timed

    def read(self) -> dict[str, float]:
        """Seconds of each part since the last reading."""
        found, self.seconds = dict(self.seconds), defaultdict(float)
        inside = found.get("front end", 0.0) + found.get("teacher", 0.0)
        found["student"] = found.pop("forward", 0.0) - inside
        return {part: found.get(part, 0.0) for part in PARTS}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Stepper:
    """What steps have in common: `module` gives a loss and a count, `update` moves the teacher.

    `split` measures the parts of a step, for which the host waits for a GPU inside the step.
    """

    module: nn.Module
    optimiser: torch.optim.Optimizer
    update: Callable[[int], object]

    def __init__(self, device: torch.device, mixed: bool, split: bool = False) -> None:
        self.device, self.mixed, self.steps = device, mixed, 0
        self.clock = Clock(device, running=split)

    def step(self, batch: Batch) -> Tensor:
        """Forward, backward, optimiser, moving average; the loss of a position, on the device."""
        self.steps += 1
        with (
            self.clock.part("forward"),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed),
        ):
            loss, count = self.loss(batch)
        with self.clock.part("backward"):
            self.backward(loss, count)
        with self.clock.part("optimiser"):
            self.move(loss.detach(), count)
        with self.clock.part("ema"):
            self.update(self.steps)
        return (loss / count).detach()

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Summed loss and number of masked positions."""
        raise NotImplementedError

    def backward(self, loss: Tensor, count: Tensor) -> None:
        """Gradients of the loss."""
        raise NotImplementedError

    def move(self, loss: Tensor, count: Tensor) -> None:
        """Clip, one step of the optimiser, and forget the gradients."""
        raise NotImplementedError


class Ours(Stepper):
    """As the trainer makes it: gradients scaled and clipped in one pass, fused AdamW; `backend`
    compiles the parts as train.compile does.
    """

    def __init__(
        self,
        p: params.Pretrain,
        device: torch.device,
        mixed: bool = False,
        backend: str = "",
        split: bool = False,
    ) -> None:
        super().__init__(device, mixed, split)
        devices.keep_memory(device)
        self.task = Pretraining(p).to(device).train()
        self.optimiser = optim.build(self.task, p.optimiser)
        self.clip = p.optimiser.clip
        self.parameters = [x for group in self.optimiser.param_groups for x in group["params"]]
        self.update = self.task.after_step
        if split:
            self.clock.around(self.task.model.student.encoder, "local_features", "front end")
            self.clock.around(self.task.model, "targets", "teacher")
        self.module = self.task
        if backend:
            torch._dynamo.reset()  # what was compiled for other sizes counts no more
            compiling.compile_parts(self.task, backend)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """As the task gives them."""
        out = self.module(batch)
        return out["loss"], out["count"]

    def backward(self, loss: Tensor, count: Tensor) -> None:
        """Of the sum; it is divided by the count when clipping."""
        loss.backward()

    def move(self, loss: Tensor, count: Tensor) -> None:
        """As d2v.training.trainer."""
        scale = 1.0 / count.clamp(min=1).float()
        norm = optim.scale_and_clip(self.parameters, scale, self.clip)
        optim.update(self.optimiser, norm, loss)


class Trained(Ours):
    """As the trainer queues it: no wait inside a step; on a GPU both halves as CUDA graphs.

    `precision` is that of params.Train; without `captured`, nothing is replayed from graphs. The
    updates are ones that can be captured: the recipe's first 1,819 cannot.
    """

    def __init__(
        self,
        p: params.Pretrain,
        device: torch.device,
        precision: str = "mixed",
        backend: str = "",
        captured: bool = True,
    ) -> None:
        super().__init__(p, device, precision == "mixed", backend)
        if hasattr(self.optimiser, "eps_before_correction"):
            self.optimiser.eps_before_correction = False
        half = Step(
            self.task, self.task, self.optimiser, clip=self.clip, mixed=self.mixed,
            working=Working(self.task) if precision == "bfloat16" else None,
        )  # fmt: skip
        self.said: list[str] = []  # why a step is not captured
        wanted = "auto" if captured else False
        self.halves = graphs.build(wanted, half, False, self.said.append)
        self.rate = p.optimiser.lr

    def step(self, batch: Batch) -> Tensor:
        """As Stepper."""
        devices.seed(self.device, 0, self.steps)  # captured and uncaptured draw the same dropout
        self.steps += 1
        sums = self.halves.named(self.halves.gradients(batch))
        self.halves.update(sums, self.rate, self.steps)
        return sums["loss"] / sums["count"]

    @property
    def replays(self) -> list[int]:
        """How many first and second halves of steps were replayed from a graph."""
        pools = [getattr(self.halves, name, None) for name in ("backward", "moving")]
        return [pool.replays if pool is not None else 0 for pool in pools]


class Theirs(Stepper):
    """The peer (peer.py) with PyTorch's AdamW as it comes; `keep`: in memory kept as ours is.

    `mode` compiles it whole, in a mode of torch.compile (or with that backend, in tests).
    """

    def __init__(
        self,
        p: params.Pretrain,
        device: torch.device,
        mixed: bool = False,
        split: bool = False,
        keep: bool = False,
        mode: str | None = None,
    ) -> None:
        import peer  # here: a machine without transformers can still time ours

        super().__init__(device, mixed, split)
        if keep:
            devices.keep_memory(device)
        self.peer = peer.build(p).to(device).train()
        self.module, self.update = self.peer, self.peer.update
        if mode is not None:
            torch._dynamo.reset()
            if mode in ("aot_eager", "eager"):
                self.peer.compile(backend=mode)
            else:
                self.peer.compile(mode=mode)
        o = p.optimiser
        self.trained = [x for x in self.peer.parameters() if x.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.trained,
            lr=o.lr,
            betas=(o.betas[0], o.betas[1]),
            eps=o.eps,
            weight_decay=o.weight_decay,
        )
        self.clip = o.clip
        if split:
            if hasattr(self.peer, "front_end"):  # else it is within the student
                self.clock.around(self.peer, "front_end", "front end")
            self.clock.around(self.peer, "targets", "teacher")

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """As the peer gives them."""
        loss, count = self.peer(batch)
        return loss, count

    def backward(self, loss: Tensor, count: Tensor) -> None:
        """Of the mean over positions."""
        (loss / count).backward()

    def move(self, loss: Tensor, count: Tensor) -> None:
        """Clip where the recipe does, step, forget."""
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.trained, self.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()


def gemm_gflops(
    device: torch.device, dtype: torch.dtype = torch.float32, size: int = 2048
) -> float:
    """Rate of one product of two square matrices, 10^9 operations a second."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    clock = Clock(device)
    times = 1 if device.type == "cpu" else 50
    for _ in range(2):  # the first one warms up
        clock.seconds.clear()
        with clock.part("product"):
            for _ in range(times):
                a @ b
    return 2e-9 * times * size**3 / clock.seconds["product"]

"""Parallel beam search over many utterances, by processes that share one language model.

The processes are forked after lexicon and n-gram model are loaded, so that memory holds these only
once. The processes receive utterance numbers and weights, never tensors, and return words.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from d2v import params
from d2v.evaluation.ctc import BeamSearch, Language
from d2v.util.errors import UserError

CHUNK_FRAMES = 2000  # approximate size of the work that a process receives at once: 40 s of speech
AHEAD = 4  # chunks queued per process
LOG_S = 30.0  # seconds between two lines of progress without a terminal
Job = tuple[params.Decode, Sequence[int]]  # how to decode, and which utterances


class Decoders:
    """Beam searches over one set of utterances; use it in a `with` statement.

    Results depend neither on `cpus` nor on the order in which processes finish. (Flashlight orders
    hypotheses of exactly equal scores by their address in memory, which matters only if the beam
    ends among them.)
    """

    def __init__(self, language: Language, emissions: Sequence[Tensor], cpus: int) -> None:
        """`emissions` are the log-probabilities (T, letters) of each utterance."""
        letters = len(language.letters)
        for number, tensor in enumerate(emissions):
            if tensor.ndim != 2 or tensor.shape[1] != letters:
                raise UserError(
                    f"utterance {number}: log-probabilities of {letters} letters per frame are"
                    f" expected, got a tensor of shape {tuple(tensor.shape)}"
                )
        self.searches = _Searches(
            language, [e.detach().to("cpu", torch.float32).contiguous() for e in emissions]
        )
        self.pool: ProcessPoolExecutor | None = None
        context = multiprocessing.get_context("fork")
        self.over = context.RawValue("b", 0)
        if cpus > 1 and len(emissions) > 1:
            given = (self.searches, os.getpid(), self.over)
            self.pool = ProcessPoolExecutor(cpus, context, _enter, given)
        self.ahead = AHEAD * cpus

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.over.value = 1
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)

    def chunks(self, wanted: Iterable[int] | None = None) -> list[list[int]]:
        """Utterance numbers (all or `wanted`) in chunks of similar size, longest first."""
        lengths = [len(tensor) for tensor in self.searches.emissions]
        numbers = range(len(lengths)) if wanted is None else wanted
        found: list[list[int]] = []
        frames = CHUNK_FRAMES
        for number in sorted(numbers, key=lambda n: (-lengths[n], n)):
            if frames >= CHUNK_FRAMES:
                found.append([])
                frames = 0
            found[-1].append(number)
            frames += lengths[number]
        return found

    def all(self, ways: Sequence[params.Decode]) -> Iterator[list[str]]:
        """Words of all utterances, in order, for each of the decoding parameters `ways`."""
        chunks = self.chunks()
        found = self.run((decode, chunk) for decode in ways for chunk in chunks)
        for _ in ways:
            texts = [""] * len(self.searches.emissions)
            for chunk in chunks:
                for number, text in zip(chunk, next(found), strict=True):
                    texts[number] = text
            yield texts

    def run(self, jobs: Iterable[Job]) -> Iterator[list[str]]:
        """Words of the utterances of each job, in the order of the jobs.

        Raises UserError when a process is killed.
        """
        if self.pool is None:
            yield from map(self.searches, jobs)
            return
        waiting: deque[Future[list[str]]] = deque()
        try:
            for job in jobs:
                waiting.append(_submit(self.pool, job))
                if len(waiting) > self.ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            self.over.value = 1  # the others ignore signals
            raise UserError(
                "a decoding process was killed, perhaps because memory ran out; finished work is"
                " kept, so run again with more memory or a smaller decode.cpus"
            ) from None


def decode_all(
    emissions: Iterable[tuple[str, Tensor]], decode: params.Decode, lm: str | Path | Language
) -> list[str]:
    """Words of each utterance (id, log-probabilities (T, letters)), in order.

    Decodes in `decode.cpus` processes. `lm` is a loaded `Language`, or a folder as `Language` reads
    it, with the letters of LibriSpeech. Raises UserError as `Language` and `Decoders.run` do.
    """
    language = lm if isinstance(lm, Language) else Language(lm)
    tensors = [tensor for _, tensor in emissions]
    found = [""] * len(tensors)
    with Decoders(language, tensors, decode.cpus) as decoders:
        chunks = decoders.chunks()
        with Counted("decoding", len(tensors), "utterance") as counted:
            for chunk, texts in zip(
                chunks, decoders.run((decode, chunk) for chunk in chunks), strict=True
            ):
                for number, text in zip(chunk, texts, strict=True):
                    found[number] = text
                counted.add(len(chunk))
    return found


class Counted:
    """Progress through a number of items: a bar on a terminal, occasional lines in a log."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self.began, self.start, self.told = time.monotonic(), done, time.monotonic()
        self.bar: tqdm[Any] | None = None
        if sys.stdout.isatty():
            self.bar = tqdm(
                desc=label, total=total, initial=done, unit=unit, file=sys.stdout, leave=False
            )

    def __enter__(self) -> "Counted":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def add(self, count: int, what: str = "") -> None:
        """Count `count` more items as done; print a line if `what` says something about them."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        silent = self.bar is not None or time.monotonic() - self.told < LOG_S
        if what or not silent:
            self.told = time.monotonic()
            self._say(what)

    def _say(self, what: str) -> None:
        rate = (self.done - self.start) / max(time.monotonic() - self.began, 1e-9)
        left = timedelta(seconds=round((self.total - self.done) / rate)) if rate else "?"
        speed = f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"
        line = (
            f"{self.label} {self.done}/{self.total}  {what}{'  ' * bool(what)}{speed}  ETA {left}"
        )
        if self.bar is not None:
            self.bar.write(line, file=sys.stdout)
        else:
            print(line, flush=True)


class _Searches:
    """Searches for the words of utterances; keeps the search with the newest weights."""

    def __init__(self, language: Language, emissions: list[Tensor]) -> None:
        self.language, self.emissions = language, emissions
        self.decode: params.Decode | None = None

    def __call__(self, job: Job) -> list[str]:
        decode, numbers = job
        if decode != self.decode:
            self.decode, self.search = decode, BeamSearch(self.language, decode)
        return [self.search(self.emissions[number]) for number in numbers]


def _submit(pool: ProcessPoolExecutor, job: Job) -> "Future[list[str]]":
    with warnings.catch_warnings():
        # Python 3.12 warns of forking with threads running, but these processes use none of
        # the threads' locks
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        return pool.submit(_decode, job)


_searches: _Searches  # set in each process


def _enter(searches: _Searches, parent: int, over: Any) -> None:
    """Set up a process: it ignores signals, and ends with its parent or when `over` is set."""
    global _searches
    _searches = searches
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent and not over.value:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _decode(job: Job) -> list[str]:
    return _searches(job)

"""Synthetic speech in LibriSpeech's layout: connected digits spoken by espeak-ng voices."""

import multiprocessing
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import cycle, islice
from math import gcd
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import soundfile
from scipy.signal import firwin, upfirdn

from d2v.data.mini import espeak
from d2v.data.shards import written_whole
from d2v.params import SpokenDigits
from d2v.util.errors import UserError

RATE = 16000
SPLITS = ("train", "dev", "test")
_DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
_ACCENTS = (
    "en-us",
    "en",
    "en-gb-x-rp",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
    "en-us-nyc",
)
# espeak-ng variants that sound like different people: no whispers, robots or near-duplicates, and
# none that adds an echo of 30 % or more (Alicia, Marco, pablo), which is a room, not a person
_VARIANTS = {
    "M": (
        "Alex Andy Denis Gene Lee Mario Michael Nguyen Reed adam david"
        " m1 m3 m4 m7 m8 max mike2 quincy rob travis victor"
    ),
    "F": "Andrea Annie anika aunty belinda f1 f2 f3 f4 f5 linda shelby steph",
}
_MARGIN = 0.04  # seconds of silence kept before and after the voice
_PEAK = 0.9  # fraction of full scale that is never exceeded


@dataclass(frozen=True)
class Reader:
    """A speaker of one split, and the texts that they read."""

    id: int
    split: str
    sex: str
    voice: espeak.Voice
    words_per_minute: int
    loudness: float  # root mean square of the voice, as a fraction of full scale
    texts: list[str]
    seed: int

    @property
    def chapter(self) -> str:
        """Prefix of the utterance ids: speaker and chapter."""
        return f"{self.id}-1"


def write_spoken_digits(params: SpokenDigits, out: Path, processes: int = 1) -> None:
    """Write SPLIT/SPEAKER/1/*.flac (16 kHz) with .trans.txt, SPEAKERS.TXT and lists/*.txt.

    The bytes are always the same, for any number of processes. Raises UserError if there are fewer
    voices than requested, or if lists are longer than the train split.
    """
    readers = _readers(params)
    if max(params.labels, default=0) > params.utterances[0]:
        raise UserError(
            f"data.spoken_digits.labels: {max(params.labels)} is more than the"
            f" {params.utterances[0]} utterances of train"
        )
    with written_whole(out) as folder:
        _in_children(readers, folder, params.noise, processes)
        (folder / "SPEAKERS.TXT").write_text("".join(_speakers_table(readers, folder)))
        _write_lists(params, [r for r in readers if r.split == "train"], folder / "lists")


def _readers(params: SpokenDigits) -> list[Reader]:
    """Draw the readers: no two splits share a variant, but all share the accents.

    Men and women take turns. If `train` has more readers than variants are left, they repeat with
    another accent, pitch and speed.
    """
    random = Random(f"spoken_digits {params.seed} voices")
    variants = {sex: names.split() for sex, names in _VARIANTS.items()}
    for names in variants.values():
        random.shuffle(names)
    held_out = sum(params.voices[1:])
    if held_out > 2 * min(map(len, variants.values())) - 2:
        there = " and ".join(f"{len(names)} {sex}" for sex, names in variants.items())
        raise UserError(
            f"data.spoken_digits.voices: {held_out} for dev and test leave no voice of one sex for"
            f" train; lower them: there are {there}"
        )
    reserved = [(sex, variants[sex].pop()) for sex in islice(cycle(variants), held_out)]
    low, high = params.words
    if low > high:
        raise UserError(f"data.spoken_digits.words: fewest {low} is more than most {high}")
    readers: list[Reader] = []
    for split, voices, utterances in zip(SPLITS, params.voices, params.utterances, strict=True):
        for k in range(voices):
            number = len(readers)
            if split == "train":  # both sexes have every accent
                sex, place = tuple(variants)[k % 2], k // 2
                variant = variants[sex][place % len(variants[sex])]
            else:
                (sex, variant), place = reserved.pop(0), number
            texts = [
                " ".join(random.choices(_DIGITS, k=random.randint(low, high)))
                for _ in range(utterances // voices + (k < utterances % voices))
            ]
            readers.append(
                Reader(
                    id=101 + number,
                    split=split,
                    sex=sex,
                    voice=espeak.Voice(
                        _ACCENTS[place % len(_ACCENTS)],
                        variant,
                        pitch=random.randint(35, 65),
                        range=random.randint(30, 70),
                    ),
                    words_per_minute=random.randint(150, 210),
                    loudness=0.06 + 0.06 * random.random(),
                    texts=texts,
                    seed=params.seed,
                )
            )
    return readers


def _in_children(readers: list[Reader], folder: Path, noise: float, processes: int) -> None:
    """Record each reader in a freshly forked process (see espeak.Speaker), several at a time."""
    context = multiprocessing.get_context("fork")
    waiting: Iterator[BaseProcess] = (
        context.Process(target=_child, args=(reader, folder, noise)) for reader in readers
    )
    running: list[BaseProcess] = []
    try:
        while True:
            for process in islice(waiting, processes - len(running)):
                process.start()
                running.append(process)
            if not running:
                return
            wait([process.sentinel for process in running])
            for process in [p for p in running if not p.is_alive()]:
                running.remove(process)
                if process.exitcode:
                    raise UserError(
                        f"a voice could not be recorded (exit code {process.exitcode}); see above"
                    )
    finally:
        for process in running:
            process.kill()
            process.join()


def _child(reader: Reader, folder: Path, noise: float) -> None:
    try:
        _record(reader, folder, noise)
    except UserError as error:
        sys.exit(f"error: {error}")  # prints to standard error; exit code 1


def _record(reader: Reader, folder: Path, noise: float) -> None:
    """Write the chapter of one reader."""
    chapter = folder / reader.split / str(reader.id) / "1"
    chapter.mkdir(parents=True)
    speaker = espeak.Speaker(reader.voice, reader.seed + 1)
    random = Random(f"spoken_digits {reader.seed} {reader.id}")
    lines = []
    for number, text in enumerate(reader.texts):
        name = f"{reader.chapter}-{number:04d}"
        said = speaker.say(text.lower(), reader.words_per_minute + random.randint(-15, 15))
        wave = _finish(_resample(said), reader.loudness, noise, f"{reader.seed} {name}")
        # level 0 predicts with integers; higher levels round differently on other processors
        soundfile.write(chapter / f"{name}.flac", wave, RATE, subtype="PCM_16", compression_level=0)
        lines.append(f"{name} {text}\n")
    (chapter / f"{reader.chapter}.trans.txt").write_text("".join(lines))


def _resample(samples: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    """Resample 22,050 Hz to 16,000 Hz; integer filter taps make it exact on every machine."""
    up = RATE // gcd(RATE, espeak.RATE)
    down = espeak.RATE // gcd(RATE, espeak.RATE)
    half = 10 * max(up, down)
    taps = np.round(firwin(2 * half + 1, 0.95 / max(up, down)) * up * 2**16)
    filtered = upfirdn(taps, samples.astype(np.float64), up, down) / 2**16
    delay = half // down
    return filtered[delay : delay + len(samples) * up // down]


def _finish(
    wave: npt.NDArray[np.float64], loudness: float, noise: float, seed: str
) -> npt.NDArray[np.int16]:
    """Trim silence, set the loudness and add noise; returns samples (S,) at 16 kHz."""
    margin = round(_MARGIN * RATE)
    wave = np.pad(wave, margin)  # some voices start immediately
    voiced = np.flatnonzero(np.abs(wave) > 0.02 * np.abs(wave).max())
    wave = wave[max(voiced[0] - margin, 0) : voiced[-1] + margin]
    gain = loudness / np.sqrt(np.mean(wave**2))
    wave = wave * min(gain, _PEAK / np.abs(wave).max()) + noise * _normal(len(wave), seed)
    return np.clip(np.round(wave * 2**15), -(2**15), 2**15 - 1).astype(np.int16)


def _normal(count: int, seed: str) -> npt.NDArray[np.float64]:
    """Approximate normal numbers by sums of twelve uniform ones: exact, unlike log and sqrt."""
    key = int.from_bytes(sha256(seed.encode()).digest()[:8], "little")
    words = np.random.PCG64(key).random_raw(3 * count).astype("<u8")
    return words.view("<u2").reshape(count, 12).sum(1, dtype=np.int64) / 2**16 - 6


def _speakers_table(readers: Iterable[Reader], folder: Path) -> Iterator[str]:
    yield "; Synthetic speech: every reader is a voice of espeak-ng\n"
    yield ";ID  |SEX| SUBSET           |MINUTES| NAME\n"
    for reader in readers:
        files = (folder / reader.split / str(reader.id)).glob("1/*.flac")
        minutes = sum(soundfile.info(str(f)).duration for f in files) / 60
        yield (
            f"{reader.id:<5}| {reader.sex} | {reader.split:<16} | {minutes:5.2f} |"
            f" {reader.voice.name}\n"
        )


def _write_lists(params: SpokenDigits, readers: list[Reader], folder: Path) -> None:
    """Write lists of utterances, balanced over the readers of train."""
    folder.mkdir()
    for size in params.labels:
        for k in range(params.lists):
            random = Random(f"spoken_digits {params.seed} labels {size} {k}")
            piles = [[f"{r.chapter}-{n:04d}" for n in range(len(r.texts))] for r in readers]
            random.shuffle(piles)
            for pile in piles:
                random.shuffle(pile)
            rounds = (pile[i] for i in range(max(map(len, piles))) for pile in piles if pile[i:])
            names = sorted(islice(rounds, size))
            (folder / f"labels-{size}.{k}.txt").write_text("".join(f"{n}\n" for n in names))

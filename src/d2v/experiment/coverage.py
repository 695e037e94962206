"""Words of the development transcripts that a lexicon lacks, counted before training starts."""

from collections import Counter
from pathlib import Path

from d2v.data.shards import Shards
from d2v.experiment.run import Run
from d2v.experiment.task_runs import FinetuneRun
from d2v.util.errors import UserError

SHOWN = 5  # words that are named


def lines(run: Run) -> list[str]:
    """One line on the words that beam search can never write, for a run that is decoded later.

    Empty for other runs, and if the lexicon is not prepared yet. Raises UserError if it has none of
    the words.
    """
    if not isinstance(run, FinetuneRun) or run.params.decode is None:
        return []
    task, prepared = run.params, Path(run.experiment.prepared)
    assert task.decode is not None
    lexicon = prepared / task.decode.lm / "lexicon.txt"
    if not lexicon.is_file():
        return []
    known = {line.split()[0] for line in lexicon.read_text("utf-8").splitlines() if line.strip()}
    words: Counter[str] = Counter()
    for split in task.dev_split.split("+"):
        for text in Shards(prepared / task.data / split).texts("text"):
            words.update(text.split())
    return _told(lexicon, task.dev_split, words, known)


def _told(lexicon: Path, split: str, words: Counter[str], known: set[str]) -> list[str]:
    absent = Counter({word: count for word, count in words.items() if word not in known})
    total, lost = words.total(), absent.total()
    if total and lost == total:
        raise UserError(
            f"{lexicon}: contains none of the words of {split}"
            f" ({', '.join(sorted(words)[:SHOWN])}, ...), so decoding cannot write a correct word;"
            " prepare a lexicon for this language"
        )
    if not lost:
        return [f"{lexicon}: contains all {total:,} words of {split}"]
    named = ", ".join(word for word, _ in absent.most_common(SHOWN))
    return [
        f"{lexicon}: lacks {lost:,} of the {total:,} words of {split} ({len(absent):,} different"
        f" ones, such as {named}), so the word error rate there is at least"
        f" {100 * lost / total:.2f} %"
    ]

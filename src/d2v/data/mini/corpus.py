"""The plain corpus of the miniature, without any overlap with held-out text."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from d2v.data.mini.sources import Bible, Review, words
from d2v.data.shards import written_whole

OVERLAP = 8  # consecutive words that the corpus may not share with held-out text


class Guard:
    """Detects text that shares OVERLAP consecutive words with held-out texts.

    If a held-out text is shorter, it counts as shared when all its words occur in a row.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._grams: dict[int, set[tuple[str, ...]]] = defaultdict(set)
        for text in texts:
            sequence = words(text)
            length = min(len(sequence), OVERLAP)
            if length:
                self._grams[length].update(_grams(sequence, length))

    def meets(self, text: str) -> bool:
        """Whether a text shares that many consecutive words with a held-out text."""
        sequence = words(text)
        return any(
            gram in known
            for length, known in self._grams.items()
            for gram in _grams(sequence, length)
        )


def _grams(sequence: list[str], length: int) -> Iterator[tuple[str, ...]]:
    return zip(*(sequence[i:] for i in range(length)), strict=False)


def write_corpus(web: Bible, reviews: list[Review], guard: Guard, out: Path) -> None:
    """Write web.txt (one document per chapter) and reviews.txt (per film), one text per line.

    Empty lines separate documents. A chapter is also split where a verse is left out, so that
    consecutive lines of a document are consecutive in the book.
    """
    with written_whole(out) as folder:
        _write_documents(folder / "web.txt", _chapters(web, guard))
        _write_documents(folder / "reviews.txt", _films(reviews, guard))


def _chapters(web: Bible, guard: Guard) -> Iterator[list[str]]:
    document: list[str] = []
    before = 0
    for verse in sorted(v for v, text in web.items() if text and not guard.meets(text)):
        if document and verse != before + 1:
            yield document
            document = []
        document.append(web[verse])
        before = verse
    if document:
        yield document


def _films(reviews: list[Review], guard: Guard) -> list[list[str]]:
    films: dict[str, list[str]] = defaultdict(list)
    for review in reviews:
        if not guard.meets(review.text):
            films[review.film].append(review.text)
    return list(films.values())


def _write_documents(path: Path, documents: Iterable[list[str]]) -> None:
    text = "\n".join("".join(f"{line}\n" for line in document) for document in documents)
    path.write_text(text, encoding="utf-8")

"""The plain corpus of the miniature, kept clear of everything that is held out."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from d2v.data.mini.sources import Bible, Review, words
from d2v.data.shards import written_whole

OVERLAP = 8  # words in a row that the corpus may not share with held-out text


class Guard:
    """Finds text that shares OVERLAP words in a row with held-out texts (all, of shorter ones)."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._grams: dict[int, set[tuple[str, ...]]] = defaultdict(set)
        for text in texts:
            sequence = words(text)
            length = min(len(sequence), OVERLAP)
            if length:
                self._grams[length].update(_grams(sequence, length))

    def meets(self, text: str) -> bool:
        """Whether the text shares words in a row with one that is held out."""
        sequence = words(text)
        return any(
            gram in known
            for length, known in self._grams.items()
            for gram in _grams(sequence, length)
        )


def _grams(sequence: list[str], length: int) -> Iterator[tuple[str, ...]]:
    return zip(*(sequence[i:] for i in range(length)), strict=False)


def write_corpus(web: Bible, reviews: list[Review], guard: Guard, out: Path) -> None:
    """Write web.txt (documents: chapters) and reviews.txt (films), one text a line.

    Documents are parted by an empty line, and chapters also where a verse is left out, so that
    what follows in the file also follows in the book.
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

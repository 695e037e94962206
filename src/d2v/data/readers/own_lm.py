"""Lexicon and n-gram model of the transcripts of a prepared set, in its own letters."""

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2v.data.letters import letters_of, spell
from d2v.data.ngram import report_known, unigrams, write_arpa
from d2v.data.shards import Shards, read_meta, write_meta, written_whole
from d2v.util.errors import UserError


def prepare_lm_of_set(prepared: Path, out: Path, order: int, split: str = "train") -> None:
    """Write lm.arpa, lexicon.txt and tokens.txt for beam search, from the transcripts of a split.

    Words of the other splits that the lexicon lacks are counted and recorded in meta.json: a beam
    search never writes them, so each costs at least one error.

    Raises UserError for a set without transcripts or without the split.
    """
    meta = read_meta(prepared)
    if "splits" not in meta:
        raise UserError(f"{prepared}: not a set of recordings with transcripts")
    if split not in meta["splits"]:
        raise UserError(f"{prepared}: has no split {split}, only {', '.join(meta['splits'])}")
    texts = {name: _texts(prepared / name) for name in meta["splits"]}
    words = sorted({word for text in texts[split] for word in text.split()})
    unseen = {name: _unseen(found, words) for name, found in texts.items() if name != split}
    with written_whole(out) as temporary:
        write_arpa(texts[split], order, temporary / "lm.arpa")
        report_known(temporary / "lm.arpa", unigrams(temporary / "lm.arpa"), words)
        _write(temporary / "lexicon.txt", [f"{word}\t{spell(word)}" for word in words])
        _write(temporary / "tokens.txt", list(letters_of(meta)))
        write_meta(
            temporary,
            dataset=out.name,
            kind="lm",
            source=(prepared / split).as_posix(),
            order=order,
            sentences=len(texts[split]),
            words=len(words),
            unseen_words=unseen,
        )
    _tell(unseen)


def _texts(folder: Path) -> list[str]:
    shards = Shards(folder)
    if "text" not in shards.columns:
        raise UserError(f"{folder}: has no transcripts, which a language model needs")
    return list(shards.texts("text"))


def _unseen(texts: list[str], words: list[str]) -> Mapping[str, Any]:
    """Count the words that are not in the lexicon; `share` is the word error rate they cost."""
    known = frozenset(words)
    all_words = [word for text in texts for word in text.split()]
    odd = Counter(word for word in all_words if word not in known)
    count = sum(odd.values())
    return {"words": count, "of": len(all_words), "share": round(count / len(all_words), 6)}


def _tell(unseen: Mapping[str, Mapping[str, Any]]) -> None:
    """Report the words of other splits that the lexicon lacks."""
    for split, found in unseen.items():
        if found["words"]:
            print(
                f"warning: {split}: {found['words']:,} of {found['of']:,} words are not in the"
                f" lexicon; a beam search cannot write them, so its word error rate there is at"
                f" least {100 * found['share']:.1f} %",
                file=sys.stderr,
            )


def _write(path: Path, rows: list[str]) -> None:
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")

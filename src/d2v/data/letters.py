"""The letters of CTC models: fairseq's four special symbols, then its dict.ltr.txt."""

import itertools

# index = id; "<s>" is the CTC blank, "|" ends every word
LETTERS = ("<s>", "<pad>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")
BLANK, PADDING = 0, 1

_IDS = {letter: index for index, letter in enumerate(LETTERS)}
ALPHABET = frozenset(letter for letter in LETTERS if len(letter) == 1 and letter != "|")


def encode(text: str) -> list[int]:
    """Encode an upper-case transcript, with "|" after every word (libri_labels.py, wav2vec 2.0).

    Raises KeyError for a letter outside the alphabet; readers check transcripts beforehand.
    """
    return [_IDS[letter] for word in text.split() for letter in (*word, "|")]


def frames_needed(text: str) -> int:
    """Frames that CTC needs for a transcript: one per letter, and one between equal letters."""
    letters = encode(text)
    return len(letters) + sum(a == b for a, b in itertools.pairwise(letters))


def spell(word: str) -> str:
    """Spell a word as in a decoder's lexicon: its letters and "|", separated by spaces."""
    return " ".join((*word, "|"))

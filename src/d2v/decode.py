"""From the letters' log-probabilities of a CTC model to words: greedily, or by beam search."""

import contextlib
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from d2v import params
from d2v.data.letters import LETTERS
from d2v.errors import UserError

BLANK, SILENCE, UNKNOWN = "<s>", "|", "<unk>"
NEVER_WRITTEN = frozenset({BLANK, "<pad>", "</s>", UNKNOWN})


def greedy(log_probs: Tensor) -> str:
    """Words of the best path through (T, letters): repeats merged, blanks dropped."""
    best = (LETTERS[i] for i, _ in groupby(log_probs.argmax(-1).tolist()))
    text = "".join(letter for letter in best if letter not in NEVER_WRITTEN)
    return " ".join(text.replace(SILENCE, " ").split())


class BeamSearch:
    """Beam search over a lexicon with an n-gram language model (flashlight; paper 4.2).

    `lm` is a folder with lexicon.txt (a word and its letters a line, `ONE  O N E |`), lm.arpa and
    tokens.txt (a letter a line, in the order of the model's outputs). Raises UserError when a file
    is missing, the letters are not the model's, or flashlight-text is not installed.
    """

    def __init__(self, lm: str | Path, decode: params.Decode) -> None:
        folder = Path(lm)
        for name in ("lexicon.txt", "lm.arpa", "tokens.txt"):
            if not (folder / name).is_file():
                raise UserError(f"{folder / name}: no such file; run `dvc repro` to make it")
        tokens = (folder / "tokens.txt").read_text(encoding="utf-8").split()
        if tokens != list(LETTERS):
            raise UserError(f"{folder / 'tokens.txt'}: not the letters that models predict here")
        try:
            from torchaudio.models.decoder import ctc_decoder
        except (ImportError, RuntimeError):  # torchaudio raises the latter
            raise UserError(
                "beam search needs flashlight-text: pip install 'd2v[decode]'"
            ) from None
        with _quiet():
            self._search = ctc_decoder(
                lexicon=str(folder / "lexicon.txt"),
                tokens=tokens,
                lm=str(folder / "lm.arpa"),
                beam_size=decode.beam,
                lm_weight=decode.lm_weight,
                word_score=decode.word_score,
                sil_score=decode.silence_score,
                blank_token=BLANK,
                sil_token=SILENCE,
                unk_word=UNKNOWN,
            )

    def __call__(self, log_probs: Tensor) -> str:
        """Words of the best hypothesis of (T, letters)."""
        if not len(log_probs):
            return ""
        emissions = log_probs.to("cpu", torch.float32).contiguous()
        hypotheses = self._search(emissions[None])[0]
        return " ".join(hypotheses[0].words) if hypotheses else ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without KenLM's progress bar, which it draws on file descriptor 2; its errors are raised."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)

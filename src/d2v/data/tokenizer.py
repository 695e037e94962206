"""Sub-word tokens: a sentencepiece BPE model, with fairseq's special ids and <mask> as the last."""

import io
from pathlib import Path

import numpy as np
import sentencepiece

from d2v.data.documents import read_documents
from d2v.data.shards import read_meta, write_meta, written_whole
from d2v.errors import UserError

START, PADDING, END, UNKNOWN = range(4)  # <s> <pad> </s> <unk>; <mask> is the last id
SPECIAL = 5
MODEL = "tokenizer.model"


class Tokenizer:
    """A trained model; `size` counts <mask>, which is not in the model: no text encodes to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta = read_meta(folder)
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(folder / MODEL))
        except (OSError, RuntimeError):
            raise UserError(
                f"{folder}: no readable {MODEL}; make it with `d2v prepare tokenizer`"
            ) from None
        self.size = int(self._model.vocab_size()) + 1
        # little-endian, as wide as needed
        self.dtype = np.dtype("<u2" if self.size <= 2**16 else "<u4")

    def __repr__(self) -> str:
        return f"Tokenizer({self.meta['sha256']})"

    def encode(self, text: str) -> list[int]:
        """Ids of a text, lower-cased, without <s> and </s>."""
        return list(self._model.encode(text))

    def decode(self, ids: list[int]) -> str:
        """Text of ids, as normalised."""
        return str(self._model.decode(ids))


def prepare_tokenizer(source: Path, out: Path, vocab_size: int) -> None:
    """Train a BPE model with `vocab_size` ids, the special ones included, on *.txt of a folder.

    Texts are NFKC-normalised and lower-cased. One thread and no shuffling: equal text gives equal
    bytes. Raises UserError naming a line that is not UTF-8, or if the size does not fit the text.
    """
    if vocab_size <= SPECIAL:
        raise UserError(f"--vocab-size {vocab_size}: {SPECIAL} ids are special; give more")
    sentences = [line for document in read_documents(source) for line in document.sentences]
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size - 1,
            character_coverage=1.0,
            normalization_rule_name="nmt_nfkc_cf",
            bos_id=START,
            pad_id=PADDING,
            eos_id=END,
            unk_id=UNKNOWN,
            num_threads=1,
            shuffle_input_sentence=False,
            max_sentence_length=2**20,  # bytes; longer lines would be dropped in silence
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"{source}: cannot train {vocab_size} tokens on this text: {reason}"
        ) from None
    with written_whole(out) as temporary:
        (temporary / MODEL).write_bytes(model.getvalue())
        write_meta(
            temporary,
            dataset=out.name,
            kind="tokenizer",
            source=source.as_posix(),
            vocab_size=vocab_size,
            sentences=len(sentences),
        )

"""Token sequences for training: corpus blocks with token masks, and labelled texts (paper 4.3)."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from d2v import params
from d2v.data.examples import Batch, Example, Examples, Place, Source, hiding, removing
from d2v.data.files import Files, Prepared, Reading
from d2v.data.given import ids_of
from d2v.data.layout import lines
from d2v.data.record import pieces_hash, tokenizer_files
from d2v.data.shards import read_meta
from d2v.data.speech import padded
from d2v.data.tokenizer import END, PADDING, SPECIAL, START
from d2v.model.exact_masks import copied, removed_masks
from d2v.model.masking import MASKED, RANDOM, Key, rng, token_masks
from d2v.util.errors import UserError


class _Tokens(Examples):
    """Rows of token ids, collated into padded batches; with a `mask`, also into masked ones."""

    def __init__(
        self,
        source: Source,
        view: params.TokenAugment,
        encoder: params.TokenEncoder,
        mask: params.TokenMask | params.RandomMask | None = None,
        copies: int = 1,
    ) -> None:
        super().__init__(source)
        self.size, self.mask, self.most = encoder.vocab_size, mask, view.max_tokens
        self.copies = copies
        if self.meta["vocab_size"] != self.size:
            raise UserError(
                f"{source.prepared}: {self.meta['vocab_size']} tokens, but encoder.vocab_size is"
                f" {self.size}"
            )
        self.dtype = np.dtype(self.meta["dtype"])
        self.counts = self.shards.numbers("length") // self.dtype.itemsize  # tokens per row

    def collate(self, examples: list[Example]) -> Batch:
        """`tokens` (B, T) int64, padded with 1; with masking also `masked_tokens` and `hiding`.

        If hidden tokens are removed, it is `removing` of all copies (B * copies, T).
        """
        lengths = np.array([len(e["tokens"]) for e in examples])
        tokens = np.full((len(examples), lengths.max()), PADDING, np.int64)
        for target, example in zip(tokens, examples, strict=True):
            target[: len(example["tokens"])] = example["tokens"]
        batch: Batch = {"ids": [e["id"] for e in examples], "tokens": torch.from_numpy(tokens)}
        if isinstance(self.mask, params.RandomMask):
            keys = copied(self.keys(examples), self.copies)
            batch |= removing(removed_masks(self.mask, np.repeat(lengths, self.copies), keys))
        elif self.mask is not None:
            keys = self.keys(examples)
            _, kind = token_masks(self.mask, lengths, keys)
            masked = np.where(kind == MASKED, self.size - 1, tokens)
            if self.mask.random_prob:
                masked = np.where(kind == RANDOM, self._random(keys, tokens.shape[1]), masked)
            batch["masked_tokens"] = torch.from_numpy(masked)
            batch |= hiding(kind == MASKED)
        return batch

    def _random(self, keys: list[Key], length: int) -> np.ndarray:
        """Random ordinary tokens (B, T); each row depends only on its key."""
        return np.stack([rng(*key).integers(SPECIAL - 1, self.size - 1, length) for key in keys])

    def _ids(self, row: int) -> np.ndarray:
        return np.frombuffer(self.shards.payload(row), self.dtype)


class Blocks(_Tokens):
    """Blocks of a prepared corpus, which start with <s> and have </s> after every sentence."""

    kinds = ("corpus",)

    def __init__(
        self,
        source: Source,
        view: params.TokenAugment,
        encoder: params.TokenEncoder,
        mask: params.TokenMask | params.RandomMask | None = None,
        copies: int = 1,
    ) -> None:
        super().__init__(source, view, encoder, mask, copies)
        if self.meta["block"] > self.most:
            raise UserError(
                f"{source.prepared}: blocks of {self.meta['block']} tokens, but view.max_tokens is"
                f" {self.most}; prepare the corpus with --block {self.most}"
            )

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Number of tokens in each block (N,)."""
        return self.counts[self.rows]

    def __getitem__(self, place: Place) -> Example:
        """Return the token ids of one block."""
        row = int(self.rows[place[1]])
        return {"place": place, "id": self.ids[place[1]], "tokens": self._ids(row)}


class Sentences(_Tokens):
    """Sentences or pairs of a prepared GLUE task: <s> a </s>, or <s> a </s> </s> b </s> (RoBERTa).

    An example with more than view.max_tokens tokens is truncated at the end of its longer text.
    """

    kinds = ("glue",)

    def __init__(
        self,
        source: Source,
        view: params.TokenAugment,
        encoder: params.TokenEncoder,
        task: params.Classify | params.Regress,
    ) -> None:
        super().__init__(source, view, encoder)
        classes = self.meta["classes"]
        for split in self.splits:
            if not self.meta["splits"][split]["labelled"]:
                raise UserError(f"{source.prepared}: the split {split!r} has no labels")
        if (classes is None) != isinstance(task, params.Regress):
            kind = "numbers" if classes is None else "classes"
            raise UserError(
                f"{source.prepared}: labels are {kind}, which task.kind {task.kind} does not accept"
            )
        if isinstance(task, params.Classify) and task.classes != len(classes):
            raise UserError(
                f"{source.prepared}: {len(classes)} classes, but task.classes is {task.classes}"
            )
        self.pairs = bool(self.meta["pairs"])
        self.labels, self.first = self.shards.numbers("label"), self.shards.numbers("first")
        self.label_type = torch.int64 if classes else torch.float32

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Tokens per example (N,), including boundary tokens, at most view.max_tokens."""
        whole = self.counts[self.rows] + (4 if self.pairs else 2)
        return np.minimum(whole, self.most)

    def __getitem__(self, place: Place) -> Example:
        """Return the token ids, including boundary tokens, and the label."""
        row = int(self.rows[place[1]])
        ids, first = self._ids(row).tolist(), int(self.first[row])
        tokens = join(ids[:first], ids[first:] if self.pairs else None, self.most)
        return {
            "place": place,
            "id": self.ids[place[1]],
            "tokens": tokens,
            "label": self.labels[row],
        }

    def collate(self, examples: list[Example]) -> Batch:
        """`tokens` (B, T) and `labels` (B,), which are int64 classes or float32 numbers."""
        labels = [e["label"].item() for e in examples]
        return super().collate(examples) | {"labels": torch.tensor(labels, dtype=self.label_type)}


def join(a: list[int], b: list[int] | None, most: int) -> list[int]:
    """Join one text or two with <s> and </s> to at most `most` ids, truncating the longer first."""
    if b is None:
        return [START, *a[: most - 2], END]
    room = most - 4
    keep_a = min(len(a), max(room - len(b), (room + 1) // 2))
    keep_b = min(len(b), room - keep_a)
    return [START, *a[:keep_a], END, END, *b[:keep_b], END]


def dataset(
    source: Source,
    view: params.TokenAugment,
    encoder: params.TokenEncoder,
    mask: params.Mask | None,
    task: params.Task | None,
    copies: int,
) -> Examples | None:
    """The data set for a mask and a task; None if there is none for them."""
    match mask, task:
        case (None | params.TokenMask() | params.RandomMask()) as choice, None:
            return Blocks(source, view, encoder, choice, copies)
        case None, (params.Classify() | params.Regress()) as labelled:
            return Sentences(source, view, encoder, labelled)
    return None


# --- inputs from files, and their record ------------------------------------------------------


# an argument that starts or ends like this is taken for a file name, not for a text
STARTS = ("/", "./", "../", "~/")
ENDS = (
    *(
        ".txt",
        ".text",
        ".tsv",
        ".csv",
        ".json",
        ".jsonl",
        ".gz",
        ".zip",
        ".tar",
        ".md",
        ".xml",
        ".html",
    ),
    *(".wav", ".flac", ".mp3", ".ogg", ".jpg", ".jpeg", ".png", ".gif", ".webp", ".tif", ".tiff"),
    *(".pdf", ".doc", ".docx", ".npy", ".npz", ".pt", ".pth", ".safetensors", ".yaml", ".yml"),
)


def inputs_of(prepared: Prepared) -> params.TokenInput:
    """Record of a prepared set of texts."""
    files = tokenizer_files(prepared.folder, prepared.meta.get("tokenizer"))
    return params.TokenInput(
        max_tokens=prepared.view["max_tokens"],
        tokenizer=files[0] if files else None,
        sha256=prepared.meta.get("tokenizer"),
        pieces=pieces_hash(*files) if files else None,
        classes=prepared.classes,
    )


class Texts(Files):
    """Texts, or lines of text files, as token ids (T,)."""

    portion = 4096

    def __init__(self, model: Reading, how: params.TokenInput) -> None:
        self.model, self.how = model, how

    def expanded(self, item: str | Path) -> list[tuple[str, str]]:
        """The name and the text of each non-blank line of a text file, or of the text `item`."""
        if not isinstance(item, Path) and not os.path.isfile(item):
            _check_text(item)
            return [(item, item)]
        rows = [(f"{item}:{n}", line) for n, line in lines(Path(item)) if line.strip()]
        if not rows:
            raise UserError(f"{item}: contains no text")
        return rows

    def read(self, content: Any, name: str) -> np.ndarray:
        """Return the token ids of a text or a tab-separated pair, with boundary tokens.

        A pair may also be a tuple; arrays and tensors are taken as ids.
        """
        encoder: params.TokenEncoder = self.model.params.encoder  # type: ignore[assignment]
        known = ids_of(content, encoder.vocab_size, name)
        if known is not None:
            _check_ids(known, encoder, name)
            return known
        if isinstance(content, str):
            content = content.split("\t")
        if not isinstance(content, tuple | list):
            raise UserError(f"{name}: {type(content).__name__} cannot be a text")
        if len(content) > 2:
            raise UserError(
                f"{name}: {len(content)} columns separated by tabs; give a text, or two texts with"
                " one tab between them"
            )
        a, *rest = [self._encoded(str(text), name) for text in content]
        return np.array(join(a, rest[0] if rest else None, self.how.max_tokens), np.int64)

    def _encoded(self, text: str, name: str) -> list[int]:
        """Ids of a text; raises UserError for bytes of the command line that are not UTF-8."""
        try:
            text.encode()
        except UnicodeEncodeError:
            shown = name.encode(errors="backslashreplace").decode()
            raise UserError(f"{shown}: not UTF-8; write the text in UTF-8") from None
        return list(self.model.tokenizer(text))

    def batch(self, values: list[np.ndarray]) -> dict[str, Tensor]:
        """`tokens` (B, T), padded."""
        return {"tokens": torch.from_numpy(padded(values, PADDING, np.int64)[0])}


def _check_ids(ids: np.ndarray, encoder: params.TokenEncoder, name: str) -> None:
    """Raise UserError for more ids than the model has positions, and for padding among them."""
    if encoder.absolute_positions and len(ids) > encoder.max_positions:
        raise UserError(
            f"{name}: {len(ids):,} token ids, but the model has {encoder.max_positions:,}"
            " positions; cut them"
        )
    if PADDING in ids:
        raise UserError(f"{name}: token id {PADDING} is padding, which is not read; leave it out")


def _check_text(item: str) -> None:
    """Raise UserError for a text that is empty or looks like a file name."""
    if not item.strip():
        raise UserError("an empty text among the inputs; give a text or the name of a file")
    if item == "-":
        raise UserError("-: standard input is not read; name a file, or give texts")
    if os.path.isdir(item):
        raise UserError(f"{item}: a folder; name text files, or give texts")
    path_like = os.sep in item and not any(map(str.isspace, item))
    if path_like or item.startswith(STARTS) or item.rstrip().lower().endswith(ENDS):
        raise UserError(
            f"{item}: no such file; if it is a text, write it into a file and name that file"
        )


def labelled(source: Source, encoder: params.TokenEncoder) -> tuple[Sentences, params.TokenInput]:
    """Sentences of a prepared set, as long as the encoder can process, and their record."""
    folder, meta = source.prepared, read_meta(source.prepared)
    view = params.TokenAugment(kind="text", max_tokens=encoder.max_positions)
    count = len(meta.get("classes") or ())
    if count < 2:
        raise UserError(f"{folder}: its labels are no classes, which probes need")
    task = params.Classify(kind="classify", classes=count, pool="mean")
    known = Prepared(folder.parent, meta, view.model_dump(mode="json"), None)
    return Sentences(source, view, encoder, task), inputs_of(known)

"""GLUE's files in their official shape, a few rows each."""

from pathlib import Path

from small_sets import SENTENCES, write_lines

from d2v.data.readers.glue_tasks import TASKS

S = SENTENCES


ROWS = 24


# columns as in the official files
MNLI = [
    "index",
    "promptID",
    "pairID",
    "genre",
    "sentence1_binary_parse",
    "sentence2_binary_parse",
    "sentence1_parse",
    "sentence2_parse",
    "sentence1",
    "sentence2",
]


STSB = [
    "index",
    "genre",
    "filename",
    "year",
    "old_index",
    "source1",
    "source2",
    "sentence1",
    "sentence2",
]


MRPC = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]


LABELLED: dict[str, list[str]] = {
    "SST-2": ["sentence", "label"],
    "CoLA": ["source", "label", "mark", "sentence"],
    "MRPC": MRPC,
    "RTE": ["index", "sentence1", "sentence2", "label"],
    "STS-B": [*STSB, "score"],
    "QNLI": ["index", "question", "sentence", "label"],
    "QQP": ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
    "MNLI": [*MNLI, "label1", "gold_label"],
}


UNLABELLED: dict[str, list[str]] = {
    "SST-2": ["index", "sentence"],
    "CoLA": ["index", "sentence"],
    "MRPC": ["index", *MRPC[1:]],
    "RTE": ["index", "sentence1", "sentence2"],
    "STS-B": STSB,
    "QNLI": ["index", "question", "sentence"],
    "QQP": ["id", "question1", "question2"],
    "MNLI": MNLI,
}


def rows(task: str, columns: list[str], count: int = ROWS) -> list[str]:
    """Lines of a file: texts cycle through SENTENCES, labels through the classes."""
    known = TASKS[task]
    made = []
    for n in range(count):
        cells = dict.fromkeys(columns, f"x{n}") | {"#1 ID": f"{n}", "#2 ID": f"{n + 50}"}
        for place, text in enumerate(known.texts):
            cells[text] = f'"{S[(n + 3 * place) % 8]} '  # an open quotation mark, and a blank
        classes = known.classes
        cells[known.label] = classes[n % len(classes)] if classes else f"{n % 6}.000"
        made.append("\t".join(cells[column] for column in columns))
    return made


def folder(root: Path, task: str) -> Path:
    """All files of a task."""
    for split in TASKS[task].splits:
        test = split.startswith("test")
        columns = (UNLABELLED if test else LABELLED)[task]
        if task == "MNLI" and split.startswith("dev"):
            columns = [*MNLI, *(f"label{n}" for n in range(1, 6)), "gold_label"]
        header = [] if task == "CoLA" and not test else ["\t".join(columns)]
        write_lines(root / f"{split}.tsv", *header, *rows(task, columns))
    return root

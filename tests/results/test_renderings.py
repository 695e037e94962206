"""Tables as LaTeX and HTML, of the miniature and of a filled-in mock of the paper's experiment."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import mock_paper
import pytest

from d2v import params
from d2v.results import collect, html, latex, tables
from d2v.results.grid import Document, Entry, Grid, Head, Row, Section
from d2v.results.layout import document
from d2v.results.markdown import markdown

ROOT = Path(__file__).parents[2]
REPORTED = ROOT / "params" / "reported.csv"


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of the mock."""
    results = tmp_path_factory.mktemp("paper")
    tables.build(mock_paper.fill("paper", results), results, REPORTED)
    return results / "tables"


def test_the_three_tables_of_the_mock_explain_themselves(paper: Path) -> None:
    images = (paper / "imagenet.md").read_text()
    assert "Top-1 accuracy in % ↑ on ImageNet-1K validation images" in images
    assert "ViT-B<br>accuracy, % ↑ | ViT-L<br>accuracy, % ↑ |" in images
    assert "| *Single models* |" in images
    ours = next(line for line in images.split("\n") if line.startswith("| **data2vec (this run)"))
    assert re.search(r"\d\d\.\d", ours)
    assert re.search(
        r"\| gap to the reported \| [+−]\d\.\d .*\((within|better|worse|one run)", images
    )
    speech = (paper / "librispeech.md").read_text()
    assert "pre-training data, LM" in speech
    assert "WER, lexicon + n-gram, % ↓" in speech
    for heading in ("10 min", "1 h", "10 h", "100 h", "960 h"):
        assert heading in speech
    glue = (paper / "glue.md").read_text()
    assert "MNLI being the mean of its two columns" in glue
    assert "Matthews, ×100 ↑" in glue
    for text in (images, speech, glue):
        assert "Another scale" not in text  # that is the miniature's word
        assert "## Missing runs" not in text  # all has run
        assert "Bold: best mean of its block and column" in text
        assert "Source of every value: arXiv:2202.03555v3" in text


def test_the_best_of_a_block_is_marked_once_and_never_across_scales(paper: Path) -> None:
    page = (paper / "imagenet.html").read_text()
    blocks = page.split("<tbody>")[1:]
    assert len(blocks) == 2
    for block in blocks:
        rows = re.findall(r"<tr class=\"(?:reported|measured)\">.*?</tr>", block)
        for column in range(2):
            cells = [re.findall(r"<td[^>]*>", row)[column] for row in rows]
            values = {cell: float(v) for cell in cells for v in re.findall(r'value="(.*?)"', cell)}
            best = [value for cell, value in values.items() if "best" in cell]
            assert set(best) == {max(values.values())}


def test_hover_names_sources_and_runs(paper: Path) -> None:
    page = (paper / "imagenet.html").read_text()
    assert 'title="arXiv:2202.03555v3, Table 1"' in page
    assert "finetune/" in re.findall(r'title="(mean [^"]*)"', page)[0]


def test_words_are_escaped() -> None:
    assert html.inline("a < **b & c**, `x_1`") == (
        "a &lt; <strong>b &amp; c</strong>, <code>x_1</code>"
    )
    assert latex.inline("50 % & **a_b**, `x`, ±") == (
        r"50 \% \& \textbf{a\_b}, \texttt{x}, \ensuremath{\pm}"
    )
    assert latex.inline("2 * 3 * 4") == "2 * 3 * 4"


def test_words_in_a_markdown_cell_end_no_cell() -> None:
    heads = [Head("dev | test"), Head("two\nlines", "%")]
    grid = Grid(heads, [Row("measured", "a|b", [Entry("1"), Entry("2", best=True)])])
    text = markdown(Document("t", "t", "", [Section(grid=grid)]))
    assert r"|  | dev \| test | two lines<br>% |" in text.split("\n")
    assert r"| a\|b | 1 | **2** |" in text.split("\n")


def test_every_reported_row_cites_an_entry() -> None:
    frame = collect.read_reported(REPORTED)
    text = REPORTED.with_name("references.bib").read_text()
    entries = dict(re.findall(r"^@\w+\{(\w+),\n(.*?)^\}", text, flags=re.M | re.S))
    keys = {key for cited in frame["citation"] for key in cited.split(" ")}
    assert keys == set(entries)
    for key, body in entries.items():
        fields = dict(re.findall(r"^  (\w+)\s*= \{(.*?)\},?$", body, flags=re.M))
        assert {"author", "title", "year", "note"} <= set(fields), key
        assert re.fullmatch(r"arXiv:\d{4}\.\d{5}", fields["note"]), key
        assert all(line.count("{") == line.count("}") for line in body.splitlines()), key


@pytest.mark.slow
@pytest.mark.latex
@pytest.mark.parametrize("name", ["paper", "ablations", "mini"])
def test_latex_compiles(name: str, tmp_path: Path) -> None:
    if not shutil.which("pdflatex"):
        assert os.environ.get("D2V_LATEX") != "required", "pdflatex is missing"
        pytest.skip("needs pdflatex: apt-get install texlive-latex-recommended")
    experiment = mock_paper.fill(name, tmp_path)
    tables.build(experiment, tmp_path, REPORTED)
    folder = tmp_path / "tables"
    for command in ("pdflatex", "bibtex", "pdflatex", "pdflatex"):
        words = [] if command == "bibtex" else ["-interaction=nonstopmode", "-halt-on-error"]
        done = subprocess.run(
            [command, *words, "tables"], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:]
    assert (folder / "tables.pdf").stat().st_size > 20_000
    log = (folder / "tables.log").read_text(errors="replace")
    assert "undefined" not in log.split("\n", 1)[1]
    assert "Missing character" not in log


def test_the_mock_fills_every_cell(tmp_path: Path) -> None:
    experiment = mock_paper.fill("ablations", tmp_path)
    for table in collect.collect(experiment, tmp_path, REPORTED):
        assert not table.missing
        assert document(table).sections
    assert isinstance(experiment, params.Experiment)

"""The results page as a file: nothing outside it is needed, everything can be read without eyes."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import mock_paper
import pytest

from d2v import params
from d2v.experiment import runs
from d2v.results import html, tables
from d2v.results.page import build, records

ROOT = Path(__file__).parents[2]
REPORTED = ROOT / "params" / "reported.csv"
VOID = {"meta", "link", "br", "input", "img", "line", "circle", "rect", "path", "image"}


class Page(HTMLParser):
    """Elements of a page in their order, each with its attributes and the elements around it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str], tuple[str, ...]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {k: v or "" for k, v in attrs}, tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {k: v or "" for k, v in attrs}, tuple(self.open)))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def all(self, *tags: str) -> list[dict[str, str]]:
        """Attributes of the elements of these names."""
        return [attributes for tag, attributes, _ in self.found if tag in tags]


@pytest.fixture(scope="module", params=["mini", pytest.param("paper", marks=pytest.mark.slow)])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment whose runs have a short log each."""
    folder = tmp_path_factory.mktemp(request.param)
    experiment = mock_paper.fill(request.param, folder)
    for run in runs.all_runs(experiment):
        log = folder / "work" / run.id / "log.jsonl"
        log.parent.mkdir(parents=True)
        log.write_text('{"step": 1, "loss": 2.0}\n{"step": 9, "loss": 1.0}\n')
    found = records.collect(experiment, folder, folder / "work")
    build.build(experiment, folder, found, tables.build(experiment, folder, REPORTED))
    return folder


@pytest.fixture(scope="module")
def page(made: Path) -> Page:
    return Page((made / "index.html").read_text())


def test_it_needs_no_other_file_and_no_network(made: Path, page: Page) -> None:
    assert not page.all("img", "iframe", "object", "embed", "base")
    assert all("src" not in script for script in page.all("script"))
    assert [link["href"] for link in page.all("link")] == ["data:,"]
    assert all(image["href"].startswith("data:") for image in page.all("image"))
    style = html.asset("style.css")
    assert "url(" not in style
    assert "@import" not in style
    assert not (made / "page").exists()


def test_charts_are_there_without_a_script(made: Path) -> None:
    text = (made / "index.html").read_text()
    still = re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert still.count('role="img"') == text.count('role="img"') >= 15
    scripts = "".join(re.findall(r"<script>(.*?)</script>", text, re.S))
    assert len(scripts) < 6000
    assert "createElementNS" not in scripts  # they draw nothing


def test_every_chart_is_an_image_that_says_what_it_shows(page: Page) -> None:
    charts = [a for tag, a, _ in page.found if tag == "svg" and a.get("aria-hidden") != "true"]
    assert charts
    for chart in charts:
        assert chart["role"] == "img"
        assert len(chart["aria-label"]) > 10
        assert "nan" not in chart["aria-label"].split()
    hidden = [around for tag, a, around in page.found if tag == "svg" and a not in charts]
    assert all(around[-1] == "li" for around in hidden)  # the marks of a key, with their words
    assert len(page.all("figcaption")) == len(page.all("figure"))


def test_headings_come_in_order_and_tables_have_captions(page: Page) -> None:
    levels = [int(tag[1]) for tag, _, _ in page.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    shown = page.all("table")
    assert len(page.all("caption")) == len(shown)
    assert all("scope" in head for head in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]
    assert all("aria-label" in box for box in page.all("div") if box.get("role") == "region")


def test_links_lead_somewhere(made: Path, page: Page) -> None:
    ids = [a["id"] for _, a, _ in page.found if "id" in a]
    assert len(ids) == len(set(ids))
    links = {a["href"] for a in page.all("a")}
    for link in links:
        if link.startswith("#"):
            assert link[1:] in ids
        elif not link.startswith("https://arxiv.org/abs/22"):  # data2vec, data2vec 2.0
            assert (made / link).is_file(), link
    assert "https://arxiv.org/abs/2202.03555v3" in links
    assert "tables/imagenet.csv" in links
    for path in made.glob("runs/*/*/*/*/metrics.json"):
        assert str(path.relative_to(made)) in links


def test_sources_of_a_table_alone_need_no_mouse(made: Path) -> None:
    alone = Page((made / "tables" / "imagenet.html").read_text())
    links = [a["href"] for tag, a, around in alone.found if tag == "a" and "details" in around]
    assert any(link.startswith("https://arxiv.org/abs/") for link in links)
    local = [link for link in links if link.endswith("metrics.json")]
    assert local
    assert all((made / "tables" / link).is_file() for link in local)


def test_a_value_shows_its_seeds_and_a_wer_axis_says_what_is_better(made: Path) -> None:
    if made.name.startswith("paper"):
        pytest.skip("its tasks have one seed, or several tasks a chart")
    text = (made / "index.html").read_text()
    chart = re.search(r'<figure id="librispeech-scores">.*?</figure>', text, re.S)
    assert chart is not None
    experiment = params.load(ROOT / "params" / "mini.yaml")
    seeds = len(experiment.finetune["spoken-digits"].seeds)
    for arm in ("scratch", "ours"):
        assert len(re.findall(f'class="mark {arm} seed"><title>', chart[0])) == seeds
        assert chart[0].count(f'class="whisker {arm}"') >= 1
    assert "WER in %, lower is better" in chart[0]
    assert "×100" not in chart[0]


# --- colours ----------------------------------------------------------------------------------


def schemes() -> list[dict[str, tuple[int, ...]]]:
    """The colours of the style sheet, light and dark."""
    blocks = re.findall(r":root \{(.*?)\}", html.asset("style.css"), re.S)
    assert len(blocks) == 2
    return [
        {
            name: tuple(bytes.fromhex(colour))
            for name, colour in re.findall(r"--([\w-]+): #(\w{6});", block)
        }
        for block in blocks
    ]


def contrast(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Ratio of two colours as WCAG 2 defines it."""

    def light(colour: tuple[int, ...]) -> float:
        parts = [c / 255 for c in colour]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((light(a), light(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast(scheme: int) -> None:
    colours = schemes()[scheme]
    for text in ("ink", "faint", "link", "good", "bad"):
        for paper in ("paper", "raised"):
            assert contrast(colours[text], colours[paper]) >= 4.5, (text, paper)
    for mark in ("ours", "ours-large", "scratch", "other", "hue1", "hue2", "hue3"):
        assert contrast(colours[mark], colours["paper"]) >= 3, mark
    hues = [colours[name] for name in colours if name not in ("paper", "raised", "line")]
    assert len(set(hues)) == len(hues)  # no two meanings share a colour

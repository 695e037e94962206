"""The results page: what it says, what it does without runs, and how it looks in a browser."""

import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import mock_paper
import pytest
from mock_logs import write_logs
from small_sets import corpus_folder, glue_folder
from test_accessible import contrast

from d2v import params
from d2v.cli import prepare
from d2v.data.sentences import sentences
from d2v.data.shards import Shards
from d2v.experiment import runs
from d2v.experiment.task_runs import FinetuneRun
from d2v.results import tables
from d2v.results.page import build, records

ROOT = Path(__file__).parents[2]
SOME_UNDEFINED = ((1, 0.5), (2, None), (3, 0.7))  # step, accuracy
REPORTED = ROOT / "params" / "reported.csv"


def make(experiment: params.Experiment, folder: Path) -> str:
    """The page of the runs in `folder`, with logs beside it."""
    shown = tables.build(experiment, folder, REPORTED)
    found = records.collect(experiment, folder, folder / "work")
    return build.build(experiment, folder, found, shown).read_text()


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> tuple[params.Experiment, Path]:
    folder = tmp_path_factory.mktemp("mini")
    experiment = mock_paper.fill("mini", folder)
    write_logs(experiment, folder)
    return experiment, folder


@pytest.mark.slow
def test_it_has_everything_and_is_the_same_bytes_again(
    mini: tuple[params.Experiment, Path],
) -> None:
    experiment, folder = mini
    text = make(experiment, folder)
    assert make(experiment, folder) == text
    total = len(runs.all_runs(experiment))
    kinds = "7 pre-training runs, 51 fine-tuning runs, 15 probe runs"
    assert f"{total} of {total} runs are finished ({kinds})." in text
    assert "<strong>Miniature</strong>" in text
    for place in ("imagenet", "librispeech", "glue", "curves", "cost", "runs"):
        assert f'<section id="{place}">' in text
    assert text.index("Does pre-training pay?") < text.index('<section id="imagenet">')
    for run in runs.all_runs(experiment):
        assert text.count(f"<summary>{run.id} ") == 1
    assert 'id="librispeech-by-amount-Base"' in text
    assert 'id="pretrain-vision-std"' in text
    for name, arm in (("vision", "data2vec"), ("vision-input", "input targets")):
        loss = text.split(f'id="pretrain-{name}-loss"')[1].split("Std of targets")[0]
        assert [a for a in ("data2vec", "input targets") if f" {a}</li>" in loss] == [arm]
    assert "digits: probe" not in text  # a probe has no steps
    assert "PFLOP" in text
    titles = [unescape(title) for title in re.findall(r"<h2>(.*?)</h2>", text)]
    assert len({title.split()[0] for title in titles}) > len(titles) / 2
    assert all(len(title) < 70 for title in titles)


def test_an_undefined_metric_is_said_and_breaks_its_curve(tmp_path: Path) -> None:
    experiment = mock_paper.fill("mini", tmp_path)
    path = tmp_path / "runs" / "finetune" / "digits" / "scratch" / "seed0"
    metrics = json.loads((path / "metrics.json").read_text())
    metrics["metrics"]["test"]["accuracy"] = None
    (path / "metrics.json").write_text(json.dumps(metrics))
    log = tmp_path / "work" / "finetune" / "digits" / "scratch" / "seed0" / "log.jsonl"
    log.parent.mkdir(parents=True)
    lines = [{"step": s, "loss": 1.0, "validation": {"accuracy": a}} for s, a in SOME_UNDEFINED]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = make(experiment, tmp_path)
    assert '<td class="undefined"' in text
    assert ">undefined</text>" in text  # in the place of its mark
    assert "from scratch: undefined." in text  # and in the chart's label
    assert "No verdict yet on MNIST digits, 100 labels." in text
    record = records.Record(FinetuneRun(experiment, "digits", 0), log=log)
    steps, curve = record.validations()["accuracy"]
    assert steps == [1, 2, 3]
    assert math.isnan(curve[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("paper", ["librispeech-by-amount-Large", "glue-scores-3", "imagenet-scores"]),
        ("ablations", ["ablation_layers-scores-2", "ablation_targets-scores"]),
    ],
)
def test_the_papers_experiment_has_its_charts(name: str, places: list[str], tmp_path: Path) -> None:
    text = make(mock_paper.fill(name, tmp_path), tmp_path)
    assert "<strong>Miniature</strong>" not in text
    for place in places:
        assert text.count(f'id="{place}"') == 1


def test_missing_runs_are_said_and_an_unreadable_file_is_named(tmp_path: Path) -> None:
    experiment = params.load(ROOT / "params" / "mini.yaml")
    text = make(experiment, tmp_path)
    assert "0 of " in text
    assert "Whether pre-training pays cannot be judged yet." in text
    assert "no log of these runs is here" in text
    assert "no predictions yet" in text
    some = runs.finetune_runs(experiment)[0]
    mock_paper.write(some, tmp_path)
    torn = runs.finetune_runs(experiment)[1]
    mock_paper.write(torn, tmp_path)
    path = tmp_path / "runs" / torn.id / "metrics.json"
    path.write_text('{"metrics": ')
    text = make(experiment, tmp_path)
    assert f"{torn.id}: {path} is unreadable" in text
    assert "1 of " in text


@pytest.mark.parametrize(
    "changed",
    [
        {"train_s": "long"},
        {"examples_per_s": "many"},
        {"metrics": {"test": 5}},
        {"provenance": 5},
        {"provenance": {"finished": 5}},
        {"run": "finetune/another/scratch/seed0"},
    ],
)
def test_damaged_metrics_are_named(tmp_path: Path, changed: dict[str, object]) -> None:
    experiment = params.load(ROOT / "params" / "mini.yaml")
    run = runs.finetune_runs(experiment)[0]
    mock_paper.write(run, tmp_path)
    path = tmp_path / "runs" / run.id / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    text = make(experiment, tmp_path)
    assert f"{run.id}: {path} is unreadable" in text
    assert "0 of " in text


def test_sentences_stand_with_their_predictions(tmp_path: Path) -> None:
    folder = glue_folder(tmp_path / "layouts" / "CoLA", "CoLA")
    corpus = corpus_folder(tmp_path / "layouts" / "corpus")
    out = tmp_path / "prepared"
    prepare.main(["tokenizer", str(corpus), "--vocab-size", "60", "-o", str(out / "tokenizer")])
    tokens = ["--tokenizer", str(out / "tokenizer")]
    prepare.main(["glue", "CoLA", str(folder), *tokens, "-o", str(out / "cola")])
    line = (folder / "test.tsv").read_text().splitlines()[-1].split("\t")[-1]
    ids = list(Shards(out / "cola" / "test").texts("id"))
    found = sentences(out / "cola", "test", [ids[-1], "nobody"])
    assert list(found) == [ids[-1]]
    assert found[ids[-1]].split() == line.split()
    assert sentences(out / "tokenizer", "test", ids) == {}
    assert sentences(out / "none", "test", ids) == {}


def test_words_of_runs_cannot_break_the_page(tmp_path: Path) -> None:
    experiment = params.load(ROOT / "params" / "mini.yaml")
    evil = "</script><script>alert(1)</script>"
    experiment = experiment.model_copy(update={"title": evil})
    text = make(experiment, tmp_path)
    assert evil not in text
    assert "alert(1)</script" not in text


def test_a_long_log_is_picked_from_and_keeps_its_validations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        {"step": step, "loss": 1 / step}
        | ({"validation": {"accuracy": step / 1e4}} if step in (3333, 7777) else {})
        for step in range(1, 10_001)
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 10001, "lo')
    whole = records.read_log(path)
    monkeypatch.setattr(records, "PARSED", 1000)
    picked = records.read_log(path)
    for found in (whole, picked):
        steps = [line["step"] for line in found]
        assert steps == sorted(set(steps))
        assert {3333, 7777} <= set(steps)
        assert steps[0] == 1
        assert steps[-1] >= 9950  # the very last line is torn
        assert 200 < len(found) < 400
        assert all(line == lines[line["step"] - 1] for line in found)


# --- in a browser -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if not (shutil.which("chromedriver") and shutil.which("chromium")):
        assert os.environ.get("D2V_BROWSER") != "required", "chromium or chromedriver is missing"
        pytest.skip("needs a browser: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def look(driver: Any, page: Path, width: int, dark: bool = False) -> None:
    """Open the page in a window of that width."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    driver.get(page.as_uri())


def rgb(text: str) -> tuple[int, ...]:
    """Of `rgb(20, 23, 28)`."""
    return tuple(map(int, re.findall(r"\d+", text)[:3]))


# elements that reach out of the window without being in a box that scrolls
CLIPPED = """return [...document.querySelectorAll('main *')].filter(e => {
    const wide = e.getBoundingClientRect().right > innerWidth + 1;
    return wide && !e.closest('.wide, pre, .unseen, svg');
}).map(e => e.outerHTML.slice(0, 80))"""


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 900, 1400])
def test_charts_show_and_nothing_overflows(
    mini: tuple[params.Experiment, Path], chromium: Any, width: int, dark: bool
) -> None:
    make(*mini)
    look(chromium, mini[1] / "index.html", width, dark)
    strips = chromium.find_elements("css selector", ".forest .strip")
    assert len(strips) >= 5
    assert sum(strip.rect["y"] < 900 for strip in strips) >= 3  # on the first screen
    chromium.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    charts = chromium.find_elements("css selector", "svg[role=img]")
    assert len(charts) >= 20
    assert all(chart.rect["width"] >= 90 and chart.rect["height"] >= 20 for chart in charts)
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
    assert chromium.execute_script(CLIPPED) == []
    body = chromium.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (body == "rgb(20, 23, 28)") == dark
    whisker = chromium.find_element("css selector", "figure .whisker").value_of_css_property
    assert contrast(rgb(whisker("stroke")), rgb(body)) >= 3
    assert [e for e in chromium.get_log("browser") if e["level"] in ("SEVERE", "WARNING")] == []


@pytest.mark.slow
@pytest.mark.browser
def test_a_wide_table_scrolls_in_its_box_and_says_so(
    mini: tuple[params.Experiment, Path], chromium: Any
) -> None:
    make(*mini)
    for width, shown in ((400, "block"), (1400, "none")):
        look(chromium, mini[1] / "index.html", width)
        hint = chromium.find_element("css selector", "#glue .hint")
        # the observer of the box reports after the first frame
        chromium.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 50))")
        assert hint.value_of_css_property("display") == shown
        box = chromium.find_element("css selector", "#glue .wide")
        assert (box.get_property("scrollWidth") > box.get_property("clientWidth")) == (width < 900)
        assert box.get_attribute("tabindex") == "0"


@pytest.mark.slow
@pytest.mark.browser
def test_without_scripts_it_is_the_same_page_and_on_paper_it_is_light(
    mini: tuple[params.Experiment, Path], chromium: Any
) -> None:
    make(*mini)
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    look(chromium, mini[1] / "index.html", 900)
    shown = [c.rect["width"] for c in chromium.find_elements("css selector", "#imagenet svg")]
    heads = chromium.find_elements("css selector", "#imagenet th button")
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert shown[0] > 300
    assert heads == []  # nothing that could be pressed in vain
    look(chromium, mini[1] / "index.html", 900, dark=True)
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    told = {"media": "print", "features": [scheme]}
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", told)
    body = chromium.execute_script("return getComputedStyle(document.body).backgroundColor")
    nav = chromium.find_element("css selector", "nav").value_of_css_property("display")
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert (body, nav) == ("rgb(255, 255, 255)", "none")


@pytest.mark.slow
@pytest.mark.browser
def test_tables_sort_within_their_groups_and_tell_sources(
    mini: tuple[params.Experiment, Path], chromium: Any
) -> None:
    make(*mini)
    look(chromium, mini[1] / "index.html", 1400)
    chromium.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
    names = """return [...document.querySelectorAll('#imagenet table.results')].at(-1)
        .tBodies[1].innerText.split('\\n').map(line => line.split('\\t')[0])"""
    given = chromium.execute_script(names)
    assert given[0] == "Single models"
    press = """[...document.querySelectorAll('#imagenet table.results')].at(-1)
        .querySelector('thead button').click()"""
    chromium.execute_script(press)
    falling = chromium.execute_script(names)
    assert falling[:2] == ["Single models", "data2vec"]
    chromium.execute_script(press)
    rising = chromium.execute_script(names)
    assert rising[1] == "DINO"
    chromium.execute_script(press)
    assert chromium.execute_script(names) == given
    cell = chromium.find_element("css selector", "#imagenet td[title^='arXiv:2202']")
    chromium.execute_script("arguments[0].click()", cell)
    told = chromium.find_elements("css selector", "#imagenet output.source")[-1].text
    assert told == "arXiv:2202.03555v3, Table 1"

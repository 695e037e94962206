"""What -o of a benchmark replaces: only what a benchmark wrote."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import bench  # noqa: E402
import reports  # noqa: E402

WITH_FILE = sorted(
    path.name for path in FOLDER.glob("*.py") if "type=reports.out" in path.read_text()
)


def test_every_benchmark_writes_its_file_with_a_check() -> None:
    own = {"gpu.py", "loading.py", "reports.py"}  # the first two name their files themselves
    for path in FOLDER.glob("*.py"):
        assert path.name in own or "out.write_text" not in path.read_text(), path
    assert len(WITH_FILE) == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_FILE)
def test_a_file_of_another_kind_is_refused_before_anything_is_measured(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "thesis.json").write_text('{"mine": 1}')
    words = [sys.executable, str(FOLDER / name), "-o", str(tmp_path / "thesis.json")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "thesis.json: not written by a benchmark; give another path" in done.stderr
    assert (tmp_path / "thesis.json").read_text() == '{"mine": 1}'


def test_its_own_are_replaced_and_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "figures.json"
    for value in (1, 2):
        assert reports.out(str(path)) == path
        reports.write(path, {"a": value})
    assert reports.read(path) == {"a": 2}
    for text in ("", "[]", '{"written_by": "me"}', "five years of work"):
        path.write_text(text)
        with pytest.raises(SystemExit, match=r"error: .*figures\.json: not written by a benchmark"):
            reports.write(path, {"a": 3})
        assert path.read_text() == text
    for stored in reports.FOLDER.glob("*.json"):
        assert reports.fault(stored) is None


@pytest.mark.parametrize("ending", [".json", ".svg"])
def test_the_report_of_a_machine_replaces_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    file = tmp_path / f"{bench.device()}{ending}"
    file.write_text("mine")
    monkeypatch.setattr(sys, "argv", ["bench.py", "-o", str(tmp_path)])
    monkeypatch.setattr(bench, "measure", lambda _: {"device": bench.device()})
    with pytest.raises(SystemExit, match="2"):
        bench.main()
    assert file.read_text() == "mine"
    file.unlink()
    assert bench.main() == 0
    assert bench.main() == 0
    assert json.loads((tmp_path / f"{bench.device()}.json").read_text())["device"]

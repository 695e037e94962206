"""A run compiled with inductor, on a CPU: killed, resumed, fine-tuned, to its page."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import compiled
import pytest
import workspace

from d2v import params
from d2v.training import log

CLOCK = ("examples_per_s", "steps_per_s")
REQUIRED = os.environ.get("D2V_COMPILER") == "required"  # set by .ci/run
# vision takes 80 s of a core, of which the compiler takes half; the others take minutes
KINDS = [
    "vision",
    *(
        pytest.param(kind, marks=pytest.mark.skipif(
            not REQUIRED, reason="takes minutes: runs with D2V_COMPILER=required"))
        for kind in ("speech", "text")
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny experiment, where there is a compiler."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    for found, name in ((shutil.which("g++"), "g++"), (header.exists(), f"{header} (python3-dev)")):
        if not found:
            assert not REQUIRED, f"{name} is missing"
            pytest.skip(f"inductor needs {name}, which is missing here")
    folder = workspace.make(tmp_path_factory.mktemp("inductor"))
    compiled.write(folder)
    return folder


def call(folder: Path, *words: str) -> tuple[int, str]:
    """Exit code and output of the script in a process of its own."""
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}  # of both processes
    alone = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, compiled.__file__, str(folder), *words],
        env=os.environ | cache | alone, capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def curve(folder: Path, name: str, kind: str) -> list[dict]:
    """The log of a pre-training, without what the clock says."""
    lines = log.read(compiled.pretraining(folder, name, kind).work / "log.jsonl")
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_compiled_with_inductor_is_killed_resumed_and_finished(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    code, said = call(folder, kind, "--kill")
    assert code == -signal.SIGKILL, said
    assert "compiling with inductor" in said
    assert "with 0 graph breaks" in said
    code, said = call(folder, kind)
    assert code == 0, said
    assert "resuming after step 2 of 6" in said
    assert "failed and is skipped" not in said

    whole, killed = (curve(folder, name, kind) for name in (compiled.WHOLE, compiled.KILLED))
    assert [line["step"] for line in whole] == [1, 2, 3, 4, 5, 6]
    assert killed == whole  # to the bit
    compiled.train(compiled.pretraining(folder, compiled.EAGER, kind), folder)
    losses = [line["loss"] for line in curve(folder, compiled.EAGER, kind)]
    assert [line["loss"] for line in whole] == pytest.approx(losses, rel=1e-4)

    run = compiled.pretraining(folder, compiled.KILLED, kind)
    assert sum(json.loads((run.results / "attention.json").read_text())["weights"]) > 0
    tuned = json.loads(compiled.finetuning(folder, kind).metrics_path.read_text())
    assert tuned["metrics"]["dev"].keys() == tuned["metrics"]["test"].keys() != set()
    page = workspace.d2v(folder, "tables", "--params", f"params/{compiled.KILLED}.yaml")
    assert page.returncode == 0, page.stdout + page.stderr
    experiment = params.load(compiled.file(folder, compiled.KILLED))
    assert run.id in (Path("results") / experiment.name / "index.html").read_text()

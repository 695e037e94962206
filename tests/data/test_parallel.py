"""Work in several processes ends without a traceback when the user interrupts it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, time
if __name__ == "__mp_main__":  # a worker that imports slowly
    open(sys.argv[1] + f".{os.getpid()}.starts", "w").close()
    time.sleep(1)
from d2v.data import parallel
def work(job, advance):
    open(sys.argv[1] + f".{job}.works", "w").close()
    for _ in range(600):
        time.sleep(0.05)
        advance(1)
if __name__ == "__main__":
    try:
        parallel.run_all(work, [0, 1], 2, lambda count: None)
    except KeyboardInterrupt:
        print("cancelled", file=sys.stderr)
        sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["starts", "works"])
def test_ctrl_c_prints_no_traceback_of_a_worker(tmp_path: Path, when: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "began")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob(f"began.*.{when}"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to parent and workers
    _, said = process.communicate(timeout=60)
    assert said == "cancelled\n"
    assert process.returncode == 130

"""Run a script with packages of a folder (D2V_BESIDE) that this Python does not have itself.

PYTHONPATH would put them first, and one package of two versions may not fit the others.
"""

import os
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    script = sys.argv[1]
    if os.environ.get("D2V_BESIDE"):
        sys.path.append(os.environ["D2V_BESIDE"])
    sys.path[0] = str(Path(script).parent)
    sys.argv = sys.argv[1:]
    runpy.run_path(script, run_name="__main__")

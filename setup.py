"""Build step that pyproject.toml cannot express: what a wheel holds beside the modules."""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "src"))

from d2v.util import shipped  # noqa: E402


class Wheel(build_py):
    """Adds the files that `d2v init` and `d2v check params/NAME.yaml` need, and `py.typed`.

    `py.typed` tells type checkers that the package has type hints (PEP 561).
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # then they are where they always are
            return
        package = Path(self.build_lib, "d2v")
        (package / "py.typed").touch()
        out = package / shipped.COPIES
        shutil.rmtree(out, ignore_errors=True)  # of an earlier build
        for name in shipped.files(ROOT):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, out / name)


setup(cmdclass={"build_py": Wheel})

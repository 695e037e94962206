"""Build step that pyproject.toml cannot express: the recipes become part of the wheel."""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "src"))

from d2v.util import shipped  # noqa: E402


class WithRecipes(build_py):
    """Copies the files that `d2v init` and `d2v check params/NAME.yaml` need into the package."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # then they are where they always are
            return
        out = Path(self.build_lib, "d2v", shipped.COPIES)
        shutil.rmtree(out, ignore_errors=True)  # of an earlier build
        for name in shipped.files(ROOT):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, out / name)


setup(cmdclass={"build_py": WithRecipes})

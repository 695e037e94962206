"""Container recipes: what they copy exists, and both install the same.

They are only linted here: building needs a running builder and a network, which `.ci/containers`
uses where it finds them.
"""

import re
import shlex
from pathlib import Path

from d2v.util import shipped

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
DEFINITION = (ROOT / "docker/d2v.def").read_text()
KNOWN = {"ARG", "FROM", "ENV", "RUN", "USER", "WORKDIR", "COPY", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile with their arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M).replace("\\\n", " ")
    return [(w, rest) for w, _, rest in (line.partition(" ") for line in text.splitlines()) if w]


def section(name: str) -> list[str]:
    """Lines of a section of the Apptainer definition."""
    found = re.search(rf"^%{name}\n((?: {{4}}.*\n|\n)*)", DEFINITION, re.M)
    assert found, name
    return [line.strip() for line in found[1].splitlines() if line.strip()]


def ignored() -> list[str]:
    return (ROOT / ".dockerignore").read_text().split()


def test_instructions_are_known_and_in_an_order_that_works() -> None:
    words = [word for word, _ in instructions()]
    assert set(words) <= KNOWN
    assert words[:2] == ["ARG", "FROM"]
    assert [rest for word, rest in instructions() if word == "USER"] == ["d2v"]
    installs = next(i for i, (_, rest) in enumerate(instructions()) if "tools/venv.py" in rest)
    assert words.index("USER") < installs
    assert all(word != "ADD" and "http" not in rest for word, rest in instructions())


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    copied = [
        source
        for word, rest in instructions()
        if word == "COPY"
        for source in [w for w in shlex.split(rest) if not w.startswith("--")][:-1]
    ]
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source not in ignored()
    assert {"pyproject.toml", "requirements.lock", "setup.py", "tools", "src"} <= set(copied)
    for line in section("files"):
        source, target = line.split()
        assert (ROOT / source).exists(), source
        assert target.startswith("/opt/d2v/")


def test_the_definition_has_all_that_ships() -> None:
    named = {line.split()[0] for line in section("files")}
    assert set(shipped.PARTS) <= named


def test_both_install_the_same_packages() -> None:
    def packages(text: str) -> set[str]:
        found = re.search(r"--no-install-recommends ([\w\- ]+)", text)
        assert found
        return set(found[1].split())

    assert packages(DOCKERFILE) == packages(DEFINITION)
    assert "tools/venv.py .venv" in DOCKERFILE
    assert "python3 tools/venv.py .venv" in section("post")
    assert re.search(r"^From: (.*)$", DEFINITION, re.M)[1] in DOCKERFILE  # type: ignore[index]


def test_nothing_of_a_run_enters_the_image() -> None:
    made = {line.strip("/") for line in (ROOT / ".gitignore").read_text().split()}
    assert {"data", "layouts", "prepared", "work", "results", "weights"} <= made & set(ignored())
    assert ".git" in ignored()

"""`--references`: one's own files get a score, equal to jiwer's and scikit-learn's."""

import re
from pathlib import Path

import jiwer
import own_builds
import pytest
from scipy.stats import pearsonr

from d2v import params
from d2v.cli import commands as cli


def classes_of(out: str) -> list[list[str]]:
    return [line.split("\t") for line in out.splitlines()]


def test_accuracy_of_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = own_builds.folder(tmp_path / "model", "vision")
    files = own_builds.images(tmp_path)
    assert cli.main(["classify", str(model), *map(str, files)]) == 0
    said = [fields[1] for fields in classes_of(capsys.readouterr().out)]
    other = next(name for name in own_builds.CLASSES if name != said[0])
    right = [other, *said[1:]]  # the first is wrong
    table = tmp_path / "right.tsv"
    # one by its path, the others by their file names, in another order
    lines = [f"{path.name}\t{r}" for path, r in zip(files[1:], right[1:], strict=True)]
    table.write_text("\n".join([f"{files[0]}\t{right[0]}", *reversed(lines)]) + "\n")
    assert cli.main(["classify", str(model), *map(str, files), "--references", str(table)]) == 0
    found = capsys.readouterr()
    assert [fields[1] for fields in classes_of(found.out)] == said
    share = 100 * (len(files) - 1) / len(files)
    assert re.fullmatch(
        rf"accuracy: {share:.1f} % \(95 % interval [\d.]+ to 100\.0, {len(files)} examples\)\n",
        found.err,
    )


def test_word_and_letter_errors_of_recordings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = own_builds.folder(tmp_path / "model", "speech")
    files = own_builds.waves(tmp_path)
    right = ["ONE TWO", "SIX", "FIVE, SIX", "ZERO"]
    table = tmp_path / "right.tsv"
    table.write_text("\n".join(f"{p.name}\t{r}" for p, r in zip(files, right, strict=True)))
    assert cli.main(["transcribe", str(model), *map(str, files), "--references", str(table)]) == 0
    found = capsys.readouterr()
    heard = [fields[1] for fields in classes_of(found.out)]
    warning, wer, cer = found.err.splitlines()
    assert warning.startswith("warning: 1 reference with characters that the model cannot write")
    assert "(',')" in warning
    assert wer.startswith(f"WER: {100 * jiwer.wer(right, heard):.1f} % (")
    assert cer.startswith(f"CER: {100 * jiwer.cer(right, heard):.1f} % (")
    assert wer.endswith("4 utterances)")


def test_correlation_of_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = params.Regress(kind="regress", pool="first", hidden=True, scale=5.0)
    model = own_builds.folder(tmp_path / "model", "vision", task=task, outputs=1)
    files = own_builds.images(tmp_path)
    table = tmp_path / "right.tsv"
    table.write_text("".join(f"{path.name}\t{i}.5\n" for i, path in enumerate(files)))
    assert cli.main(["classify", str(model), *map(str, files), "--references", str(table)]) == 0
    found = capsys.readouterr()
    said = [float(fields[1]) for fields in classes_of(found.out)]
    value = 100 * pearsonr(range(len(files)), said).statistic
    (told,) = re.findall(r"^Pearson: (\S+) ×100", found.err, re.M)
    assert float(told) == pytest.approx(value, abs=0.1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.png cat\n", "right.tsv:1: no tab"),
        ("0.png\tcat\n0.png\tdog\n", "right.tsv:2: '0.png' has a reference already"),
        ("0.png\tcat\n", "no reference for"),
        ("0.png\tcat\n1.jpg\tcow\n", "'cow' is no class of the model (cat, dog, eel)"),
    ],
)
def test_faults_of_the_table_are_told_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    model = own_builds.folder(tmp_path / "model", "vision")
    files = own_builds.images(tmp_path, ((24, 24),) * 2)
    (tmp_path / "right.tsv").write_text(text)
    words = ["classify", str(model), *map(str, files), "--references", str(tmp_path / "right.tsv")]
    assert cli.main(words) == 2
    found = capsys.readouterr()
    assert not found.out
    assert said in found.err


@pytest.mark.parametrize(
    ("command", "kind", "told"),
    [
        ("classify", "speech", "for transcription, not for classification or regression; use"),
        ("transcribe", "vision", "for classification or regression, not for transcription; use"),
    ],
)
def test_a_model_for_the_other_command_is_told_to_use_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str, told: str
) -> None:
    """The fault is the command, not the references, which would not fit it either."""
    model = own_builds.folder(tmp_path / "model", kind)
    (tmp_path / "right.tsv").write_text("0.png\tcat\n")
    words = [command, str(model), "0.png", "--references", str(tmp_path / "right.tsv")]
    assert cli.main(words) == 2
    other = {"classify": "transcribe", "transcribe": "classify"}[command]
    said = capsys.readouterr().err
    assert said.endswith(f"{told} `d2v {other}`\n")
    assert said.count("\n") == 1

"""Faults that people met in such pipelines, and the tests that show the right value of each.

    python tests/cases.py

runs all of these tests and prints a table: case, what is right, result.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]


class Case(NamedTuple):
    """What is right, and the tests that would fail if it were not."""

    right: str
    tests: Sequence[str]  # FILE::TEST below tests/


CASES = {
    "02": Case(
        "an undefined metric has no winner and no p",
        [
            "test_compare.py::test_a_collapsed_run_never_wins",
            "test_compare.py::test_a_word_error_rate_without_words_is_undefined",
            "test_compare.py::test_a_metric_that_does_not_fit_is_named",
            "test_tables.py::test_an_undefined_metric_has_no_mean_no_winner_and_is_never_replaced",
        ],
    ),
    "03": Case(
        "repeated seeds are refused",
        ["test_unique.py::test_repetitions_are_refused"],
    ),
    "04": Case(
        "a finished training has its metrics, whatever its first example is",
        [
            "test_showcase.py::test_the_first_example_with_a_masked_position_is_shown",
            "test_showcase.py::test_what_comes_after_training_fails_no_run",
        ],
    ),
    "05": Case(
        "links in corpora, Libri-light and label lists are followed",
        ["test_cases.py::test_links_to_folders_are_read"],
    ),
    "06": Case(
        "a 16-bit PNG has the levels of its 8-bit copy",
        ["test_cases.py::test_16_bit_images_keep_their_levels"],
    ),
    "08": Case(
        "two tasks for one cell are refused",
        ["test_unique.py::test_two_tasks_for_one_cell_are_refused"],
    ),
    "09": Case(
        "a mistyped file name is no text to classify",
        ["test_cases.py::test_the_name_of_a_missing_file_is_not_classified"],
    ),
    "10": Case(
        "samples that are no numbers and half a WAV file are refused",
        ["test_cases.py::test_broken_sound_is_not_transcribed"],
    ),
    "11": Case(
        "a photograph is classified as it is looked at",
        ["test_cases.py::test_a_turned_photograph_is_turned_back"],
    ),
    "13": Case(
        "a transcript that CTC cannot align is named and counted",
        [
            "test_cases.py::test_a_transcript_too_long_for_its_sound_is_named",
            "test_finished.py::test_frames_that_ctc_needs",
        ],
    ),
    "14": Case(
        "a language model that knows no word of the lexicon is refused",
        [
            "test_cases.py::test_a_language_model_in_lower_case_is_refused",
            "test_finished.py::test_a_model_that_knows_no_word_is_refused",
        ],
    ),
    "19": Case(
        "letters that look like special symbols are letters",
        ["test_cases.py::test_no_text_encodes_to_a_special_symbol"],
    ),
    "24": Case(
        "emulated bfloat16 is not bfloat16",
        ["test_cases.py::test_emulated_bfloat16_is_left_off"],
    ),
    "data-03": Case(
        "data of a variant is prepared, or refused",
        [
            "test_stages.py::test_data_that_the_stages_do_not_read_is_refused",
            "test_stages.py::test_a_variant_of_the_miniature_is_compared_with_its_stages",
        ],
    ),
    "data-04": Case(
        "cells from a set that is not whole are marked",
        [
            "test_tables.py::test_a_cell_from_a_set_that_is_not_whole_is_marked_and_never_the_best",
            "test_finetuning.py::test_a_run_says_what_its_data_or_that_of_its_pretraining_lacks",
        ],
    ),
}


class Outcomes:
    """A plugin of pytest that keeps what became of every test."""

    def __init__(self) -> None:
        self.found: dict[str, set[str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = report.nodeid.split("[")[0].removeprefix("tests/")
        if report.when == "call" or report.outcome != "passed":
            self.found.setdefault(name, set()).add(report.outcome)

    def of(self, case: Case) -> str:
        """passed, failed, skipped, or not run."""
        seen = {one for test in case.tests for one in self.found.get(test, {"not run"})}
        return next((word for word in ("failed", "not run", "skipped") if word in seen), "passed")


def main() -> int:
    """Run the tests of all cases; 0 if all passed."""
    outcomes = Outcomes()
    wanted = [f"{ROOT}/tests/{test}" for case in CASES.values() for test in case.tests]
    options = ["-p", "no:cacheprovider", "--rootdir", str(ROOT), "--no-header", "--tb=short"]
    pytest.main([*options, *dict.fromkeys(wanted)], plugins=[outcomes])
    results = {name: outcomes.of(case) for name, case in CASES.items()}
    width = max(map(len, CASES))
    for name, case in CASES.items():
        print(f"{name:{width}}  {results[name]:7}  {case.right}")
    return int(any(result != "passed" for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())

"""Faults that people met in such pipelines, and the tests that show the right value of each.

    python tests/helpers/cases.py

runs all of these tests and prints a table: case, what is right, result.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Case(NamedTuple):
    """What is right, and the tests that would fail if it were not."""

    right: str
    tests: Sequence[str]  # FILE::TEST below tests/


CASES = {
    "01": Case(
        "a command replaces only folders that this project wrote",
        [
            "cli/test_output_folders.py::test_what_is_not_ours_stays",
            "cli/test_output_folders.py::test_layouts_leave_alone_what_is_not_theirs",
        ],
    ),
    "02": Case(
        "an undefined metric has no winner and no p",
        [
            "results/test_compare.py::test_a_collapsed_run_never_wins",
            "results/test_compare.py::test_a_word_error_rate_without_words_is_undefined",
            "results/test_compare.py::test_a_metric_that_does_not_fit_is_named",
            "results/test_tables.py::test_an_undefined_metric_has_no_mean_no_winner_and_is_never_replaced",
        ],
    ),
    "03": Case(
        "repeated seeds are refused",
        ["params/test_unique.py::test_repetitions_are_refused"],
    ),
    "04": Case(
        "a finished training has its metrics, whatever its first example is",
        [
            "evaluation/test_attention_example.py::test_the_first_example_with_a_masked_position_is_shown",
            "evaluation/test_attention_example.py::test_what_comes_after_training_fails_no_run",
        ],
    ),
    "05": Case(
        "links in corpora, Libri-light and label lists are followed",
        ["project/test_cases.py::test_links_to_folders_are_read"],
    ),
    "06": Case(
        "a 16-bit PNG has the levels of its 8-bit copy",
        ["project/test_cases.py::test_16_bit_images_keep_their_levels"],
    ),
    "07": Case(
        "phases of a schedule add up to 1",
        [
            "params/test_params_fit.py::test_cases_of_the_check",
            "params/test_params_fit.py::test_what_cannot_work_is_one_line",
        ],
    ),
    "08": Case(
        "two tasks for one cell are refused",
        ["params/test_unique.py::test_two_tasks_for_one_cell_are_refused"],
    ),
    "09": Case(
        "a mistyped file name is no text to classify",
        ["project/test_cases.py::test_the_name_of_a_missing_file_is_not_classified"],
    ),
    "10": Case(
        "samples that are no numbers and half a WAV file are refused",
        ["project/test_cases.py::test_broken_sound_is_not_transcribed"],
    ),
    "11": Case(
        "a photograph is classified as it is looked at",
        ["project/test_cases.py::test_a_turned_photograph_is_turned_back"],
    ),
    "13": Case(
        "a transcript that CTC cannot align is named and counted",
        [
            "project/test_cases.py::test_a_transcript_too_long_for_its_sound_is_named",
            "experiment/test_finished.py::test_frames_that_ctc_needs",
        ],
    ),
    "14": Case(
        "a language model that knows no word of the lexicon is refused",
        [
            "project/test_cases.py::test_a_language_model_in_lower_case_is_refused",
            "experiment/test_finished.py::test_a_model_that_knows_no_word_is_refused",
        ],
    ),
    "16": Case(
        "what the check accepts can run",
        [
            "params/test_params_fit.py::test_what_cannot_work_is_one_line",
            "params/test_params_fit.py::test_texts_longer_than_positions_are_refused",
            "params/test_fuzz_params.py::test_what_is_accepted_makes_a_step",
        ],
    ),
    "17": Case(
        "a read-only checkout is one line",
        [
            "cli/test_output_folders.py::test_a_read_only_disk_is_one_line",
        ],
    ),
    "19": Case(
        "letters that look like special symbols are letters",
        ["project/test_cases.py::test_no_text_encodes_to_a_special_symbol"],
    ),
    "24": Case(
        "emulated bfloat16 is not bfloat16",
        ["project/test_cases.py::test_emulated_bfloat16_is_left_off"],
    ),
    "25": Case(
        "released classes in another order score as their names say",
        [
            "interop/test_matching.py::test_released_classes_in_another_order_score_as_their_names_say",
            "interop/test_matching.py::test_another_normalisation_than_the_checkpoints_is_refused",
        ],
    ),
    "26": Case(
        "fine-tuning on another tokenizer is refused",
        [
            "interop/test_matching.py::test_fine_tuning_on_another_tokenizer_is_refused",
        ],
    ),
    "center_crop": Case(
        "inference cuts the centre as torchvision and evaluation do",
        [
            "data/test_inputs.py::test_the_centre_is_torchvisions_and_that_of_evaluation",
        ],
    ),
    "hf_crop": Case(
        "an image processor that resizes, then crops, is followed",
        [
            "interop/test_processor.py::test_pixels_are_those_of_the_processor",
            "interop/test_processor.py::test_logits_after_resizing_and_cropping",
        ],
    ),
    "mask_token_decay": Case(
        "the mask embedding of the vision recipe is decayed",
        [
            "training/test_optim.py::test_the_mask_embedding_of_the_vision_recipe_is_decayed",
        ],
    ),
    "unfreeze_adam": Case(
        "Adam counts on while parameters are frozen",
        [
            "training/test_adam.py::test_the_counter_of_frozen_parameters_runs_on",
        ],
    ),
    "data-02": Case(
        "a failed stage keeps the prepared set",
        [
            "data/test_dvc.py::test_documents_in_the_place_of_a_set_stay_and_a_failed_stage_keeps_the_set",
        ],
    ),
    "data-03": Case(
        "data of a variant is prepared, or refused",
        [
            "params/test_stages.py::test_data_that_the_stages_do_not_read_is_refused",
            "params/test_stages.py::test_a_variant_of_the_miniature_is_compared_with_its_stages",
        ],
    ),
    "data-04": Case(
        "cells from a set that is not whole are marked",
        [
            "results/test_tables.py::test_a_cell_from_a_set_that_is_not_whole_is_marked_and_never_the_best",
            "training/test_finetuning.py::test_a_run_says_what_its_data_or_that_of_its_pretraining_lacks",
        ],
    ),
    "data-06": Case(
        "a broken file costs its own shard; all are told",
        [
            "data/test_writing.py::test_all_broken_items_are_told_and_the_other_shards_kept",
            "data/test_writing.py::test_a_repaired_file_costs_its_own_shard_only",
        ],
    ),
    "data-07": Case(
        "a PNG among JPEG files is decoded on the host",
        [
            "data/test_on_device.py::test_a_png_among_the_jpeg_files_is_decoded_on_the_host",
        ],
    ),
    "data-10": Case(
        "paths with spaces stay one word",
        [
            "data/test_dvc.py::test_paths_with_spaces_stay_one_word",
        ],
    ),
    "data-12": Case(
        "ImageNet's label lists are read",
        [
            "data/test_walk.py::test_imagenet_is_read_through_links_with_its_lists",
        ],
    ),
    "data-13": Case(
        "warnings and progress of a data stage are told",
        [
            "data/test_dvc.py::test_warnings_and_progress_of_a_stage_are_told",
        ],
    ),
    "data-15": Case(
        "text is pre-trained with GPT-2's byte pairs or a given sentencepiece model",
        [
            "data/test_given_tokenizer.py::test_gpt2s_byte_pairs_get_fairseqs_ids",
            "data/test_given_tokenizer.py::test_a_sentencepiece_model_keeps_its_pieces_under_fairseqs_ids",
        ],
    ),
    "data-17": Case(
        "waiting for another call is told",
        [
            "data/test_dvc.py::test_waiting_for_another_call_is_told",
        ],
    ),
    "data-18": Case(
        "the remedy for stale data names its stages",
        [
            "data/test_dvc.py::test_the_remedy_for_stale_data_names_its_stages",
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

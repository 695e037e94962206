"""Ranges of utterances: decoded alone they are what is cut out of the whole, to the last bit."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from small_builds import CTC, FRAMES, SPANS, WAVE_VIEW, assert_equal, build
from small_sets import speech_tree
from torch.utils.data import DataLoader

from d2v import params
from d2v.cli import prepare
from d2v.data import examples, sound, speech
from d2v.data.examples import Examples
from d2v.util.errors import UserError

CROPPED = params.WaveAugment(kind="speech", max_samples=5000)
FEW = params.WaveAugment(kind="speech", lengths=2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Utterances of .2 to .6 s as FLAC with and without their levels, and as bare samples."""
    root = tmp_path_factory.mktemp("ranges")
    source = speech_tree(root / "s", each=8)
    for name, words in (("flac", []), ("pcm", ["--pcm"]), ("headers", ["--headers"])):
        prepare.main(["librispeech", str(source), "-o", str(root / name), *words])
    return root


def flac(wave: np.ndarray) -> memoryview:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, sound.RATE, format="FLAC", subtype="PCM_16")
    return memoryview(buffer.getvalue())


@pytest.mark.parametrize("encoding", [sound.FLAC, sound.PCM])
def test_ranges_are_what_is_cut_out_of_the_whole(encoding: str) -> None:
    draw = np.random.default_rng(0)
    wave = (3000 * np.sin(np.arange(90_001) / 9) + draw.normal(0, 300, 90_001)).astype(np.int16)
    payload = flac(wave) if encoding == sound.FLAC else memoryview(sound.as_pcm(wave))
    whole, at = sound.normalise(wave), sound.level(wave)
    for start, count in [
        (0, 1),
        (0, 90_001),
        (90_000, 1),
        (4095, 2),
        *draw.integers(1, 45_000, (30, 2)),
    ]:
        part = sound.range_of(payload, encoding, int(start), int(count), "a")
        assert (part == wave[start : start + count]).all()
        assert (sound.normalise(part, at) == whole[start : start + count]).all()


def test_levels_pass_through_columns_unchanged(prepared: Path) -> None:
    data: Any = build(prepared / "flac", WAVE_VIEW, FRAMES)
    for row in range(len(data)):
        wave = sound.samples_of(data.shards.payload(row), data.encoding, "")
        assert (data.levels[0][row], data.levels[1][row]) == sound.level(wave)


@pytest.mark.slow
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("view", [WAVE_VIEW, CROPPED, FEW])
@pytest.mark.parametrize("name", ["flac", "pcm"])
def test_batches_are_those_of_whole_utterances(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, name: str, view: params.View, train: bool
) -> None:
    options: dict[str, Any] = {"mask": SPANS, "train": train, "split": "train+dev"}
    kept = build(prepared / name, view, FRAMES, **options)
    headers = build(prepared / "headers", view, FRAMES, **options)
    monkeypatch.setattr(examples, "IN_MEMORY", 0)
    parts = build(prepared / name, view, FRAMES, **options)
    places = [[(e, i) for i in rows] for e in range(3) for rows in ([1, 2, 15], [7], [2, 5, 8, 11])]
    loader: DataLoader[Any] = DataLoader(
        parts, batch_sampler=places, collate_fn=parts.collate, num_workers=1
    )
    for batch, chosen in zip(loader, places, strict=True):
        one_by_one = kept.collate([kept[place] for place in chosen])
        assert_equal(batch, one_by_one)
        for data in (kept, headers, parts):
            assert_equal(data.collate(data.__getitems__(chosen)), one_by_one)


def decoded(data: Examples, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples that are decoded for a batch of one utterance of each length."""
    found: list[int] = []
    for name in ("samples_of", "range_of"):
        whole = getattr(sound, name)

        def counted(*given: Any, whole: Any = whole) -> np.ndarray:
            wave = whole(*given)
            found.append(len(wave))
            return wave

        monkeypatch.setattr(speech, name, counted)
    data.collate(data.__getitems__([(0, 0), (0, 1), (0, 2)]))
    return found


def test_only_what_is_needed_is_decoded(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "IN_MEMORY", 0)
    assert decoded(build(prepared / "flac", WAVE_VIEW, FRAMES), monkeypatch) == [3200] * 3
    whole = [3200, 6400, 9600]
    assert decoded(build(prepared / "headers", WAVE_VIEW, FRAMES), monkeypatch) == whole
    assert decoded(build(prepared / "flac", WAVE_VIEW, FRAMES, task=CTC), monkeypatch) == whole
    monkeypatch.undo()
    kept = build(prepared / "flac", WAVE_VIEW, FRAMES)
    assert decoded(kept, monkeypatch) == whole
    assert decoded(kept, monkeypatch) == []  # of a set that is kept in memory, once


def test_files_that_are_too_short_are_named() -> None:
    with pytest.raises(UserError, match=r"u7: corrupt audio \(60 of 80 samples\)"):
        sound.range_of(flac(np.zeros(100, np.int16)), sound.FLAC, 40, 80, "u7")
    with pytest.raises(UserError, match="u7: corrupt audio"):
        sound.range_of(memoryview(b"fLaC"), sound.FLAC, 40, 80, "u7")

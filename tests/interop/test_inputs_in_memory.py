"""Features of what is in memory: the values of the same input in a file; streams of any length."""

import itertools
import os

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import torch.nn.functional as F
from closeness import LIMIT
from own_builds import folder, images, waves
from PIL import Image

import d2v
from d2v.util.errors import UserError


class Decoder:
    """A recording as `datasets` gives it: decoded when it is asked for."""

    def __init__(self, wave: np.ndarray, rate: int) -> None:
        self.data, self.sample_rate = torch.from_numpy(wave)[None], rate

    def get_all_samples(self) -> "Decoder":
        return self


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return d2v.load(folder(tmp_path_factory.mktemp("speech") / "c", "speech"))


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    return d2v.load(folder(tmp_path_factory.mktemp("vision") / "c", "vision"))


@pytest.fixture(scope="module")
def text(tmp_path_factory, small_prepared):
    made = folder(tmp_path_factory.mktemp("text") / "c", "text", small_prepared / "tokenizer")
    return d2v.load(made)


def same(model, file, *others):
    """Whether all give what the file gives."""
    (wanted,) = model.features([file])
    found = list(model.features(others, batch_size=1))
    assert [f.name for f in found] == [str(i) for i in range(len(others))]
    for one in found:
        assert all(torch.equal(one.hidden[k], wanted.hidden[k]) for k in wanted.hidden)
        assert torch.equal(one.logits, wanted.logits)


def test_recordings(tmp_path, speech):
    (file,) = waves(tmp_path, (5000,))
    whole, rate = soundfile.read(file, dtype="int16")
    wave = whole.astype(np.float32) / np.float32(2**15)
    row = {"array": wave, "sampling_rate": rate}
    undecoded = {"bytes": file.read_bytes(), "path": None}
    pairs = (wave, rate), (torch.from_numpy(wave), rate), (wave[None], rate)
    rows = row, undecoded, {"bytes": None, "path": str(file)}, Decoder(wave, rate)
    same(speech, file, wave, whole, torch.from_numpy(wave), file.read_bytes(), *pairs, *rows)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ((np.zeros(5000, np.float32), 44_100), "0: 44100 Hz, but the model takes 16000 Hz"),
        (np.zeros((2, 5000), np.float32), r"0: samples of shape \(2, 5000\)"),
        (np.zeros(5000, np.int32), "0: samples are int32"),
        (np.full(5000, np.nan, np.float32), "0: corrupt audio"),
        (torch.zeros(5000, dtype=torch.bfloat16), r"0: not usable as an array .* \.float\(\)"),
        ((np.zeros(5000, np.float32), None), "0: a rate of None"),
        ({"array": np.zeros(9)}, "0: a recording needs array and sampling_rate"),
        (3.5, "0: float cannot be an input"),
        (np.zeros(20, np.float32), "0: 20 samples, too few"),
    ],
)
def test_recordings_that_cannot_be_used(speech, item, said):
    with pytest.raises(UserError, match=said):
        list(speech.features([item]))


def test_pictures(tmp_path, vision):
    (file,) = images(tmp_path, ((24, 24),))
    picture = Image.open(file)
    pixels = np.asarray(picture)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    same(vision, file, picture, pixels, tensor, {"bytes": file.read_bytes(), "path": None})
    assert [f.name for f in vision.features(picture)] == ["0"]
    with pytest.raises(UserError, match="0: pixels float64 of shape"):
        list(vision.features([np.zeros((24, 24, 3))]))


def test_texts(text):
    ids = np.array([0, *text.tokenizer("the cat"), 2])
    (wanted,) = text.features(["the cat"])
    for found in text.features([ids, torch.from_numpy(ids)]):
        assert torch.equal(found.hidden[2], wanted.hidden[2])
    pair, tabbed = text.features([("the cat", "a dog"), "the cat\ta dog"])
    assert torch.equal(pair.hidden[2], tabbed.hidden[2])
    most = text.params.encoder.max_positions
    list(text.features([np.full(most, 9)]))
    for wrong, said in (
        (np.array([0, 70]), "token ids must be from 0 to 69"),
        (np.full(most + 1, 9), f"{most + 1} token ids, but the model has {most} positions"),
        (np.array([0, 9, 1, 9, 2]), "token id 1 is padding"),
    ):
        with pytest.raises(UserError, match=f"0: {said}"):
            list(text.features([wrong]))


def test_columns_and_single_inputs(tmp_path, text, speech):
    column = pd.Series(["the cat", "a dog"], index=[7, 9])
    assert [f.name for f in text.features(column)] == ["the cat", "a dog"]
    assert [f.name for f in text.features("the cat")] == ["the cat"]
    (file,) = waves(tmp_path, (5000,))
    assert [f.name for f in speech.features(file)] == [str(file)]


def test_layers_and_pooling(tmp_path, vision):
    files = images(tmp_path, ((24, 24),) * 2)
    (whole, _) = vision.features(files)
    (last, _) = vision.features(files, layers=-1)
    assert list(last.hidden) == [2]
    assert torch.equal(last.states, whole.hidden[2])
    (some, _) = vision.features(files, layers=[0, -2])
    assert list(some.hidden) == [0, 1]
    (mean, _) = vision.features(files, layers=-1, pool="mean")
    assert torch.equal(mean.states, whole.hidden[2][1:].mean(0))  # without the class token
    (first, _) = vision.features(files, layers=-1, pool="first")
    assert torch.equal(first.states, whole.hidden[2][0])
    for wrong, said in (({"layers": 3}, "no layer 3"), ({"layers": -4}, "no layer -4"),
                        ({"layers": "top"}, "layers 'top'"), ({"pool": "sum"}, "pool 'sum'"),
                        ({"batch_size": 0}, "batch_size 0")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            vision.features(files, **wrong)


def test_a_stream_is_read_as_it_is_used(speech, monkeypatch):
    """An endless generator: what is read ahead is one batch and the input after it."""
    from d2v.data.speech import WaveFiles

    monkeypatch.setattr(WaveFiles, "portion", 20_000)
    read = itertools.count()
    random = np.random.default_rng(0)

    def endless():
        for _ in read:
            yield random.standard_normal(4000).astype(np.float32)

    found = list(itertools.islice(speech.features(endless()), 12))
    assert [f.name for f in found] == [str(i) for i in range(12)]
    assert next(read) <= 12 + 2 * 5 + 1


def test_batches_for_a_cpu_are_smaller_than_what_is_read_together(speech, monkeypatch):
    from d2v.data.inputs import batches
    from d2v.data.speech import WaveFiles

    monkeypatch.setattr(WaveFiles, "portion", 40_000)
    monkeypatch.setattr(WaveFiles, "portion_on_cpu", 10_000)
    lengths = [4000, 6000] * 4 + [12_000, 4000]
    waves = [np.full(length, 0.1, np.float32) for length in lengths]
    for cpu, most in ((True, 12_000), (False, 30_000)):
        groups = list(batches(speech, waves, cpu=cpu))
        assert max(group.batch["waves"].numel() for group in groups) == most
        assert sorted(int(name) for group in groups for name in group.names) == list(range(10))


def test_what_comes_before_a_broken_input_is_given(tmp_path, speech):
    files = [*waves(tmp_path, (5000, 5000)), tmp_path / "none.wav"]
    found = []
    with pytest.raises(UserError, match=r"none\.wav: not a readable audio file"):
        found.extend(f.name for f in speech.features(files))
    assert found == list(map(str, files[:2]))


def attention_works_in_bfloat16() -> bool:
    """False with ATEN_CPU_CAPABILITY below avx512 on a CPU with AMX, for which PyTorch packs."""
    if "ATEN_CPU_CAPABILITY" not in os.environ:
        return True
    heads = torch.zeros(1, 1, 64, 8, dtype=torch.bfloat16)
    try:
        F.scaled_dot_product_attention(heads, heads, heads)
    except RuntimeError as error:
        if "pack_vnni2 is only supported when avx512 is" not in str(error):
            raise
        return False
    return True


@pytest.mark.parametrize("kind", ["speech", "vision", "text"])
def test_half_precision(tmp_path, small_prepared, kind):
    if kind == "speech" and not attention_works_in_bfloat16():
        pytest.skip("PyTorch's own attention fails here")
    made = folder(tmp_path / "c", kind, small_prepared / "tokenizer")
    given = {"speech": waves, "vision": images}
    inputs = given[kind](tmp_path) if kind in given else ["the cat", "a dog"]
    exact = list(d2v.load(made).features(inputs, layers=-1))
    half = d2v.load(made, dtype=torch.bfloat16)
    assert next(half.parameters()).dtype == torch.bfloat16
    for a, b in zip(half.features(inputs, layers=-1), exact, strict=True):
        assert a.states.dtype == torch.float32
        difference = (a.states - b.states).norm() / b.states.norm()
        assert LIMIT < difference < 0.05

"""Encoders and backbone equal Hugging Face's Data2Vec models; padding changes nothing.

No weights are fetched: both sides are built from sizes and get the same random values.
"""

from types import SimpleNamespace

import pytest
import torch
from closeness import LIMIT, apart
from hf_pairs import DEEP, SPEECH, TEXT, VISION, generic, speech, text, tokens, vision, waves

from d2v import params
from d2v.interop import huggingface, names
from d2v.model.data2vec import Student
from d2v.model.frames import frame_count
from d2v.model.transformer import Kept
from d2v.training.task import Finetuning


def mapped(make, size):
    """A model of Hugging Face and the student that got its weights."""
    encoder, backbone, theirs = make(size)
    tensors = huggingface.without_token_types(generic(theirs).state_dict())
    pairs = huggingface.student(encoder, backbone)
    ours = names.from_reference(tensors, pairs)
    student = Student(encoder, backbone).eval()
    student.load_state_dict({name.removeprefix("student."): t for name, t in ours.items()})
    used = {name for pair in pairs for name in pair.theirs}
    assert {n for n in tensors if not n.startswith(huggingface.UNUSED)} == used
    back = names.to_reference(ours, pairs)
    assert all(torch.equal(back[name], tensors[name]) for name in used)
    return theirs, student


def hidden(student, batch):
    """What enters the first block, and the output of each; and padding."""
    with torch.no_grad():
        x, padding = student.encoder.local_features(batch)
        if "mask" in batch:
            x, padding = student.encoder.mask_features(x, padding, batch)
        h, padding = student.encoder(x, padding)
        output = student.backbone(h, padding, keep=Kept(("block",)))
    return [h, *output.layers["block"]], output.x, padding


def assert_equal_to(theirs, student, batch, **inputs):
    with torch.no_grad():
        reference = theirs(**inputs, output_hidden_states=True)
    layers, last, padding = hidden(student, batch)
    real = ~padding if padding is not None else torch.ones(last.shape[:2], dtype=torch.bool)
    assert len(reference.hidden_states) == len(layers)
    pairs = [*zip(layers, reference.hidden_states, strict=True), (last, reference[0])]
    away = max(apart(ours[real], other[real]) for ours, other in pairs)
    assert away < LIMIT
    assert last[real].std() > 0.3  # there was something to compare


@pytest.mark.parametrize("size", SPEECH)
@pytest.mark.parametrize("lengths", [[901, 901], [1501, 640, 977]])
@pytest.mark.parametrize("masked", [False, True])
def test_speech(size, lengths, masked):
    theirs, student = mapped(speech, size)
    x, samples = waves(lengths)
    batch, inputs = {"waves": x}, {"input_values": x}
    if len(set(lengths)) > 1:
        batch["samples"] = samples
        inputs["attention_mask"] = (torch.arange(x.shape[1]) < samples[:, None]).long()
    if masked:
        frames = frame_count(x.shape[1], student.encoder.conv_layers)
        inputs["mask_time_indices"] = batch["mask"] = torch.rand(len(x), frames) < 0.5
    assert_equal_to(theirs, student, batch, **inputs)


@pytest.mark.parametrize("size", VISION)
@pytest.mark.parametrize("masked", [False, True])
def test_vision(size, masked):
    theirs, student = mapped(vision, size)
    encoder = VISION[size][0]
    torch.manual_seed(1)
    side = encoder["image_size"]
    images = torch.randn(3, encoder.get("channels", 3), side, side)
    batch, inputs = {"images": images}, {"pixel_values": images}
    if masked:
        patches = (side // encoder["patch_size"]) ** 2
        inputs["bool_masked_pos"] = batch["mask"] = torch.rand(3, patches) < 0.5
    assert_equal_to(theirs, student, batch, **inputs)


@pytest.mark.parametrize("size", TEXT)
@pytest.mark.parametrize("lengths", [[13, 13], [15, 4, 9]])
@pytest.mark.parametrize("masked", [False, True])
def test_text(size, lengths, masked):
    theirs, student = mapped(text, size)
    vocab = TEXT[size][0]["vocab_size"]
    x = tokens(lengths, vocab)
    batch, seen = {"tokens": x}, x
    if masked:
        batch["mask"] = (torch.rand(x.shape) < 0.4) & (x != 1)
        seen = batch["masked_tokens"] = x.masked_fill(batch["mask"], vocab - 1)
    assert_equal_to(theirs, student, batch, input_ids=seen, attention_mask=(x != 1).long())


def test_what_there_is_no_place_for_is_told():
    encoder, backbone, _ = text("wide")
    with pytest.raises(ValueError, match=r"this model's norm_first, key_bias"):
        huggingface.student(
            encoder, backbone.model_copy(update={"norm_first": True, "key_bias": False})
        )


# --- a padded batch equals its examples one by one ------------------------------------------------

HEADS = [
    params.CTC(kind="ctc"),
    params.Classify(kind="classify", classes=3, pool="mean", norm=True),
    params.Classify(kind="classify", classes=3, pool="first", hidden=True),
    params.Regress(kind="regress", pool="mean_max"),
]


def alone(batch, i, length):
    """Example i without its padding, and without what says that there may be some."""
    name = "waves" if "waves" in batch else "tokens"
    return {name: batch[name][i : i + 1, :length]}


def together_and_alone(student, batch, lengths, positions):
    """Largest distance of hidden states and of what each head says."""
    away = 0.0
    layers, _, _ = hidden(student, batch)
    for i, (length, real) in enumerate(zip(lengths, positions, strict=True)):
        single, _, _ = hidden(student, alone(batch, i, length))
        for ours, other in zip(layers, single, strict=True):
            assert other.shape[1] == real
            away = max(away, apart(ours[i, :real], other[0]))
    for head in HEADS:
        p, dim = SimpleNamespace(task=head, freeze_steps=0), layers[0].shape[-1]
        task = Finetuning(p, student, dim, 1 if head.kind == "regress" else 3).eval()
        said = task.predict(batch)
        for i, length in enumerate(lengths):
            (lone,) = task.predict(alone(batch, i, length))
            key = {"ctc": "logits", "classify": "scores", "regress": "prediction"}[head.kind]
            a, b = torch.as_tensor(said[i][key]), torch.as_tensor(lone[key])
            away = max(away, apart(a, b))
    return away


def own_speech(padding, depth):
    torch.manual_seed(0)
    encoder = params.WaveEncoder(
        kind="speech",
        conv_layers=DEEP[:2],
        position_kernel=5 * depth,
        position_depth=depth,
        position_groups=4,
        position_padding=padding,
    )
    backbone = params.Backbone(dim=32, depth=2, heads=4, ffn_dim=64, norm_first=False)
    return generic(Student(encoder, backbone))


@pytest.mark.parametrize(
    ("padding", "depth", "equal"),
    [("each", 3, True), ("once", 1, True), ("once", 3, False)],
)
def test_padded_speech(padding, depth, equal):
    """With padding zeroed once, as the reference does, it leaks through stacked positions."""
    student, lengths = own_speech(padding, depth), [1501, 640, 977]
    x, samples = waves(lengths)
    frames = frame_count(samples, DEEP[:2]).tolist()
    away = together_and_alone(student, {"waves": x, "samples": samples}, lengths, frames)
    assert (away < LIMIT) if equal else (away > 1e-3)


@pytest.mark.parametrize(("absolute", "extra"), [(True, 0), (False, 0), (True, 2)])
def test_padded_text(absolute, extra):
    """Extra tokens in front are no padding, and no part of what heads pool."""
    torch.manual_seed(0)
    bias = params.PositionBias() if absolute else params.PositionBias(
        kind="per_layer_1d", max_distance=3
    )  # fmt: skip
    encoder = params.TokenEncoder(
        kind="text",
        vocab_size=50,
        max_positions=20,
        absolute_positions=absolute,
        extra_tokens=extra,
    )
    backbone = params.Backbone(
        dim=32, depth=3, heads=4, ffn_dim=64, norm_first=False, position_bias=bias
    )
    student, lengths = generic(Student(encoder, backbone)), [15, 4, 9]
    positions = [extra + length for length in lengths]
    away = together_and_alone(student, {"tokens": tokens(lengths, 50)}, lengths, positions)
    assert away < LIMIT


def test_a_batch_of_images_equals_its_images():
    _, student = mapped(vision, "shared-bias")
    images = torch.randn(3, 3, 24, 24)
    layers, _, _ = hidden(student, {"images": images})
    for i in range(3):
        single, _, _ = hidden(student, {"images": images[i : i + 1]})
        for ours, other in zip(layers, single, strict=True):
            assert apart(ours[i], other[0]) < LIMIT

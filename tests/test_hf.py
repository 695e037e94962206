"""Encoders and backbone equal Hugging Face's Data2Vec models; padding changes nothing.

No weights are fetched: both sides are built from sizes and get the same random values.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from d2v import params
from d2v.frames import frame_count
from d2v.interop import huggingface, names
from d2v.model import Student
from d2v.task import Finetuning
from d2v.transformer import Kept

transformers = pytest.importorskip("transformers")

LIMIT = 1e-5  # absolute, of hidden states of order 1, in float32
DEEP = [[8, 10, 5], [12, 3, 2], [6, 3, 2], [8, 2, 2]]
# encoder, backbone: widths, depths, heads, image and patch sizes, kernels (one of them even). Some
# have a large epsilon, because 1e-6 in place of 1e-5 would stay below LIMIT.
SPEECH = {
    "three-positions": (
        {"conv_layers": DEEP[:2], "position_kernel": 9, "position_depth": 3, "position_groups": 4},
        {"dim": 32, "depth": 2, "heads": 4, "ffn_dim": 64},
    ),
    "even-kernel": (
        {"conv_layers": DEEP, "position_kernel": 8, "position_depth": 2, "position_groups": 3},
        {"dim": 24, "depth": 3, "heads": 3, "ffn_dim": 40},
    ),
    "as-in-base": (
        {"conv_layers": DEEP[:3]},
        {"dim": 48, "depth": 1, "heads": 2, "ffn_dim": 96},
    ),
}
VISION = {
    "shared-bias": (
        {"image_size": 24, "patch_size": 6},
        {"dim": 32, "depth": 3, "heads": 4, "norm_eps": 1e-2, "layer_scale": 0.1, "grid": 4},
    ),
    "final-norm": (
        {"image_size": 28, "patch_size": 4, "channels": 1},
        {"dim": 24, "depth": 1, "heads": 2, "layer_scale": 0.1, "grid": 7, "final_norm": True},
    ),
    "absolute-positions": (
        {"image_size": 32, "patch_size": 16, "absolute_positions": True},
        {"dim": 40, "depth": 2, "heads": 5, "norm_eps": 1e-6, "final_norm": True},
    ),
}
TEXT = {
    "wide": (
        {"vocab_size": 50, "max_positions": 40},
        {"dim": 32, "depth": 2, "heads": 4, "ffn_dim": 64, "norm_eps": 1e-2},
    ),
    "deep": (
        {"vocab_size": 31, "max_positions": 16},
        {"dim": 24, "depth": 4, "heads": 2, "ffn_dim": 100, "norm_eps": 1e-12},
    ),
}


def speech(size):
    encoder, backbone = SPEECH[size]
    e = params.WaveEncoder(kind="speech", **encoder)
    b = params.Backbone(norm_first=False, **backbone)
    channels, kernels, strides = zip(*e.conv_layers, strict=True)
    config = transformers.Data2VecAudioConfig(
        conv_dim=channels,
        conv_kernel=kernels,
        conv_stride=strides,
        num_conv_pos_embeddings=e.position_depth,
        conv_pos_kernel_size=max(3, e.position_kernel // e.position_depth),
        num_conv_pos_embedding_groups=e.position_groups,
        layer_norm_eps=b.norm_eps,
        **common(b),
    )
    return e, b, transformers.Data2VecAudioModel(config)


def vision(size):
    encoder, backbone = VISION[size]
    e = params.PatchEncoder(kind="vision", **encoder)
    sizes = {**backbone, "ffn_dim": 3 * backbone["dim"]}
    grid = sizes.pop("grid", None)
    if grid:
        sizes["position_bias"] = params.PositionBias(kind="shared_2d", window=[grid, grid])
    b = params.Backbone(norm_first=True, key_bias=False, **sizes)
    config = transformers.Data2VecVisionConfig(
        image_size=e.image_size,
        patch_size=e.patch_size,
        num_channels=e.channels,
        use_mask_token=True,
        use_absolute_position_embeddings=e.absolute_positions,
        use_shared_relative_position_bias=grid is not None,
        layer_scale_init_value=b.layer_scale or 0.0,
        use_mean_pooling=not b.final_norm,
        layer_norm_eps=b.norm_eps,
        **common(b),
    )
    return e, b, transformers.Data2VecVisionModel(config)


def text(size):
    encoder, backbone = TEXT[size]
    e = params.TokenEncoder(kind="text", **encoder)
    b = params.Backbone(norm_first=False, **backbone)
    config = transformers.Data2VecTextConfig(
        vocab_size=e.vocab_size,
        max_position_embeddings=e.max_positions + 2,
        layer_norm_eps=b.norm_eps,
        **common(b),
    )
    return e, b, transformers.Data2VecTextModel(config)


def common(b):
    return {
        "hidden_size": b.dim,
        "num_hidden_layers": b.depth,
        "num_attention_heads": b.heads,
        "intermediate_size": b.ffn_dim,
    }


def generic(model):
    """Values that hide no term behind a 0 or a 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1 and "token" not in name:
                p.normal_(std=(p.numel() / len(p)) ** -0.5)
            else:
                p.add_(0.2 * torch.randn_like(p))
        for module in model.modules():
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0
    return model.eval()


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
    away = max((ours[real] - other[real]).abs().max().item() for ours, other in pairs)
    assert away < LIMIT
    assert last[real].std() > 0.3  # there was something to compare


def waves(lengths):
    """Normalised utterances of these lengths, zero where they are padded."""
    torch.manual_seed(1)
    rows = [torch.nn.functional.layer_norm(torch.randn(n), (n,)) for n in lengths]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor(lengths)


def tokens(lengths, vocab):
    torch.manual_seed(1)
    rows = [torch.randint(4, vocab - 1, (n,)) for n in lengths]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=1)


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
    with pytest.raises(ValueError, match=r"norm_first, key_bias of"):
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
    """Largest difference of hidden states and of what each head says."""
    away = 0.0
    layers, _, _ = hidden(student, batch)
    for i, (length, real) in enumerate(zip(lengths, positions, strict=True)):
        single, _, _ = hidden(student, alone(batch, i, length))
        for ours, other in zip(layers, single, strict=True):
            assert other.shape[1] == real
            away = max(away, (ours[i, :real] - other[0]).abs().max().item())
    for head in HEADS:
        p, dim = SimpleNamespace(task=head, freeze_steps=0), layers[0].shape[-1]
        task = Finetuning(p, student, dim, 1 if head.kind == "regress" else 3).eval()
        said = task.predict(batch)
        for i, length in enumerate(lengths):
            (lone,) = task.predict(alone(batch, i, length))
            key = {"ctc": "logits", "classify": "scores", "regress": "prediction"}[head.kind]
            a, b = torch.as_tensor(said[i][key]), torch.as_tensor(lone[key])
            assert a.shape == b.shape
            away = max(away, (a - b).abs().max().item())
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


@pytest.mark.parametrize("absolute", [True, False])
def test_padded_text(absolute):
    torch.manual_seed(0)
    bias = params.PositionBias() if absolute else params.PositionBias(
        kind="per_layer_1d", max_distance=3
    )  # fmt: skip
    encoder = params.TokenEncoder(
        kind="text", vocab_size=50, max_positions=20, absolute_positions=absolute
    )
    backbone = params.Backbone(
        dim=32, depth=3, heads=4, ffn_dim=64, norm_first=False, position_bias=bias
    )
    student, lengths = generic(Student(encoder, backbone)), [15, 4, 9]
    away = together_and_alone(student, {"tokens": tokens(lengths, 50)}, lengths, lengths)
    assert away < LIMIT


def test_a_batch_of_images_equals_its_images():
    _, student = mapped(vision, "shared-bias")
    images = torch.randn(3, 3, 24, 24)
    layers, _, _ = hidden(student, {"images": images})
    for i in range(3):
        single, _, _ = hidden(student, {"images": images[i : i + 1]})
        for ours, other in zip(layers, single, strict=True):
            assert torch.allclose(ours[i], other[0], rtol=0, atol=LIMIT)

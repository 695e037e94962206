"""Two-way map between the parameter names of Hugging Face's Data2Vec models and this project's.

The pairs have the form of those in `names` and cover the student: encoder and backbone. Hugging
Face's side is the bare models, `Data2VecAudioModel`, `Data2VecVisionModel` and
`Data2VecTextModel`, which have no teacher and no regression head. In models with a head, these
names have a prefix (`PREFIX`).

Source: transformers, models/data2vec/modeling_data2vec_{audio,vision,text}.py.
"""

from collections.abc import Mapping

from torch import Tensor

from d2v import params
from d2v.interop.names import Pair, affine, one

PREFIX = {"speech": "data2vec_audio.", "vision": "data2vec_vision.", "text": "data2vec_text."}
# parameters that do not affect hidden states: pooling belongs to a head
UNUSED = ("pooler.",)
_TYPES = "embeddings.token_type_embeddings.weight"
_WORDS = "embeddings.word_embeddings.weight"


def student(encoder: params.Encoder, backbone: params.Backbone) -> list[Pair]:
    """Pairs of all encoder and backbone parameters that both sides can have.

    Tensors that are optional in Hugging Face's models (the mask token of vision) may be missing.
    Raises ValueError for a backbone that Hugging Face's model cannot express.
    """
    _expressible(encoder, backbone)
    if isinstance(encoder, params.WaveEncoder):
        pairs = _audio(encoder, backbone)
    elif isinstance(encoder, params.PatchEncoder):
        pairs = _vision(encoder, backbone)
    else:
        pairs = _text(backbone)
    return [Pair(f"student.{pair.ours}", pair.theirs) for pair in pairs]


# pairs of our name and theirs, by encoder kind, task kind and head (pool, norm, hidden)
_PAIR = [("dense", "classifier.dense"), ("out", "classifier.out_proj")]
_HEADS: dict[tuple[object, ...], list[tuple[str, str]]] = {
    ("speech", "ctc"): [("out", "lm_head")],
    ("text", "classify", "first", False, True): _PAIR,
    ("text", "regress", "first", False, True): _PAIR,
    ("vision", "classify", "mean", True, False): [
        ("norm", f"{PREFIX['vision']}pooler.layernorm"),
        ("out", "classifier"),
    ],
    ("vision", "classify", "first", False, False): [("out", "classifier")],
}


def head(kind: str, task: params.Task) -> list[Pair]:
    """Pairs of a fine-tuned head: ForCTC, ForImageClassification, ForSequenceClassification.

    Raises ValueError for a head that Hugging Face's models do not have.
    """
    shape: tuple[object, ...] = ()
    if isinstance(task, params.Classify | params.Regress):
        shape = (task.pool, task.norm, task.hidden)
    found = _HEADS.get((kind, task.kind, *shape))
    if found is not None:
        return [pair for ours, theirs in found for pair in affine(f"head.{ours}", theirs)]
    how = " (pool {}, norm {}, hidden {})".format(*shape) if shape else ""
    raise ValueError(f"Hugging Face's {kind} models have no head for task.kind {task.kind}{how}")


def without_token_types(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a text model with the embedding of token type 0 added to every word embedding.

    The embedding is zero in models converted from fairseq, which has no token types. Hidden states
    stay bit-identical, because the model adds these two first. Padding is not affected, because its
    output is zero here.
    """
    found = {name: tensor for name, tensor in tensors.items() if name != _TYPES}
    if _TYPES in tensors and _WORDS in tensors and bool(tensors[_TYPES][0].any()):
        found[_WORDS] = tensors[_WORDS] + tensors[_TYPES][0]
    return found


def _expressible(encoder: params.Encoder, backbone: params.Backbone) -> None:
    vision = isinstance(encoder, params.PatchEncoder)
    bias = backbone.position_bias.kind
    wrong = {
        "norm_first": backbone.norm_first != vision,
        "key_bias": backbone.key_bias == vision,
        "final_norm": backbone.final_norm and not vision,
        "layer_scale": backbone.layer_scale is not None and not vision,
        "position_bias.kind": bias != "none" and not (vision and bias.endswith("_2d")),
        "deep_norm": backbone.deep_norm,
        "encoder.cls_token": isinstance(encoder, params.PatchEncoder) and not encoder.cls_token,
        "encoder.absolute_positions": isinstance(encoder, params.TokenEncoder)
        and not encoder.absolute_positions,
        # Hugging Face has one value for all norms; here the front end's value is fixed
        "norm_eps": isinstance(encoder, params.WaveEncoder) and backbone.norm_eps != 1e-5,
        "encoder.position_padding": isinstance(encoder, params.WaveEncoder)
        and encoder.position_padding != "once",
    }
    names = [name for name, is_wrong in wrong.items() if is_wrong]
    if names:
        raise ValueError(f"Hugging Face's model cannot express this model's {', '.join(names)}")


# --- the table --------------------------------------------------------------------------------


def _attention(ours: str, theirs: str, parts: tuple[str, str, str], biases: str) -> list[Pair]:
    """Pairs of an attention layer, whose query, key and value are one matrix here.

    `biases` lists which of q, k and v have a bias.
    """
    pairs = [Pair(f"{ours}.qkv.weight", tuple(f"{theirs}.{part}.weight" for part in parts))]
    for x, part in zip("qkv", parts, strict=True):
        if x in biases:
            pairs += one(f"{ours}.{x}_bias", f"{theirs}.{part}.bias")
    return pairs


def _audio(encoder: params.WaveEncoder, backbone: params.Backbone) -> list[Pair]:
    pairs = one("encoder.mask_embedding", "masked_spec_embed")
    for i in range(len(encoder.conv_layers)):
        theirs = f"feature_extractor.conv_layers.{i}"
        pairs += one(f"encoder.features.convs.{i}.weight", f"{theirs}.conv.weight")
        pairs += affine(f"encoder.features.norms.{i}", f"{theirs}.layer_norm")
    pairs += affine("encoder.features.norm", "feature_projection.layer_norm")
    pairs += affine("encoder.features.projection", "feature_projection.projection")
    for i in range(encoder.position_depth):
        theirs = f"encoder.pos_conv_embed.layers.{i}.conv"
        pairs += affine(f"encoder.positions.convs.{i}", theirs)
    pairs += affine("encoder.norm", "encoder.layer_norm")
    for i in range(backbone.depth):
        ours, theirs = f"backbone.blocks.{i}", f"encoder.layers.{i}"
        parts = ("q_proj", "k_proj", "v_proj")
        pairs += _attention(f"{ours}.attention", f"{theirs}.attention", parts, "qkv")
        pairs += affine(f"{ours}.attention.out", f"{theirs}.attention.out_proj")
        pairs += affine(f"{ours}.norm1", f"{theirs}.layer_norm")
        pairs += affine(f"{ours}.fc1", f"{theirs}.feed_forward.intermediate_dense")
        pairs += affine(f"{ours}.fc2", f"{theirs}.feed_forward.output_dense")
        pairs += affine(f"{ours}.norm2", f"{theirs}.final_layer_norm")
    return pairs


def _text(backbone: params.Backbone) -> list[Pair]:
    pairs = [
        *one("encoder.features.weight", _WORDS),
        *one("encoder.positions.weight", "embeddings.position_embeddings.weight"),
        *affine("encoder.norm", "embeddings.LayerNorm"),
    ]
    for i in range(backbone.depth):
        ours, theirs = f"backbone.blocks.{i}", f"encoder.layer.{i}"
        parts = ("query", "key", "value")
        pairs += _attention(f"{ours}.attention", f"{theirs}.attention.self", parts, "qkv")
        pairs += affine(f"{ours}.attention.out", f"{theirs}.attention.output.dense")
        pairs += affine(f"{ours}.norm1", f"{theirs}.attention.output.LayerNorm")
        pairs += affine(f"{ours}.fc1", f"{theirs}.intermediate.dense")
        pairs += affine(f"{ours}.fc2", f"{theirs}.output.dense")
        pairs += affine(f"{ours}.norm2", f"{theirs}.output.LayerNorm")
    return pairs


def _vision(encoder: params.PatchEncoder, backbone: params.Backbone) -> list[Pair]:
    pairs = [
        *one("encoder.cls", "embeddings.cls_token"),
        *one("encoder.mask_embedding", "embeddings.mask_token"),
        *affine("encoder.features", "embeddings.patch_embeddings.projection"),
    ]
    if encoder.absolute_positions:
        pairs += one("encoder.positions", "embeddings.position_embeddings")
    if backbone.position_bias.kind == "shared_2d":
        theirs = "encoder.relative_position_bias.relative_position_bias_table"
        pairs += one("backbone.position_bias.table", theirs)
    for i in range(backbone.depth):
        ours, theirs = f"backbone.blocks.{i}", f"encoder.layer.{i}"
        if backbone.layer_scale is not None:
            pairs += one(f"{ours}.gamma1", f"{theirs}.lambda_1")
            pairs += one(f"{ours}.gamma2", f"{theirs}.lambda_2")
        parts = ("query", "key", "value")
        pairs += _attention(f"{ours}.attention", f"{theirs}.attention.attention", parts, "qv")
        if backbone.position_bias.kind == "per_layer_2d":
            table = "relative_position_bias.relative_position_bias_table"
            table = f"{theirs}.attention.attention.{table}"
            pairs += one(f"{ours}.attention.position_bias.table", table)
        pairs += affine(f"{ours}.attention.out", f"{theirs}.attention.output.dense")
        pairs += affine(f"{ours}.norm1", f"{theirs}.layernorm_before")
        pairs += affine(f"{ours}.fc1", f"{theirs}.intermediate.dense")
        pairs += affine(f"{ours}.fc2", f"{theirs}.output.dense")
        pairs += affine(f"{ours}.norm2", f"{theirs}.layernorm_after")
    # a model with mean pooling has its norm in the head instead
    return pairs + (affine("backbone.norm", "layernorm") if backbone.final_norm else [])

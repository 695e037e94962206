"""Read Hugging Face's preprocessor_config.json: every field that affects pixels or waveforms.

Source: transformers, image_processing_backends.py (TorchvisionBackend),
models/{beit,vit,deit}/image_processing_*.py, models/wav2vec2/feature_extraction_wav2vec2.py.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, StrictBool, StrictInt, ValidationError

from d2v import params
from d2v.interop.content import Content, first_fault
from d2v.params import RATE, ImageInput, Resampling, WaveInput
from d2v.util.errors import UserError

RESAMPLING: tuple[Resampling, ...] = (
    "nearest", "lanczos", "bilinear", "bicubic", "box", "hamming",
)  # fmt: skip
OF_TENSORS = ("nearest", "lanczos", "bilinear", "bicubic")  # supported when resizing tensors
# fields that do not affect the pixels of an RGB image
NEUTRAL = {
    "image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb",
    "do_reduce_labels", "reduce_labels", "input_data_format", "return_tensors", "device",
    "disable_grouping", "image_seq_length", "model_input_names", "transformers_version",
}  # fmt: skip
# defaults of each kind of processor, where they differ from those of `Fields`
KINDS: dict[str, dict[str, Any]] = {
    "Beit": {},
    "ViT": {"resample": 2},
    "DeiT": {"size": 256, "do_center_crop": True},
}
SUFFIXES = ("ImageProcessor", "ImageProcessorFast", "FeatureExtractor")
Size = StrictInt | list[StrictInt] | dict[str, StrictInt | None]
Number = StrictInt | float


class Fields(BaseModel):
    """Steps of an image processor, in this order; absent or null fields have these defaults."""

    model_config = ConfigDict(extra="allow")

    do_resize: StrictBool = True
    size: Size = 224
    default_to_square: StrictBool = True
    resample: StrictInt = 3
    do_center_crop: StrictBool = False
    crop_size: Size = 224
    do_rescale: StrictBool = True
    rescale_factor: Number = 1 / 255
    do_normalize: StrictBool = True
    image_mean: Number | list[Number] = 0.5
    image_std: Number | list[Number] = 0.5
    data_format: str = "channels_first"


def read(given: Mapping[str, Any], where: Path, encoder: params.PatchEncoder) -> ImageInput:
    """How pixels are prepared for a model with this encoder.

    Raises UserError that names the field that is not supported or does not fit the model.
    """
    try:
        return _inputs(given, encoder)
    except (ValidationError, ValueError) as error:
        raise UserError(f"{where}: {first_fault(error)}") from None


def _inputs(given: Mapping[str, Any], encoder: params.PatchEncoder) -> ImageInput:
    there = {key: value for key, value in given.items() if value is not None}
    fields = Fields.model_validate({**_defaults(there), **there})
    for key, value in (fields.model_extra or {}).items():
        if key not in NEUTRAL and value is not False:
            raise ValueError(f"{key} {value!r} is not supported")
    if fields.data_format != "channels_first":
        raise ValueError(
            f"data_format {fields.data_format!r} is not supported; models take channels_first"
        )
    mean, std = _standardisation(fields, encoder.channels)
    resize, stretch = _resizing(fields)
    side = encoder.image_size
    if fields.do_center_crop:
        _fit("crop_size", _both_sides("crop_size", fields.crop_size), side)
    elif stretch is not None:
        _fit("size", stretch, side)
    elif resize is not None:
        raise ValueError(
            f"size.shortest_edge {resize} without do_center_crop: images keep their aspect"
            f" ratio, but the model takes {side} x {side}"
        )
    return ImageInput(
        mean=mean,
        std=std,
        resize=resize,
        stretch=stretch,
        resampling=_resampling(fields),
        sizing="transformers",
    )


def _defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of the processor kind that the file names; without a name, those of BEiT's."""
    name = given.get(
        "image_processor_type", given.get("feature_extractor_type", "Beit" + SUFFIXES[0])
    )
    known = {kind + suffix: KINDS[kind] for kind in KINDS for suffix in SUFFIXES}
    if not isinstance(name, str) or name not in known:
        raise ValueError(
            f"image_processor_type {name!r} is not supported; use one of"
            f" {', '.join(kind + SUFFIXES[0] for kind in KINDS)}"
        )
    return known[name]


def _fit(field: str, sides: list[int], side: int) -> None:
    if sides != [side, side]:
        raise ValueError(
            f"{field} gives images of {sides[0]} x {sides[1]}, but the model takes {side} x {side}"
        )


def _resampling(fields: Fields) -> Resampling:
    if not 0 <= fields.resample < len(RESAMPLING):
        raise ValueError(f"resample {fields.resample} is not supported")
    found = RESAMPLING[fields.resample]
    if fields.do_resize and found not in OF_TENSORS:
        raise ValueError(f"resample {fields.resample} ({found}) is not supported")
    return found


def _resizing(fields: Fields) -> tuple[int | None, list[int] | None]:
    """Length of the shorter side, or height and width; both None if images keep their size."""
    if not fields.do_resize:
        return None, None
    size = fields.size
    if isinstance(size, int) and not fields.default_to_square:
        size = {"shortest_edge": size}
    if isinstance(size, dict):
        named = {key: value for key, value in size.items() if value is not None}
        if named.keys() == {"shortest_edge"}:
            return _positive("size.shortest_edge", named["shortest_edge"]), None
    return None, _both_sides("size", size)


def _both_sides(field: str, size: Size) -> list[int]:
    """Height and width of 224, [224, 224] or {height: 224, width: 224}."""
    if isinstance(size, int):
        size = [size, size]
    if isinstance(size, dict):
        named = {key: value for key, value in size.items() if value is not None}
        size = [named[key] for key in ("height", "width") if key in named]
        if named.keys() != {"height", "width"}:
            raise ValueError(f"{field} with {', '.join(named) or 'nothing'} is not supported")
    if len(size) != 2:
        raise ValueError(f"{field} {size}: height and width are expected")
    return [_positive(field, length) for length in size]


def _positive(field: str, length: int | None) -> int:
    if length is None or length < 1:
        raise ValueError(f"{field}: {length} is not a valid side length")
    return length


def _standardisation(fields: Fields, channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation for pixels in [0, 1] with the processor's effect on 0 ... 255.

    The processor computes (v * rescale_factor - mean) / std, where each step is optional.
    """
    factor = fields.rescale_factor if fields.do_rescale else 1.0
    if not math.isfinite(factor) or factor <= 0:
        raise ValueError(f"rescale_factor {factor} is not above 0")
    mean, std = [0.0] * channels, [1.0] * channels
    if fields.do_normalize:
        mean = _of_channels("image_mean", fields.image_mean, channels)
        std = _of_channels("image_std", fields.image_std, channels)
        if min(std) <= 0:
            raise ValueError(f"image_std {std} is not above 0")
    scale = 255 * factor
    if math.isclose(scale, 1.0, rel_tol=1e-9):  # 1 / 255 up to rounding
        return mean, std
    return [value / scale for value in mean], [value / scale for value in std]


def _of_channels(field: str, values: float | list[float], channels: int) -> list[float]:
    found = [float(v) for v in (values if isinstance(values, list) else [values])]
    if not all(map(math.isfinite, found)):
        raise ValueError(f"{field} {found} is not finite")
    if len(found) not in (1, channels):
        raise ValueError(
            f"{field} has {len(found)} values, but the model takes {channels} channels"
        )
    return found * channels if len(found) == 1 else found


# --- waveforms --------------------------------------------------------------------------------


class WaveFields(BaseModel):
    """Steps of a feature extractor, without padding, which is applied when a batch is built."""

    model_config = ConfigDict(extra="ignore")

    feature_extractor_type: Literal["Wav2Vec2FeatureExtractor"] = "Wav2Vec2FeatureExtractor"
    do_normalize: StrictBool = True
    sampling_rate: StrictInt = RATE
    feature_size: Literal[1] = 1


def read_waves(given: Mapping[str, Any], where: Path) -> WaveInput:
    """How waveforms are prepared; raises UserError that names a field that is not supported."""
    try:
        fields = WaveFields.model_validate({k: v for k, v in given.items() if v is not None})
        return WaveInput(normalise=fields.do_normalize, eps=1e-7, rate=fields.sampling_rate)
    except ValidationError as error:
        raise UserError(f"{where}: {first_fault(error)}") from None


# --- writing ----------------------------------------------------------------------------------


def written(content: Content, inputs: ImageInput) -> dict[str, Any]:
    """preprocessor_config.json for a checkpoint whose mean and standard deviation are known."""
    encoder = content.architecture.encoder
    assert isinstance(encoder, params.PatchEncoder)
    side = encoder.image_size
    size: dict[str, int] = {"height": side, "width": side}
    if inputs.stretch:
        size = dict(zip(("height", "width"), inputs.stretch, strict=True))
    elif inputs.resize:
        size = {"shortest_edge": inputs.resize}
    return {
        "image_processor_type": "BeitImageProcessor",
        "do_resize": inputs.resize is not None or inputs.stretch is not None,
        "size": size,
        "resample": RESAMPLING.index(inputs.resampling),
        "do_center_crop": inputs.stretch != [side, side],
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": inputs.mean,
        "image_std": inputs.std,
        "do_reduce_labels": False,
    }

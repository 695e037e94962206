"""Images for training: views, standardisation, block masks (paper 4.1), mixing (BEiT)."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from d2v import params
from d2v.data import on_device
from d2v.data.augment import array, crop, erase, image, mixing, resized, seed_of
from d2v.data.examples import Batch, Decoded, Example, Examples, Place, Source, hiding, removing
from d2v.data.files import Files, Prepared
from d2v.data.given import picture_of
from d2v.data.readers.imagefolder import picture
from d2v.data.record import NORMALISATIONS, colours
from d2v.data.sizing import sized
from d2v.data.views import Choice, draw, finished, part, reduction
from d2v.model.exact_masks import copied, removed_masks
from d2v.model.masking import Key, block_masks, rng
from d2v.util.errors import UserError

__all__ = ["Images", "crop"]

_ERASING, _MIXING = 1, 2  # random streams, separate from that of the view


class Images(Examples):
    """Images of a prepared ImageFolder, standardised per channel."""

    kinds = ("imagefolder",)

    def __init__(
        self,
        source: Source,
        view: params.ImageAugment,
        encoder: params.PatchEncoder,
        mask: params.BlockMask | params.InverseBlockMask | params.RandomMask | None = None,
        task: params.Classify | None = None,
        copies: int = 1,
    ) -> None:
        super().__init__(source)
        self.copies = copies
        if task is not None and task.classes != len(self.meta["classes"]):
            raise UserError(
                f"{source.prepared}: {len(self.meta['classes'])} classes, but task.classes is"
                f" {task.classes}"
            )
        if error := next(encoder.sees(view), None):
            raise UserError(error)
        self.view, self.encoder, self.mask, self.task = view, encoder, mask, task
        # without augmentation, skip creating generators: that takes longer than the crop itself
        self.augmented = self.train and any(
            (view.shift, view.random_resized_crop, view.flip, view.color_jitter, view.rand_augment)
        )
        self.on_device = self.train and view.decode == "device"
        self.mix = None
        if self.train and (view.mixup or view.cutmix):
            if task is None:
                raise UserError("view.mixup and view.cutmix mix classes, and there are none")
            self.mix = mixing(view, task)
        self._standardise()
        self.upright = bool(self.meta.get("upright"))  # whether EXIF orientations are applied
        self.labels = self.shards.numbers("label")
        self.heights, self.widths = self.shards.numbers("height"), self.shards.numbers("width")
        area = (self.heights * self.widths)[self.rows]
        self.pixels = Decoded(self._decode, int(area.sum()) * encoder.channels)

    def __getitem__(self, place: Place) -> Example:
        """Return pixels (size, size, C) uint8: a random view in training, otherwise the centre.

        With `view.decode: device`, return the file and the random choice of the view instead.
        """
        row, size = int(self.rows[place[1]]), self.encoder.image_size
        name, label = self.ids[place[1]], self.labels[row]
        example: Example = {"place": place, "id": name, "label": label}
        if self.on_device:
            file = np.frombuffer(self.shards.payload(row), np.uint8)
            return example | {"file": file, "choice": self._choice(row, place)}
        if self.augmented:
            pixels = self._augmented(row, place)
        elif self.view.resize is not None and not self.train:
            shape = int(self.heights[row]), int(self.widths[row])
            shown, by = self._picture(row, self._reduction(min(shape), self.view.resize))
            pixels = resized(shown, self.view.resize, size, shape, by)
        else:
            pixels = crop(self.pixels[row], size)
        return example | {"pixels": pixels}

    def collate(self, examples: list[Example]) -> Batch:
        """`images` (B, C, H, W) float32, and masks (`hiding`) and `labels` (B,) if needed.

        Labels of mixed images are soft: (B, classes). With `view.decode: device`, the batch has
        `files` instead, from which `finish` makes the images.
        """
        batch: Batch = {"ids": [e["id"] for e in examples]}
        keys = self.keys(examples)
        if self.on_device:
            files, choices = [e["file"] for e in examples], [e["choice"] for e in examples]
            batch["files"] = on_device.joined(files, choices, upright=self.upright)
        else:
            pixels = torch.from_numpy(np.stack([e["pixels"] for e in examples]))
            batch["images"] = self._standardised(pixels.permute(0, 3, 1, 2))
        if self.train and self.view.erase:
            erase(batch["images"], self.view.erase, [seed_of(*key, _ERASING) for key in keys])
        if self.mask is not None:
            batch |= self._hidden(self.mask, keys)
        if self.task is not None:
            batch["labels"] = torch.tensor([int(e["label"]) for e in examples])
        if self.mix is not None:
            seed = seed_of(*(number for key in keys for number in key), _MIXING)
            batch["images"], batch["labels"] = self.mix(batch["images"], batch["labels"], seed)
        return batch

    def finish(self, batch: Batch, device: torch.device) -> Batch:
        """Decode the batch's files to `images` on the device; without files, change nothing."""
        if "files" not in batch:
            return batch
        rest = {name: value for name, value in batch.items() if name != "files"}
        size, ids = self.encoder.image_size, [f"{self.folder}: {name}" for name in batch["ids"]]
        views = on_device.views(batch["files"], ids, size, device)
        return rest | {"images": self._standardised(views)}

    def _hidden(self, mask: params.Mask, keys: list[Key]) -> Batch:
        """`hiding` of the B images, or `removing` of their B * copies copies."""
        grid = self.encoder.grid
        if isinstance(mask, params.BlockMask):
            return hiding(block_masks(mask, grid, keys))
        keys = copied(keys, self.copies)
        return removing(removed_masks(mask, np.full(len(keys), grid**2), keys))

    def _standardised(self, pixels: Tensor) -> Tensor:
        """Standardise pixels (B, C, H, W) uint8, on any device, to float32."""
        images = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        return images.sub_(self.mean.to(images.device)).div_(self.std.to(images.device))

    def _standardise(self) -> None:
        """Set the mean and std (C, 1, 1) of pixels from 0 to 255, and the mean colour as fill.

        Raises UserError if the colours are unknown, or if all images have one colour.
        """
        mean, std = colours(self.meta, self.view.normalise, self.encoder.channels)
        if mean is None or std is None:
            raise UserError(
                f"{self.folder}: prepared with --headers, so its colours are unknown: set"
                f" view.normalise to {' or '.join(NORMALISATIONS)}, or prepare it again"
            )
        self.mean = 255 * torch.tensor(mean).view(-1, 1, 1)
        self.std = 255 * torch.tensor(std).view(-1, 1, 1)
        if not bool((self.std > 0).all()):
            raise UserError(
                f"{self.folder}: all images have a single colour, so they cannot be standardised"
            )
        self.fill = tuple(min(255, round(255 * value)) for value in mean)

    def _choice(self, row: int, place: Place) -> Choice:
        shape = int(self.heights[row]), int(self.widths[row])
        return draw(self.view, shape, self.encoder.image_size, rng(self.seed, *place))

    def _augmented(self, row: int, place: Place) -> np.ndarray:
        """Make a random view (size, size, C)."""
        size, choice = self.encoder.image_size, self._choice(row, place)
        if choice.box is not None:
            smaller = self._reduction(min(choice.box.height, choice.box.width), size)
            shown, by = self._picture(row, smaller)
            pixels = array(part(shown, choice, size, by))
        elif choice.jitter:
            pixels = array(part(self._picture(row)[0], choice, size))
        else:
            pixels = self.pixels[row]
        return finished(pixels, choice, self.view, size, self.fill)

    def _reduction(self, have: int, need: int) -> int:
        return reduction(have, need) if self.view.reduced else 1

    def _picture(self, row: int, by: int = 1) -> tuple[Image.Image, int]:
        """Return an image decoded `by` times smaller, and the factor that was applied.

        Files that decode at one scale only are returned whole. Keeping images in memory does not
        change the views.
        """
        if by == 1 and self.pixels.kept:
            return image(self.pixels[row]), 1
        found = picture(self.shards.payload(row), self._name(row), by, upright=self.upright)
        by = by if found.height < self.heights[row] else 1
        return found if self.encoder.channels == 3 else found.convert("L"), by

    def _decode(self, row: int) -> np.ndarray:
        found = picture(self.shards.payload(row), self._name(row), upright=self.upright)
        return array(found if self.encoder.channels == 3 else found.convert("L"))

    def _name(self, row: int) -> str:
        return f"{self.folder}: {self.shards.texts('id')[row]}"


def dataset(
    source: Source,
    view: params.ImageAugment,
    encoder: params.PatchEncoder,
    mask: params.Mask | None,
    task: params.Task | None,
    copies: int,
) -> Examples | None:
    """The data set for a mask and a task; None if there is none for them."""
    match mask, task:
        case (
            (None | params.BlockMask() | params.InverseBlockMask() | params.RandomMask()) as blocks,
            (None | params.Classify()) as classes,
        ):
            return Images(source, view, encoder, blocks, classes, copies)
    return None


# --- inputs from files, and their record ------------------------------------------------------


def inputs_of(prepared: Prepared, encoder: params.PatchEncoder) -> params.ImageInput:
    """Record of a prepared set of images."""
    view = prepared.view
    mean, std = colours(prepared.meta, view.get("normalise", "dataset"), encoder.channels)
    return params.ImageInput(
        mean=mean, std=std, resize=view.get("resize"), classes=prepared.classes
    )


class ImageFiles(Files):
    """Image files as pixels (C, H, W)."""

    portion = 16

    def __init__(self, encoder: params.PatchEncoder, how: params.ImageInput) -> None:
        self.encoder, self.how = encoder, how

    def read(self, content: Any, name: str) -> np.ndarray:
        """Pixels (C, H, W), standardised; raises UserError for what is no picture."""
        try:
            whole = picture_of(content, name)
        except OSError as error:
            raise UserError(f"{name}: {error.strerror}") from None
        return self.standardised(whole)

    def standardised(self, whole: Image.Image) -> np.ndarray:
        """Pixels (C, H, W) of an RGB image; raises UserError if the model's colours are unknown."""
        encoder, how = self.encoder, self.how
        if how.mean is None or how.std is None:
            raise UserError(
                "the pixel mean and deviation for this checkpoint are unknown: a Hugging Face"
                " folder needs its preprocessor_config.json, a run its prepared data"
            )
        pixels = array(whole.convert("L") if encoder.channels == 1 else whole)
        pixels = sized(pixels, encoder.image_size, how)
        mean, std = (np.array(values, np.float32) * 255 for values in (how.mean, how.std))
        standardised = (pixels.astype(np.float32) - mean) / std
        return np.ascontiguousarray(standardised.transpose(2, 0, 1))

    def size(self, value: np.ndarray) -> int:
        """One image."""
        return 1

    def batch(self, values: list[np.ndarray]) -> dict[str, Tensor]:
        """`images` (B, C, H, W)."""
        return {"images": torch.from_numpy(np.stack(values))}


class Pictures(Examples):
    """Labelled images of a prepared set as a loaded model takes them, not as a recipe does."""

    kinds = ("imagefolder",)

    def __init__(self, source: Source, files: ImageFiles) -> None:
        super().__init__(source)
        self.files = files

    def __getitem__(self, place: Place) -> Example:
        """Return standardised pixels (C, H, W) float32."""
        row, name = int(self.rows[place[1]]), self.ids[place[1]]
        upright = bool(self.meta.get("upright"))
        whole = picture(self.shards.payload(row), f"{self.folder}: {name}", upright=upright)
        return {"place": place, "id": name, "pixels": self.files.standardised(whole)}

    def collate(self, examples: list[Example]) -> Batch:
        """`images` (B, C, H, W) float32."""
        return {
            "ids": [e["id"] for e in examples],
            **self.files.batch([e["pixels"] for e in examples]),
        }

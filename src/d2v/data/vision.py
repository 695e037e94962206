"""Images for training: views, standardisation, block masks (paper 4.1)."""

import numpy as np
import torch
from PIL import Image

from d2v import params
from d2v.data.examples import Batch, Decoded, Example, Examples, Place, Source
from d2v.data.imagefolder import decode, grey
from d2v.errors import UserError
from d2v.masking import block_masks, rng


class Images(Examples):
    """Images of a prepared ImageFolder, standardised with its mean and standard deviation."""

    kinds = ("imagefolder",)

    def __init__(
        self,
        source: Source,
        view: params.ImageAugment,
        encoder: params.PatchEncoder,
        mask: params.BlockMask | None = None,
        task: params.Classify | None = None,
    ) -> None:
        super().__init__(source)
        if task is not None and task.classes != len(self.meta["classes"]):
            raise UserError(
                f"{source.prepared}: {len(self.meta['classes'])} classes, but task.classes is"
                f" {task.classes}"
            )
        if encoder.channels not in (1, 3):
            raise UserError(f"encoder.channels is {encoder.channels}: images have 1 or 3")
        self.view, self.encoder, self.mask, self.task = view, encoder, mask, task
        # without augmentation no generators are made, which take longer than the crop
        self.augmented = self.train and any(
            (view.shift, view.random_resized_crop, view.flip, view.color_jitter)
        )
        colours = slice(0, 3) if encoder.channels == 3 else slice(3, 4)
        self.mean = 255 * torch.tensor(self.meta["mean"][colours]).view(-1, 1, 1)
        self.std = 255 * torch.tensor(self.meta["std"][colours]).view(-1, 1, 1)
        if not bool((self.std > 0).all()):
            raise UserError(
                f"{source.prepared}: all images have one colour, nothing to standardise by"
            )
        self.labels = self.shards.numbers("label")
        area = self.shards.numbers("height") * self.shards.numbers("width")
        self.pixels = Decoded(self._decode, int(area[self.rows].sum()) * encoder.channels)

    def __getitem__(self, place: Place) -> Example:
        """Pixels (size, size, C) uint8 of the view: random in training, else the centre."""
        epoch, index = place
        row = int(self.rows[index])
        pixels, size = self.pixels[row], self.encoder.image_size
        if self.augmented:
            pixels = augment(pixels, self.view, size, rng(self.seed, epoch, index))
        else:
            pixels = crop(pixels, size)
        return {"place": place, "id": self.ids[index], "pixels": pixels, "label": self.labels[row]}

    def collate(self, examples: list[Example]) -> Batch:
        """`images` (B, C, H, W) float32; `mask` (B, T) and `labels` (B,) where asked for."""
        pixels = torch.from_numpy(np.stack([e["pixels"] for e in examples]))
        images = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        batch: Batch = {
            "ids": [e["id"] for e in examples],
            "images": images.sub_(self.mean).div_(self.std),
        }
        if self.mask is not None:
            hidden = block_masks(self.mask, self.encoder.grid, self.keys(examples))
            batch["mask"] = torch.from_numpy(hidden)
        if self.task is not None:
            batch["labels"] = torch.tensor([int(e["label"]) for e in examples])
        return batch

    def _decode(self, row: int) -> np.ndarray:
        image = decode(self.shards.payload(row), f"{self.folder}: {self.shards.texts('id')[row]}")
        return image if self.encoder.channels == 3 else grey(image)[..., None]


def augment(
    pixels: np.ndarray, view: params.ImageAugment, size: int, random: np.random.Generator
) -> np.ndarray:
    """A random view of pixels (H, W, C) uint8: (size, size, C).

    Colour jitter, then a random resized crop or a shifted centre crop, then a flip. Depends on
    the generator only.
    """
    if view.color_jitter or view.random_resized_crop:
        pixels = _torchvision(pixels, view, size, int(random.integers(2**62)))
    rows, columns = random.integers(-view.shift, view.shift + 1, 2) if view.shift else (0, 0)
    pixels = crop(pixels, size, int(rows), int(columns))
    if view.flip and random.random() < 0.5:
        pixels = pixels[:, ::-1]
    return pixels


def crop(pixels: np.ndarray, size: int, rows: int = 0, columns: int = 0) -> np.ndarray:
    """The centre of pixels (H, W, C), moved by rows and columns: (size, size, C).

    Images too small are first enlarged (bicubic) until the shorter side fits. What lies outside of
    the image is zero.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        scale = size / min(height, width)
        shape = (max(size, round(width * scale)), max(size, round(height * scale)))
        pixels = _array(_image(pixels).resize(shape, Image.Resampling.BICUBIC))
        height, width = pixels.shape[:2]
    top, left = (height - size) // 2 + rows, (width - size) // 2 + columns
    if 0 <= top <= height - size and 0 <= left <= width - size:
        return pixels[top : top + size, left : left + size]
    room = max(abs(rows), abs(columns))
    padded = np.pad(pixels, ((room, room), (room, room), (0, 0)))
    return padded[top + room : top + room + size, left + room : left + room + size]


def _torchvision(pixels: np.ndarray, view: params.ImageAugment, size: int, seed: int) -> np.ndarray:
    """Jitter and crop as torchvision has them, from random numbers of their own."""
    from torchvision.transforms import v2

    steps: list[torch.nn.Module] = []
    if view.color_jitter:
        steps.append(v2.ColorJitter(view.color_jitter, view.color_jitter, view.color_jitter))
    if view.random_resized_crop:
        smallest, largest = view.random_resized_crop
        bicubic = v2.InterpolationMode.BICUBIC
        steps.append(v2.RandomResizedCrop(size, (smallest, largest), interpolation=bicubic))
    with torch.random.fork_rng(devices=[]):  # the trainer's random numbers stay as they are
        torch.manual_seed(seed)
        return _array(v2.Compose(steps)(_image(pixels)))


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _array(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[..., None]

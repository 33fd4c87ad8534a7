"""Prepares init images for sampling, and pastes results back into them. Pillow and numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps

from modules.imaging import masks, resize
from modules.imaging import soft_inpainting as soft
from modules.imaging.color_correction import corrected
from modules.imaging.masks import Box
from modules.imaging.resize import Enlarge, resized
from modules.params.generation import Init, Mask, SoftInpainting

SMALLEST, LARGEST = 64, 4096
"""Pixel limits of the sides of an image that is encoded in its own size."""


@dataclass(frozen=True)
class InitImage:
    """A prepared init image: what is encoded, the mask, and how results are pasted back."""

    unchanged: Image.Image
    """The result if nothing is to be changed."""
    image: Image.Image
    """RGB, to be encoded: resized, cropped, and filled under the mask."""
    mask: Image.Image | None = None
    """Of the size of ``image``; white is repainted."""
    is_rounded: bool = True
    """The mask has no greys: each place is repainted or kept."""
    soft: SoftInpainting | None = None
    """Soft inpainting: how mask greys and latent changes determine the result; None without it."""
    overlay: Image.Image | None = None
    """RGBA: pasted over the result."""
    box: Box | None = None
    """Where the result goes in the overlay; None: it covers everything."""
    like: Image.Image | None = None
    """The image whose colours the result takes on (colour correction)."""

    @property
    def is_protected(self) -> bool:
        """Whether the mask is all black, so that nothing is repainted."""
        return self.mask is not None and self.mask.getbbox() is None

    def latent_mask(self, height: int, width: int) -> NDArray[np.float32] | None:
        """The mask for latents of that size, 1 = repaint."""
        return None if self.mask is None else masks.latent_mask(self.mask, width, height, rounded=self.is_rounded)

    def finished(self, image: Image.Image, distance: NDArray[np.float32] | None = None) -> Image.Image:
        """The finished image: colour-corrected, with the protected pixels of the original pasted over it.

        ``distance`` (h, w): how far its latents are from those of the start, which soft inpainting asks.
        """
        if self.like is not None:
            image = corrected(image, self.like)
        if self.overlay is None:
            return image
        whole, overlay = self._placed(image.convert("RGBA")), self.overlay
        mask = self.latent_mask(*distance.shape) if self.soft and distance is not None else None
        if self.soft and distance is not None and mask is not None:
            new = self._placed(soft.changed(distance, mask, self.soft, *image.size))
            overlay = overlay.copy()
            overlay.putalpha(ImageChops.lighter(overlay.getchannel("A"), ImageOps.invert(new)))
        whole.alpha_composite(overlay)
        return whole.convert("RGB")

    def _placed(self, image: Image.Image) -> Image.Image:
        """``image`` pasted at its box on an empty canvas of the full size."""
        if self.box is None or self.overlay is None:
            return image
        left, top, right, bottom = self.box
        sheet = Image.new(image.mode, self.overlay.size)
        sheet.paste(resized(image, resize.CROP, right - left, bottom - top), (left, top))
        return sheet


def prepare(
    init: Init, image: Image.Image, mask: Image.Image | None, width: int, height: int, enlarge: Enlarge | None = None
) -> InitImage:
    """Prepare ``image`` and ``mask`` as ``init`` says for a run of ``width`` x ``height``."""
    image = flattened(image, init.background)
    whole = _within(resized(image, init.resize_mode, width, height, enlarge))
    if init.mask is None or mask is None:
        unchanged = whole if whole.size == (width, height) else resized(image, resize.JUST, width, height)
        return InitImage(unchanged, whole, like=whole if init.colour_correction else None)
    mask = _prepared_mask(init.mask, mask, image.size)
    if init.mask.only_masked:
        return _region(init, init.mask, image, mask, width, height, enlarge)
    mode = resize.JUST if init.resize_mode == resize.LATENT else init.resize_mode
    whole, mask = resized(image, mode, width, height, enlarge), resized(mask, mode, width, height)
    return _masked(init, init.mask, whole, whole, mask, masks.doubled(mask), None)


def _within(image: Image.Image) -> Image.Image:
    """Resize an image that is encoded in its own size to within the autoencoder's limits."""
    width, height = (min(max(side, SMALLEST), LARGEST) for side in image.size)
    return resized(image, resize.JUST, width, height)


def flattened(image: Image.Image, background: str = "#ffffff") -> Image.Image:
    """Convert to RGB, with transparency over the background colour."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    sheet = Image.new("RGBA", image.size, background)
    sheet.alpha_composite(image)
    return sheet.convert("RGB")


def is_rounded(wanted: Mask) -> bool:
    """Whether the mask is binary: each place is either repainted or kept."""
    return wanted.round and wanted.soft is None


def _prepared_mask(wanted: Mask, mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    mask = masks.grey_mask(mask, rounded=is_rounded(wanted))
    if mask.size != size:
        mask = mask.resize(size, resize.LANCZOS)
    return masks.blurred(ImageOps.invert(mask) if wanted.invert else mask, wanted.blur)


def _region(
    init: Init, wanted: Mask, image: Image.Image, mask: Image.Image, width: int, height: int, enlarge: Enlarge | None
) -> InitImage:
    box = masks.region(mask, wanted.padding)
    if box is None:
        return InitImage(image, image, mask)
    box = masks.in_shape(box, width, height, image.size)
    part = resized(image.crop(box), resize.FILL, width, height, enlarge)
    part_mask = resized(mask.crop(box), resize.FILL, width, height)
    return _masked(init, wanted, image, part, part_mask, mask, box)


def _masked(
    init: Init,
    wanted: Mask,
    unchanged: Image.Image,
    source: Image.Image,
    mask: Image.Image,
    shown: Image.Image,
    box: Box | None,
) -> InitImage:
    """Build a masked `InitImage`: ``mask`` belongs to ``source``, which is encoded, ``shown`` to ``unchanged``,
    which is pasted over the result.
    """
    image = source if wanted.content == masks.ORIGINAL else masks.filled(source, mask)
    return InitImage(
        unchanged=unchanged,
        image=image,
        mask=mask,
        is_rounded=is_rounded(wanted),
        soft=wanted.soft,
        overlay=masks.overlay(unchanged, masks.widest(shown) if wanted.soft else shown) if wanted.overlay else None,
        box=box if wanted.overlay else None,
        like=image if init.colour_correction else None,
    )

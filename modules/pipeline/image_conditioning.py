"""Image conditioning: encodes init images to latents, and makes the extra input channels of inpainting and pix2pix
models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.checkpoints.families.base import INPAINTING, PIX2PIX
from modules.checkpoints.model import LatentDiffusion
from modules.imaging import masks, resize
from modules.imaging.resize import Enlarge, resized
from modules.imaging.tensors import to_images, to_tensor
from modules.params.generation import GenerationParams, Init
from modules.pipeline.hires import LATENT_MODES, crop_latents, resize_latents
from modules.pipeline.init_image import InitImage, is_rounded
from modules.pipeline.plan import Batch, HiresPass
from modules.pipeline.sample import Start, batch_noise


def encode(model: LatentDiffusion, batch: Batch, init_images: Sequence[InitImage], init: Init) -> Start:
    """Encode ``init_images`` as the start of a run, one for all images or one each; masked parts are filled as ``init``
    says.
    """
    size = model.config.latent.size(batch.params.width, batch.params.height)
    latents = torch.cat([_encoded(model, init_image, size) for init_image in init_images])
    mask = _latent_masks(init_images, size, latents.device)
    if mask is not None and init.mask:
        if init.mask.content == masks.LATENT_NOISE:
            latents = latents * (1 - mask) + batch_noise(model, batch, size, varied=False).initial() * mask
        elif init.mask.content == masks.LATENT_NOTHING:
            latents = latents * (1 - mask)
    return Start(
        latents,
        init.denoising_strength,
        exact_steps=init.exact_steps,
        noise_multiplier=init.noise_multiplier,
        extra_noise=init.extra_noise,
        mask=mask,
        soft=init.mask.soft if init.mask else None,
    )


def _encoded(model: LatentDiffusion, init_image: InitImage, size: tuple[int, int]) -> Tensor:
    latents = model.encode(to_tensor(init_image.image)[None]).to(model.device.device)
    if tuple(latents.shape[2:]) == size:
        return latents
    return resize_latents(latents, "Latent", size[1], size[0])


def _latent_masks(init_images: Sequence[InitImage], size: tuple[int, int], device: torch.device) -> Tensor | None:
    """The masks in latent size (n or 1, 1, h, w). Of several images, one whose mask is empty is kept entirely."""
    found = [init_image.latent_mask(*size) for init_image in init_images]
    known = next((mask for mask in found if mask is not None), None)
    if known is None:
        return None
    stacked = np.stack([np.zeros_like(known) if mask is None else mask for mask in found])
    return torch.from_numpy(stacked)[:, None].to(device)


def mask_weight(params: GenerationParams) -> float:
    """How much of the masked part is hidden from an inpainting model."""
    return params.init.mask.conditioning if params.init and params.init.mask else 1.0


def image_conditioning(model: LatentDiffusion, batch: Batch, init_images: Sequence[InitImage]) -> Tensor | None:
    """What the UNet sees beside the latents (n or 1, channels, h, w); None where it sees nothing more."""
    if model.config.variant == INPAINTING:
        return _inpaint_conditioning(model, batch, init_images)
    return _pix2pix_conditioning(model, batch, init_images) if model.config.variant == PIX2PIX else None


def _pix2pix_conditioning(model: LatentDiffusion, batch: Batch, init_images: Sequence[InitImage]) -> Tensor:
    """The latents of the picture to be changed, without the latents' scale (Brooks et al. 2023, arXiv:2211.09800,
    sec. 3.2). Without a picture they are zero, as in training where it was dropped.
    """
    size = width, height = batch.params.width, batch.params.height
    latent = model.config.latent
    if not init_images:
        return torch.zeros(1, latent.channels, *latent.size(*size), device=model.device.device)
    images = [to_tensor(resized(image.image, resize.JUST, width, height)) for image in init_images]
    return (
        torch.cat([model.encode(image[None]).to(model.device.device) for image in images]) / latent.scale + latent.shift
    )


def _inpaint_conditioning(model: LatentDiffusion, batch: Batch, init_images: Sequence[InitImage]) -> Tensor:
    """The mask, and the latents of the image without its masked part (n or 1, 1 + c, h, w). Without a picture the mask
    is white and the picture grey.
    """
    width, height = batch.params.width, batch.params.height
    white = torch.ones(1, height, width)
    if not init_images:
        return _conditioning(model, torch.zeros(3, height, width), white, 1.0)
    weight, wanted = mask_weight(batch.params), batch.params.init and batch.params.init.mask
    rows = []
    for init_image in init_images:
        image = to_tensor(resized(init_image.image, resize.JUST, width, height))
        mask = (to_tensor(init_image.mask)[:1] + 1).div(2) if init_image.mask else white
        rows.append(_conditioning(model, image, mask.round() if wanted and is_rounded(wanted) else mask, weight))
    return torch.cat(rows)


def _conditioning(model: LatentDiffusion, image: Tensor, mask: Tensor, weight: float) -> Tensor:
    """The extra channels of one image (1, 1 + c, h, w), from (3, f h, f w) in [-1, 1] and (1, f h, f w)."""
    device = model.device.device
    shown = image + weight * (image * (1 - mask) - image)
    size = model.config.latent.size(mask.shape[2], mask.shape[1])
    small = torch.nn.functional.interpolate(mask[None], size=size)
    return torch.cat([small.to(device), model.encode(shown[None]).to(device)], dim=1)


def latent_distance(latents: Tensor, start: Start, i: int) -> NDArray[np.float32]:
    """How far the latents (h, w) of image ``i`` moved from the init image's: the vector length over the channels."""
    before = start.latents[i % len(start.latents)]
    distance: NDArray[np.float32] = (latents[i] - before).float().norm(dim=0).cpu().numpy()
    return distance


def enlarge(
    model: LatentDiffusion, batch: Batch, second: HiresPass, latents: Tensor, enlarger: Enlarge | None
) -> Tensor:
    """Resize the latents of the first pass for the second; through pixels and ``enlarger`` if the upscaler needs
    that.
    """
    assert batch.params.hires
    width, height = second.size.upscaled
    rows, columns = model.config.latent.size(width, height)
    if batch.params.hires.upscaler in LATENT_MODES:
        larger = resize_latents(latents, batch.params.hires.upscaler, columns, rows)
    else:
        images = [to_images(model.decode(latent[None]), floor=batch.profile.floor_pixels)[0] for latent in latents]
        pixels = [to_tensor(resized(image, resize.JUST, width, height, enlarger)) for image in images]
        larger = torch.cat([model.encode(image[None]) for image in pixels]).to(latents.device)
    dropped_rows, dropped_columns = model.config.latent.size(*second.size.cropped)
    return crop_latents(larger, dropped_columns, dropped_rows)

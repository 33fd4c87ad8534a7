"""What stands between pictures and a run: latents to begin with, and what an inpainting model sees beside them."""

from __future__ import annotations

import torch
from torch import Tensor

from modules import masks, resize
from modules.checkpoints.model import LatentDiffusion
from modules.params import GenerationParams, Init
from modules.pipeline.generate import Start, batch_noise
from modules.pipeline.hires import LATENT_MODES, crop_latents, resize_latents
from modules.pipeline.picture import Picture
from modules.pipeline.plan import Batch, Second
from modules.pixels import to_images, to_tensor
from modules.resize import Enlarge, resized


def encode(model: LatentDiffusion, batch: Batch, picture: Picture, init: Init) -> Start:
    """The start of a run over ``picture``, the masked part filled as ``init`` says."""
    params = batch.params
    latents = model.encode(to_tensor(picture.image)[None]).to(model.device.device)
    size = (params.height // 8, params.width // 8)
    if tuple(latents.shape[2:]) != size:
        latents = resize_latents(latents, "Latent", size[1], size[0])
    mask = None
    if picture.latent_mask is not None and init.mask:
        mask = torch.from_numpy(picture.latent_mask)[None, None].to(latents.device)  # (1, 1, h, w)
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
    )


def mask_weight(params: GenerationParams) -> float:
    """How much of the masked part is hidden from such a model."""
    return params.init.mask.conditioning if params.init and params.init.mask else 1.0


def seen_beside(model: LatentDiffusion, batch: Batch, picture: Picture | None) -> Tensor:
    """What a 9-channel model sees beside the latents: the mask, and the picture without its masked part (spec 5.7).

    (1, 5, h, w). Without a picture the mask is white and the picture grey.
    """
    params, device = batch.params, model.device.device
    height, width = params.height // 8, params.width // 8
    if picture is None:
        image, mask = torch.zeros(3, height * 8, width * 8), torch.ones(1, height * 8, width * 8)
        weight = 1.0
    else:
        image = to_tensor(resized(picture.image, resize.JUST, width * 8, height * 8))
        white = torch.ones(1, height * 8, width * 8)
        mask = (to_tensor(picture.mask)[:1] + 1).div(2).round() if picture.mask else white
        weight = mask_weight(params)
    shown = image + weight * (image * (1 - mask) - image)
    small = torch.nn.functional.interpolate(mask[None], size=(height, width))
    return torch.cat([small.to(device), model.encode(shown[None]).to(device)], dim=1)


def enlarge(model: LatentDiffusion, batch: Batch, second: Second, latents: Tensor, enlarger: Enlarge | None) -> Tensor:
    """Latents of the first pass in the size of the second; through pixels, with ``enlarger``, where need be."""
    assert batch.params.hires
    width, height = second.size.upscaled
    if batch.params.hires.upscaler in LATENT_MODES:
        larger = resize_latents(latents, batch.params.hires.upscaler, width // 8, height // 8)
    else:
        images = [to_images(model.decode(latent[None]), floor=batch.profile.floor_pixels)[0] for latent in latents]
        pixels = [to_tensor(resized(image, resize.JUST, width, height, enlarger)) for image in images]
        larger = torch.cat([model.encode(picture[None]) for picture in pixels]).to(latents.device)
    return crop_latents(larger, *second.size.cropped)

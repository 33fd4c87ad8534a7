"""What a UNet answers with, where no file says it: SD 2.x models that predict noise or velocity look alike."""

from __future__ import annotations

import torch

from modules.checkpoints.model import LatentDiffusion


def answers_with(model: LatentDiffusion) -> str:
    """ "v" or "eps", by A1111's question: latents, text and timestep are made so that noise is answered by about the
    latents themselves, and velocity by something far below them.
    """
    unet, device = model.unet, model.device
    model.bring_unet(1, 64)
    x = torch.full((1, unet.config.in_channels, 8, 8), 0.5)
    context = torch.full((1, 2, unet.config.context_dim), 0.5)
    t = torch.tensor([999.0], device=device.device)
    answer = unet(device.place(x), t, device.place(context)).float().cpu()
    return "v" if float((answer - x).mean()) < -1 else "eps"

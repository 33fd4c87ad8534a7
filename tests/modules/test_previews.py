"""The linear preview."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.previews import fit


def test_fit_recovers_an_autoencoder_that_is_linear() -> None:
    weight = torch.tensor([[0.3, 0.1, 0.0], [0.0, 0.2, 0.1], [-0.1, 0.0, 0.2], [0.05, -0.1, 0.1]])
    bias = torch.tensor([0.1, -0.2, 0.0])

    def decode(latents: Tensor) -> Tensor:
        rgb = torch.einsum("nchw,cd->ndhw", latents, weight) + bias[None, :, None, None]
        return F.interpolate(rgb, scale_factor=8.0, mode="nearest")

    preview = fit(decode)
    assert torch.allclose(preview.weight, weight, atol=1e-5)
    assert torch.allclose(preview.bias, bias, atol=1e-5)


def test_preview_is_eight_times_the_latent_and_survives_values_that_are_no_numbers() -> None:
    preview = fit(lambda latents: F.interpolate(latents[:, :3], scale_factor=8.0))
    pixels = preview(torch.full((4, 6, 9), float("nan")))
    assert pixels.shape == (48, 72, 3)
    assert pixels.dtype.name == "uint8"

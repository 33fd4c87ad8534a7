"""The linear preview."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.checkpoints.files import Hashes
from modules.checkpoints.model import LatentDiffusion
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.imaging.latent_preview import Previews, fit


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


def test_the_map_of_an_autoencoder_is_fitted_once(tmp_path: Path) -> None:
    path = write_tiny_checkpoint(tmp_path / "tiny.safetensors")
    model = ModelStore(path.parent, Device(torch.device("cpu"), torch.float32), Hashes(), default="tiny").load()
    decoded: list[Tensor] = []

    @dataclass
    class Counting:
        sha256: str = model.sha256
        vae_sha256: str = ""

        def decode(self, latents: Tensor) -> Tensor:
            decoded.append(latents)
            return model.decode(latents)

    previews = Previews()
    latent = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        first, again = (previews.draw(cast(LatentDiffusion, Counting()), latent) for _ in range(2))
        previews.draw(cast(LatentDiffusion, Counting(vae_sha256="another")), latent)
    assert len(decoded) == 2
    assert (first.size, first.tobytes()) == ((64, 64), again.tobytes())

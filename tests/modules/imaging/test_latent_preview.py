"""The linear preview."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.checkpoints.families.base import Family
from modules.checkpoints.families.sd1 import SD1
from modules.checkpoints.families.sd2 import SD2
from modules.checkpoints.families.sdxl import SDXL, SDXL_REFINER
from modules.checkpoints.files import Hashes
from modules.checkpoints.model import LatentDiffusion
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.imaging.latent_preview import Latents, Previews, fit


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


@pytest.mark.parametrize("family", [SD1, SD2, SDXL, SDXL_REFINER], ids=lambda family: str(family.name))
def test_a_known_map_is_used_without_decoding(family: Family) -> None:
    """A unit of one channel has the colours of that channel's row; A1111's table has them for each family."""

    class Undecodable:
        sha256, vae_sha256 = family.name, ""

        def decode(self, latents: Tensor) -> Tensor:
            raise AssertionError("decoded")

    of = Latents(rgb=family.latent.rgb)
    for channel, row in enumerate(family.latent.rgb):
        latent = torch.zeros(4, 2, 2)
        latent[channel] = 1.0
        found = np.asarray(Previews().draw(Undecodable(), latent, of=of))
        expected = [int((colour + 1) * 127.5) for colour in row]
        assert found.shape == (16, 16, 3)
        assert np.abs(found[8, 8].astype(int) - expected).max() <= 1


def test_full_and_tiny_previews_are_what_their_networks_decode() -> None:
    class Model:
        sha256 = vae_sha256 = ""

        def decode(self, latents: Tensor) -> Tensor:
            return F.interpolate(latents[:, :3], scale_factor=8.0)

    latent = torch.full((4, 2, 3), 0.5)
    of = Latents(tiny=lambda latents: F.interpolate(-latents[:, :3], scale_factor=8.0))
    full, tiny = (np.asarray(Previews().draw(Model(), latent, kind, of)) for kind in ("Full", "TAESD"))
    assert full.shape == tiny.shape == (16, 24, 3)
    assert (full[0, 0, 0], tiny[0, 0, 0]) == (191, 63)
    cheap = np.asarray(Previews().draw(Model(), latent, "TAESD"))  # there is no tiny network
    assert abs(int(cheap[8, 8, 0]) - 191) <= 1

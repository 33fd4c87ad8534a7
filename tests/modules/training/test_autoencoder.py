from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from modules.imaging.tensors import to_images
from modules.training import autoencoder, loop
from modules.training.config import Config
from modules.training.render import cache
from modules.training.render.compose import Pixels, picture


@pytest.fixture
def pixels(tiny: Config, tmp_path: Path, discs: None) -> Pixels:

    return np.stack([picture(cache.scene(tiny.data, i), tiny.data.side) for i in range(tiny.data.pictures)])


def test_kl_is_the_closed_form_of_two_gaussians() -> None:
    mean, logvar = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).mean()
    assert torch.allclose(autoencoder.kl_to_unit(mean, logvar), expected, atol=1e-5)


def test_psnr_of_a_known_error() -> None:
    target = torch.zeros(1, 3, 4, 4)
    assert float(autoencoder.psnr(target + 0.02, target)) == pytest.approx(40.0, abs=1e-3)


def test_a_perfect_reconstruction_costs_nothing_and_a_shift_costs_more_than_a_tint() -> None:
    x = torch.rand(1, 3, 32, 32)
    assert float(autoencoder.reconstruction_loss(x, x)) == 0
    shifted = x.roll(1, dims=-1)
    tinted = x + (shifted - x).abs().mean()
    assert autoencoder.reconstruction_loss(shifted, x) > 2 * autoencoder.reconstruction_loss(tinted, x)


def test_pixels_survive_the_way_to_the_network_and_back() -> None:
    pixels = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    images = to_images(autoencoder.to_network(pixels), floor=False)
    assert torch.equal(torch.from_numpy(np.stack([np.asarray(image) for image in images])), pixels)


def test_the_autoencoder_learns(tiny: Config, pixels: Pixels, tmp_path: Path) -> None:
    vae = autoencoder.new(tiny)
    loss = autoencoder.AutoencoderLoss(autoencoder.Through(vae, decoder_only=False), pixels, tiny.autoencoder)
    before = float(loss(loop.source(9, 0), 0)["loss"].detach())
    loop.Trainer(vae, tiny.autoencoder.run, tmp_path / "vae.pt").train(loss)
    assert float(loss(loop.source(9, 0), 0)["loss"].detach()) < 0.8 * before


def test_sharpening_leaves_the_encoder_alone(tiny: Config, pixels: Pixels, tmp_path: Path) -> None:
    np.save(tmp_path / "pictures.npy", pixels)
    vae = autoencoder.new(tiny)
    loop.Trainer(vae, tiny.autoencoder.run, tmp_path / "vae.pt").save()
    autoencoder.sharpen(tiny, tmp_path)
    sharpened = autoencoder.new(tiny)
    autoencoder.load_sharpened(sharpened, tmp_path / "sharpen.pt")
    before, after = vae.state_dict(), sharpened.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any(name.startswith(("encoder.", "quant_conv.")) for name in changed)

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
    images = to_images(cache.to_network(pixels), floor=False)
    assert torch.equal(torch.from_numpy(np.stack([np.asarray(image) for image in images])), pixels)


def test_the_autoencoder_learns(tiny: Config, pixels: Pixels, tmp_path: Path) -> None:
    vae = autoencoder.new(tiny)
    pictures = cache.Pictures(pixels, torch.device("cpu"))
    loss = autoencoder.AutoencoderLoss(autoencoder.Through(vae, decoder_only=False), pictures, tiny.autoencoder)
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


def test_the_first_pictures_are_kept_for_the_score(tiny: Config, pixels: Pixels) -> None:
    """A network that answers with what it is given shows which pictures a loss asks for."""
    seen: list[torch.Tensor] = []

    class Echo(torch.nn.Module):
        def forward(self, x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
            seen.append(x)
            return x, noise, noise

    pictures = cache.Pictures(pixels, torch.device("cpu"))
    loss = autoencoder.AutoencoderLoss(Echo(), pictures, tiny.autoencoder)
    for step in range(12):
        assert float(loss(loop.source(1, step), step)["psnr"]) > 100
    kept = {x.numpy().tobytes() for x in pictures.take(torch.arange(6))}
    shown = {y.contiguous().numpy().tobytes() for x in seen for y in (*x, *x.flip(-1))}
    assert not kept & shown
    assert len(seen) == 12


def test_the_score_is_that_of_the_kept_pictures_through_the_posteriors_mean(tiny: Config, pixels: Pixels) -> None:
    vae, pictures = autoencoder.new(tiny).eval(), cache.Pictures(pixels, torch.device("cpu"))
    x = pictures.take(torch.arange(6))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        y = vae.decode(vae.encode(x)[0]).float()
    levels = np.rint((y.clamp(-1, 1).numpy() + 1) * 127.5)
    error = ((levels - np.rint((x.numpy() + 1) * 127.5)) ** 2).mean(axis=(1, 2, 3))
    assert autoencoder.unseen_psnr(vae, pictures) == pytest.approx(
        float(np.mean(10 * np.log10(255**2 / error))), abs=0.01
    )


def test_the_encoder_may_learn_more_slowly_than_the_decoder(tiny: Config, tmp_path: Path) -> None:
    vae = autoencoder.new(tiny)
    trainer = loop.Trainer(vae, tiny.autoencoder.run, tmp_path / "vae.pt", dict.fromkeys(autoencoder.ENCODER, 0.25))
    factor = {id(p): group["factor"] for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, parameter in vae.named_parameters():
        assert factor[id(parameter)] == (0.25 if name.startswith(("encoder.", "quant_conv.")) else 1.0)

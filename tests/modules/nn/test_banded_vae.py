"""The autoencoder in bands against the whole: the same picture, without a seam, in less memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modules.nn.banded_vae import Banded
from modules.nn.configs import VAEConfig
from modules.nn.vae import VAE
from tests.byte_limit import ByteLimit

CPU = torch.device("cpu")


def random_vae(mult: tuple[int, ...], dtype: torch.dtype = torch.float32) -> VAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return VAE(VAEConfig(channels=8, channel_mult=mult, norm_groups=4)).eval().to(dtype)


def psnr(one: Tensor, other: Tensor) -> float:
    one, other = one.float(), other.float()
    span = float(one.max() - one.min())
    return 10 * math.log10(span**2 / max(float((one - other).square().mean()), 1e-30))


@torch.inference_mode()
@pytest.mark.parametrize("mult", [(1, 2, 4, 4), (1, 2, 2), (1, 1, 2, 2, 2)], ids=["factor 8", "factor 4", "factor 16"])
@pytest.mark.parametrize("band", [1, 3000], ids=["single rows", "bands"])
def test_bands_give_the_whole_picture_up_to_rounding(mult: tuple[int, ...], band: int) -> None:
    vae = random_vae(mult)
    factor = vae.config.factor
    random = torch.Generator().manual_seed(2)
    z = torch.randn(1, 4, 11, 18, generator=random)
    x = torch.rand(1, 3, 11 * factor, 18 * factor, generator=random) * 2 - 1
    banded = Banded(vae, CPU, band)
    assert psnr(vae.decode(z), banded.decode(z)) > 110
    whole, bands = vae.encode(x), banded.encode(x)
    assert psnr(whole[0], bands[0]) > 110
    assert torch.allclose(whole[1], bands[1], atol=1e-3)


@torch.inference_mode()
def test_in_bfloat16_bands_are_near_the_whole_and_their_borders_no_further_than_the_rest() -> None:
    vae = random_vae((1, 2, 4, 4), torch.bfloat16)
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3)).bfloat16()
    band = 16 * 2**10  # of the last feature maps 16 rows of 128 pixels and 8 channels
    whole, bands = vae.decode(z), Banded(vae, CPU, band).decode(z)
    assert psnr(whole, bands) > 45
    apart = (whole - bands).float().abs().mean(dim=(0, 1, 3))
    borders = torch.zeros(128, dtype=torch.bool)
    borders[16::16], borders[15:-1:16] = True, True
    assert float(apart[borders].mean()) < 1.5 * float(apart[~borders].mean())


@torch.inference_mode()
def test_a_seam_would_be_seen_if_tiles_were_decoded_apart() -> None:
    """What the bands avoid: halves that are decoded by themselves differ from the whole far from their border."""
    vae = random_vae((1, 2, 4, 4))
    z = torch.randn(1, 4, 48, 16, generator=torch.Generator().manual_seed(4))
    z[:, :, :24] += 3
    whole, upper = vae.decode(z), vae.decode(z[:, :, :24])
    assert psnr(whole[:, :, :64], upper[:, :, :64]) < 35 < psnr(whole, Banded(vae, CPU, 4096).decode(z))


@torch.inference_mode()
def test_weights_and_their_order_in_memory_are_left_alone_and_input_too() -> None:
    vae = random_vae((1, 2, 4, 4))
    before = {name: p.clone() for name, p in vae.named_parameters()}
    x = torch.rand(1, 3, 64, 64)
    kept = x.clone()
    Banded(vae, CPU).encode(x)
    assert torch.equal(x, kept)
    assert all(torch.equal(p, before[name]) for name, p in vae.named_parameters())


@torch.inference_mode()
def test_bands_need_less_memory_than_the_whole() -> None:
    vae = random_vae((1, 2, 4, 4))
    z, x = torch.randn(1, 4, 32, 32), torch.randn(1, 3, 256, 256)
    peaks = []
    for coder in (vae, Banded(vae, CPU, 2**15)):
        with ByteLimit() as decoding:
            coder.decode(z)
        with ByteLimit() as encoding:
            coder.encode(x)
        peaks.append((decoding.peak, encoding.peak))
    assert peaks[1][0] < 0.8 * peaks[0][0]
    assert peaks[1][1] < 0.6 * peaks[0][1]

"""The autoencoder's training: reconstruction plus a KL term that keeps latents near a unit Gaussian.

Kingma & Welling (2014), arXiv:1312.6114; Rombach et al. (2022), arXiv:2112.10752, sec. 3.1 and app. G.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nn.vae import VAE
from modules.training import loop, start
from modules.training.config import AutoencoderRun, Config
from modules.training.render import cache
from modules.training.render.compose import Pixels


def kl_to_unit(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats, averaged over all elements. Kingma & Welling (2014), app. B."""
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()


def _gradient_l1(x: Tensor, y: Tensor) -> Tensor:
    """L1 between the horizontal and vertical differences: edges in their places."""
    across = F.l1_loss(x.diff(dim=-1), y.diff(dim=-1))
    return across + F.l1_loss(x.diff(dim=-2), y.diff(dim=-2))


def reconstruction_loss(x: Tensor, target: Tensor) -> Tensor:
    """L1 + MSE / 2, L1 of gradients at three scales, and L1 of the coarse picture; (b, 3, h, w) in [-1, 1]."""
    total = F.l1_loss(x, target) + 0.5 * F.mse_loss(x, target)
    for weight in (0.5, 0.5, 0.3):
        total = total + weight * _gradient_l1(x, target)
        x, target = F.avg_pool2d(x, 2), F.avg_pool2d(target, 2)
    return total + 0.3 * F.l1_loss(x, target)


def crops(pixels: Pixels, side: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random squares of random pictures, mirrored or not: (count, 3, side, side) in [-1, 1]."""
    n, whole = len(pixels), pixels.shape[1]
    out = []
    for _ in range(count):
        i, y, x, mirror = (
            int(torch.randint(high, (), generator=generator)) for high in (n, whole - side + 1, whole - side + 1, 2)
        )
        square = torch.from_numpy(pixels[i, y : y + side, x : x + side].copy())
        out.append(square.flip(1) if mirror else square)
    return to_network(torch.stack(out))


def to_network(pixels: Tensor) -> Tensor:
    """uint8 (b, h, w, 3) -> float (b, 3, h, w) in [-1, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0


def new(config: Config) -> VAE:
    """Fresh weights. The posterior starts narrow, so that learning begins with reconstruction."""
    torch.manual_seed(config.autoencoder.run.seed)
    vae = VAE(config.vae)
    with torch.no_grad():
        bias = vae.quant_conv.bias
        assert bias is not None
        bias[config.vae.z_channels :] = -5.0
    return vae.to(loop.device(), memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def psnr(x: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB per picture; (b, 3, h, w) in [-1, 1], hence a peak of 2."""
    return 10.0 * torch.log10(4.0 / (x - target).square().mean(dim=(1, 2, 3)).clamp_min(1e-10))


class AutoencoderLoss:
    """One step's loss on random crops; in the last fifth of the run on whole pictures, at the same number of pixels."""

    def __init__(self, vae: nn.Module, pixels: Pixels, settings: AutoencoderRun):
        self.vae, self.pixels, self.settings = vae, pixels, settings

    def __call__(self, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
        side, batch = self.settings.crop, self.settings.run.batch
        if step >= 0.8 * self.settings.run.steps:
            whole = self.pixels.shape[1]
            batch, side = max(1, batch * side**2 // whole**2), whole
        x = crops(self.pixels, side, batch, generator).to(loop.device())
        noise = torch.randn(batch, 4, side // 8, side // 8, generator=generator).to(x.device)
        with torch.autocast(x.device.type, torch.bfloat16):
            y, mean, logvar = self.vae(x, noise)
        kl = kl_to_unit(mean.float(), logvar.float())
        reconstruction = reconstruction_loss(y.float(), x)
        loss = reconstruction + self.settings.kl * kl
        return {"loss": loss, "kl": kl, "psnr": psnr(y.float(), x).mean()}


class Through(nn.Module):
    """Encode, sample the posterior with the given noise, decode."""

    def __init__(self, vae: VAE, decoder_only: bool):
        super().__init__()
        self.vae, self.decoder_only = vae, decoder_only

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.decoder_only):
            mean, logvar = self.vae.encode(x)
        z = mean + torch.exp(0.5 * logvar) * noise
        return self.vae.decode(z), mean, logvar


def train(config: Config, folder: Path) -> None:
    """Stage ``vae``: encoder and decoder."""
    vae = new(config)
    start.begin(config.start, folder, vae=vae)
    trainer = loop.Trainer(vae, config.autoencoder.run, folder / "vae.pt")
    through = loop.norms_in_float32(Through(vae, decoder_only=False))
    trainer.train(AutoencoderLoss(through, cache.read(folder / "pictures.npy"), config.autoencoder))


def sharpen(config: Config, folder: Path) -> None:
    """Stage ``sharpen``: the decoder alone goes on; latents stay what the diffusion model has learned."""
    vae = new(config)
    loop.load_average(vae, folder / "vae.pt")
    _freeze_encoder(vae)
    trainer = loop.Trainer(vae, config.sharpen.run, folder / "sharpen.pt")
    through = loop.norms_in_float32(Through(vae, decoder_only=True))
    trainer.train(AutoencoderLoss(through, cache.read(folder / "pictures.npy"), config.sharpen))


def _freeze_encoder(vae: VAE) -> None:
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)


def load_sharpened(vae: VAE, path: Path) -> None:
    """Put stage ``sharpen``'s averaged decoder into ``vae``; the encoder is the same in both."""
    frozen = VAE(vae.config)
    _freeze_encoder(frozen)
    loop.load_average(frozen, path)
    vae.load_state_dict(frozen.state_dict())

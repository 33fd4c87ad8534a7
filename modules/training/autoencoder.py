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
from modules.training.render.cache import Pictures

UNSEEN = 96
"""The first pictures of the training set, which the autoencoder never trains on."""
ENCODER = ("encoder", "quant_conv")
"""The parts of an autoencoder that make latents."""


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
    for weight in (0.7, 0.5, 0.3):
        total = total + weight * _gradient_l1(x, target)
        x, target = F.avg_pool2d(x, 2), F.avg_pool2d(target, 2)
    return total + 0.3 * F.l1_loss(x, target)


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
    """One step's loss on whole pictures, mirrored in every second step. The first `UNSEEN` are kept for the score."""

    def __init__(self, network: nn.Module, pictures: Pictures, settings: AutoencoderRun):
        self.network, self.pictures, self.settings = network, pictures, settings

    def __call__(self, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
        device, batch = generator.device, self.settings.run.batch
        first = min(UNSEEN, len(self.pictures) // 2)
        x = self.pictures.take(torch.randint(first, len(self.pictures), (batch,), generator=generator, device=device))
        if step % 2:
            x = x.flip(-1).contiguous(memory_format=torch.channels_last)
        side = x.shape[-1] // 8
        noise = torch.randn(batch, 4, side, side, generator=generator, device=device)
        with loop.autocast(device):
            y, mean, logvar = self.network(x, noise)
        kl = kl_to_unit(mean.float(), logvar.float())
        loss = reconstruction_loss(y.float(), x) + self.settings.kl * kl
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
    _train(vae, config.autoencoder, folder, folder / "vae.pt")


def sharpen(config: Config, folder: Path) -> None:
    """Stage ``sharpen``: the decoder alone goes on; latents stay what the diffusion model has learned."""
    vae = new(config)
    loop.load_average(vae, folder / "vae.pt")
    _freeze_encoder(vae)
    _train(vae, config.sharpen, folder, folder / "sharpen.pt")


def _train(vae: VAE, settings: AutoencoderRun, folder: Path, path: Path) -> None:
    slow = dict.fromkeys(ENCODER, settings.encoder_rate)
    trainer = loop.Trainer(vae, settings.run, path, slow)
    pictures = Pictures(cache.read(folder / "pictures.npy"), loop.device())
    through = loop.norms_in_float32(Through(vae, settings.decoder_only))
    loss = AutoencoderLoss(through, pictures, settings)
    loop.compile_network(loss, settings.run)
    trainer.train(loss)
    if trainer.rank:
        return
    loop.load_average(vae, path)
    print(f"{path}: {unseen_psnr(vae, pictures):.2f} dB on pictures it never saw, {trainer.skipped} steps skipped")


@torch.inference_mode()
def unseen_psnr(vae: VAE, pictures: Pictures) -> float:
    """Mean PSNR in dB of the first `UNSEEN` pictures through the posterior's mean, rounded to levels of 255."""
    scores = []
    for rows in torch.split(torch.arange(min(UNSEEN, len(pictures) // 2), device=pictures.device), 8):
        x = pictures.take(rows)
        with loop.autocast(x.device):
            y = vae.decode(vae.encode(x)[0])
        levels = ((y.float().clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        scores.append(psnr(levels, x))
    return float(torch.cat(scores).mean())


def _freeze_encoder(vae: VAE) -> None:
    for part in ENCODER:
        getattr(vae, part).requires_grad_(False)


def load_sharpened(vae: VAE, path: Path) -> None:
    """Put stage ``sharpen``'s averaged decoder into ``vae``; the encoder is the same in both."""
    frozen = VAE(vae.config)
    _freeze_encoder(frozen)
    loop.load_average(frozen, path)
    vae.load_state_dict(frozen.state_dict())

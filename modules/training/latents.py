"""Every picture as the encoder sees it, once: mean and deviation, of which training draws afresh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modules.nn.vae import VAE
from modules.training import autoencoder, loop
from modules.training.config import Config
from modules.training.progress import Progress
from modules.training.render import cache
from modules.training.render.compose import Pixels

BATCH = 64


@dataclass(frozen=True)
class Latents:
    """``mean`` and ``deviation`` (n, 4, side / 8, side / 8) float16; times ``scale_factor`` their variance is 1."""

    mean: Tensor
    deviation: Tensor
    scale_factor: float

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Samples of the posteriors of ``rows``, scaled."""
        mean, deviation = self.mean[rows].float(), self.deviation[rows].float()
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return (mean + deviation * noise) * self.scale_factor

    def to(self, device: torch.device) -> Latents:
        return Latents(self.mean.to(device), self.deviation.to(device), self.scale_factor)


@torch.inference_mode()
def encode(vae: VAE, pixels: Pixels, name: str = "latents") -> Latents:
    means, deviations = [], []
    progress = Progress(name, len(pixels))
    for start in range(0, len(pixels), BATCH):
        x = cache.to_network(torch.from_numpy(pixels[start : start + BATCH].copy())).to(loop.device())
        with loop.autocast(x.device):
            mean, logvar = vae.encode(x)
        means.append(mean.half().cpu())
        deviations.append((0.5 * logvar.float()).exp().half().cpu())
        progress.at(start + len(x))
    return _scaled(torch.cat(means), torch.cat(deviations))


def _scaled(mean: Tensor, deviation: Tensor) -> Latents:
    variance = mean.float().var() + deviation.float().square().mean()
    return Latents(mean, deviation, float(variance.rsqrt()))


def _encode_part(config: Config, folder: Path) -> None:
    rank, world = loop.rank_and_world()
    vae = autoencoder.new(config)
    loop.load_average(vae, folder / "vae.pt")
    pixels = cache.read(folder / "pictures.npy")[: config.data.encoded]
    size = -(-len(pixels) // world)
    part = encode(vae, pixels[rank * size : (rank + 1) * size])
    torch.save({"mean": part.mean, "deviation": part.deviation}, folder / f"latents.{rank}.part")


def write(config: Config, folder: Path) -> None:
    """Stage ``latents``: encode the pictures in ``folder``, each process its share."""
    loop.in_processes(config.processes, _encode_part, config, folder)
    parts = [folder / f"latents.{rank}.part" for rank in range(config.processes)]
    parts = [part for part in parts if part.is_file()]
    loaded = [torch.load(part, weights_only=True) for part in parts]
    whole = _scaled(torch.cat([p["mean"] for p in loaded]), torch.cat([p["deviation"] for p in loaded]))
    torch.save(
        {"mean": whole.mean, "deviation": whole.deviation, "scale_factor": whole.scale_factor}, folder / "new.part"
    )
    (folder / "new.part").replace(folder / "latents.pt")
    for part in parts:
        part.unlink()
    print(f"{len(whole.mean)} latents, scale factor {whole.scale_factor:.5f}")


def read(folder: Path) -> Latents:
    path = folder / "latents.pt"
    if not path.is_file():
        raise FileNotFoundError(f"no latents at {path}; make them with python -m modules.training latents")
    return Latents(**torch.load(path, weights_only=True))

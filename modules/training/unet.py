"""The diffusion model's training: a UNet that finds the noise in a latent, with the caption's help.

Ho et al. (2020), arXiv:2006.11239, algorithm 1; conditioning as in Rombach et al. (2022), arXiv:2112.10752, sec. 3.3;
captions left out now and then for classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn

from modules.nn.clip import CLIPText
from modules.nn.unet import ResBlock, SpatialTransformer, UNet
from modules.training import captions, diffusion, loop, start
from modules.training.config import Config
from modules.training.latents import Latents, read
from modules.training.render import cache
from modules.training.render.captions import caption
from modules.training.render.scenes import Scene
from modules.training.words import weighted_ids


class TextToLatent(nn.Module):
    """What is trained here: text transformer and UNet. ``(x, t, ids, weights) -> prediction``.

    A weight multiplies the state of its token, as it does when prompts are used.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.text = CLIPText(config.text)
        self.unet = UNet(config.unet)
        _start_as_identity(self.unet)

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        said: Tensor = self.unet(x, t, self.text(ids).context * weights[..., None])
        return said


def _start_as_identity(unet: UNet) -> None:
    """Zero the last layer of every residual branch: Dhariwal & Nichol (2021), arXiv:2105.05233."""
    last: list[nn.Module] = [unet.out[2]]
    for module in unet.modules():
        if isinstance(module, ResBlock):
            last.append(module.out_layers[3])
        if isinstance(module, SpatialTransformer):
            last.append(module.proj_out)
    for layer in last:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


def new(config: Config, pretrained_text: Path | None = None) -> TextToLatent:
    """Fresh weights; the text transformer as stage ``text`` left it."""
    torch.manual_seed(config.diffusion.run.seed)
    model = TextToLatent(config)
    if pretrained_text is not None:
        reader = captions.Reader(config.text)
        loop.load_average(reader, pretrained_text)
        model.text.load_state_dict(reader.text.state_dict())
    model.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.to(loop.device())


class DiffusionLoss:
    """One step of algorithm 1: draw latents, captions, timesteps and noise; ask for the noise."""

    def __init__(self, model: nn.Module, config: Config, latents: Latents, scenes: list[Scene]):
        self.model, self.config, self.latents = model, config.diffusion, latents
        self.scenes = scenes
        self.process = diffusion.Process(config.diffusion.schedule, config.diffusion.prediction)

    def _captions(self, rows: Tensor, generator: torch.Generator) -> list[str]:
        """A fresh caption for each of ``rows``, or none at all."""
        start = int(torch.randint(2**40, (), generator=generator))
        dropped = torch.rand(len(rows), generator=generator) < self.config.caption_dropout
        return [
            "" if drop else caption(self.scenes[row], Random(start + i))
            for i, (row, drop) in enumerate(zip(rows.tolist(), dropped.tolist(), strict=True))
        ]

    def __call__(self, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
        device, batch = loop.device(), self.config.run.batch
        rows = torch.randint(len(self.scenes), (batch,), generator=generator)
        x0 = self.latents.draw(rows, generator).to(device).contiguous(memory_format=torch.channels_last)
        ids, weights = (part.to(device) for part in weighted_ids(self._captions(rows, generator)))
        noise = torch.randn(x0.shape, generator=generator).to(device)
        t = diffusion.stratified(batch, generator).to(device)
        x = self.process.noised(x0, noise, t)
        with torch.autocast(device.type, torch.bfloat16):
            said = self.model(x, t, ids, weights)
        return {"loss": diffusion.loss(self.process, said.float(), x0, noise, t, self.config.min_snr)}


def train(config: Config, folder: Path) -> None:
    """Stage ``unet``."""
    if config.start.file:
        model = new(config)
        start.begin(config.start, folder, unet=model.unet, text=model.text)
    else:
        model = new(config, folder / "text.pt")
    trainer = loop.Trainer(model, config.diffusion.run, folder / "unet.pt")
    latents = read(folder)
    scenes = [cache.scene(config.data, i) for i in range(len(latents.mean))]
    trainer.train(DiffusionLoss(loop.norms_in_float32(model), config, latents, scenes))

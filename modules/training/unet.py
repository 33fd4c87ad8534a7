"""The diffusion model's training: a UNet that tells picture and noise of a latent apart, with the caption's help.

Ho et al. (2020), arXiv:2006.11239, algorithm 1; conditioning as in Rombach et al. (2022), arXiv:2112.10752, sec. 3.3;
captions left out now and then for classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.nn.clip import CLIPText
from modules.nn.unet import ResBlock, SpatialTransformer, UNet
from modules.training import captions, diffusion, loop, start
from modules.training.config import Config, DiffusionRun
from modules.training.latents import Latents, read
from modules.training.render import cache
from modules.training.render.cache import Captions
from modules.training.words import SHORT, nothing_known


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
    """One step of algorithm 1: draw latents, captions, timesteps and noise where the network is; ask for v or noise."""

    def __init__(self, network: nn.Module, settings: DiffusionRun, latents: Latents, captions: Captions):
        self.network, self.settings, self.latents, self.captions = network, settings, latents, captions
        self.process = diffusion.Process(settings.schedule, settings.prediction)
        device = latents.mean.device
        self._empty = nothing_known(0).to(device)
        self._unknown = torch.cat([nothing_known(count) for count in range(1, 17)]).to(device)

    def texts(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One of each row's captions as (b, 77) ids and weights; for some none, or one that only unknown words make."""
        count, device = len(rows), rows.device
        which = torch.randint(self.captions.ids.shape[1], (count,), generator=generator, device=device)
        ids, weights = self.captions.of(rows, which)
        u = torch.rand(count, 1, generator=generator, device=device)
        lengths = torch.randint(len(self._unknown), (count,), generator=generator, device=device)
        unknown, without = self.settings.unknown_only, self.settings.caption_dropout
        ids = torch.where(u < unknown + without, torch.where(u < unknown, self._unknown[lengths], self._empty), ids)
        return ids, torch.where(u < unknown + without, torch.ones_like(weights), weights)

    def __call__(self, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
        device, batch = generator.device, self.settings.run.batch
        rows = torch.randint(len(self.latents.mean), (batch,), generator=generator, device=device)
        x0 = self.latents.draw(rows, generator)
        ids, weights = self.texts(rows, generator)
        noise = torch.randn(x0.shape, generator=generator, device=device)
        t = diffusion.stratified(batch, generator)
        x = self.process.noised(x0, noise, t).contiguous(memory_format=torch.channels_last)
        with loop.autocast(device):
            said = self.network(x, t, ids, weights)
        return {"loss": diffusion.loss(self.process, said.float(), x0, noise, t, self.settings.min_snr)}


def train(config: Config, folder: Path) -> None:
    """Stage ``unet``."""
    if config.start.file:
        model = new(config)
        start.begin(config.start, folder, unet=model.unet, text=model.text)
    else:
        model = new(config, folder / "text.pt")
    run, device = config.diffusion.run, loop.device()
    trainer = loop.Trainer(model, run, folder / "unet.pt")
    captions = cache.read_captions(folder / "captions.npy").to(device)
    loss = DiffusionLoss(loop.norms_in_float32(model), config.diffusion, read(folder).to(device), captions)
    loop.compile_network(loss, run)
    trainer.train(loss)
    if not trainer.rank:
        print(f"{trainer.step} steps of {run.batch} samples, {trainer.skipped} skipped")


def compile_once(config: Config) -> None:
    """Compile what `train` will, on noise. Nothing stays but the compiler's own files, with which it is quick there."""
    model, side, device = new(config), config.data.side // 8, loop.device()
    latents = Latents(torch.zeros(1, 4, side, side), torch.ones(1, 4, side, side), 1.0)
    captions = Captions(nothing_known(1)[:, None, :SHORT].int(), torch.full((1, 1, SHORT), 10, dtype=torch.uint8))
    network = loop.norms_in_float32(model)
    loss = DiffusionLoss(network, config.diffusion, latents.to(device), captions.to(device))
    loop.compile_network(loss, config.diffusion.run)

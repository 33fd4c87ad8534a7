"""Many captions to pictures at once, as the program makes them: its loader, its noise, its DPM++ 2M."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modules import builtin
from modules.checkpoints.model import LatentDiffusion, load
from modules.devices import Device, choose
from modules.diffusion.guidance import Guided, cfg
from modules.diffusion.noise import ImageNoise
from modules.diffusion.parameterization import NoiseTable
from modules.diffusion.schedules import sigmas_for
from modules.diffusion.types import Cond
from modules.extension.host import Host
from modules.imaging.tensors import to_images
from modules.pipeline.cached_unet import CachedUNet
from modules.training.words import token_ids


@dataclass(frozen=True)
class _Text:
    """The same condition at every step: a `modules.diffusion.guidance.Part`."""

    cond: Cond
    weight: float = 1.0

    def at(self, call: int, step: int | None = None) -> Cond:
        return self.cond


class Painter:
    """A checkpoint that paints a batch of different captions, for scores and for looking at."""

    def __init__(self, model: LatentDiffusion, sampler: str = "DPM++ 2M"):
        host = Host()
        builtin.register(host)
        self.model = model
        self._sampler = host.samplers.get(sampler)
        self._scheduler = host.schedulers.get(self._sampler.default_scheduler or "uniform")

    @classmethod
    def of(cls, path: Path, device: Device | None = None) -> Painter:
        """From an exported file; every tensor must find its place."""
        return cls(load(path, device or choose()))

    @torch.inference_mode()
    def paint(
        self, texts: Sequence[str], seeds: Sequence[int], side: int = 256, steps: int = 20, cfg_scale: float = 5.0,
        negative: str = "", batch: int = 16,
    ) -> Tensor:  # fmt: skip
        """uint8 (n, side, side, 3), one picture for each text and seed."""
        parts = []
        for start in range(0, len(texts), batch):
            latents = self._sample(
                texts[start : start + batch], seeds[start : start + batch], side // 8, steps, cfg_scale, negative
            )
            parts += [np.asarray(image) for image in to_images(self.model.decode(latents))]
        return torch.from_numpy(np.stack(parts))

    def _sample(
        self, texts: Sequence[str], seeds: Sequence[int], side: int, steps: int, cfg_scale: float, negative: str
    ) -> Tensor:
        table = NoiseTable.named(self.model.config.schedule)
        sigmas = sigmas_for(self._sampler, self._scheduler, steps, table)
        noise = ImageNoise(seeds, (self.model.config.unet.in_channels, side, side), device=self.model.device.device)
        positive, without = (
            _Text(Cond(self.model.encode_text(token_ids(said)).context)) for said in (texts, [negative] * len(texts))
        )
        guided = Guided(CachedUNet(self.model, table, sigmas), cfg, [positive], without, cfg_scale)
        start = noise.initial() * sigmas[0]
        return self._sampler.sample(guided, start, sigmas, noise=noise, on_step=lambda *_: None)

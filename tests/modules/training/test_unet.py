from __future__ import annotations

from pathlib import Path

import torch

from modules.training import loop, unet
from modules.training.config import Config
from modules.training.latents import Latents
from modules.training.render import cache


def latents(count: int) -> Latents:
    """Flat latents, one level for each picture: easy to learn."""
    level = torch.linspace(-1, 1, count).view(-1, 1, 1, 1).expand(count, 4, 4, 4)
    return Latents(level.half(), torch.full_like(level, 0.1).half(), 1.5)


def diffusion_loss(config: Config, model: unet.TextToLatent) -> unet.DiffusionLoss:
    scenes = [cache.scene(config.data, i) for i in range(config.data.encoded)]
    return unet.DiffusionLoss(model, config, latents(len(scenes)), scenes)


def test_an_untrained_model_says_nothing(tiny: Config) -> None:
    model = unet.new(tiny)
    ids = torch.zeros(2, 77, dtype=torch.long)
    said = model(torch.randn(2, 4, 4, 4), torch.tensor([3, 900]), ids, torch.ones(2, 77))
    assert said.shape == (2, 4, 4, 4) and not said.any()


def test_latents_are_drawn_with_their_mean_and_deviation() -> None:
    kept = Latents(torch.full((1, 4, 8, 8), 2.0).half(), torch.full((1, 4, 8, 8), 0.5).half(), 3.0)
    drawn = kept.draw(torch.zeros(400, dtype=torch.long), torch.Generator().manual_seed(0))
    assert abs(float(drawn.mean()) - 6.0) < 0.02 and abs(float(drawn.std()) - 1.5) < 0.02


def test_captions_are_dropped_as_often_as_configured(tiny: Config) -> None:
    loss = diffusion_loss(tiny, unet.new(tiny))
    texts = loss._captions(torch.zeros(2000, dtype=torch.long), loop.source(0, 0))
    assert abs(texts.count("") / 2000 - tiny.diffusion.caption_dropout) < 0.02


def test_the_diffusion_model_learns(tiny: Config, tmp_path: Path) -> None:
    model = unet.new(tiny)
    loss = diffusion_loss(tiny, model)
    before = float(loss(loop.source(9, 0), 0)["loss"].detach())
    loop.Trainer(model, tiny.diffusion.run, tmp_path / "unet.pt").train(loss)
    assert float(loss(loop.source(9, 0), 0)["loss"].detach()) < 0.8 * before

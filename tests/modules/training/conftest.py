"""A tiny model, and drawings that are quicker than those of the art sets."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw

from modules.nn.configs import TextConfig, UNetConfig, VAEConfig
from modules.training.config import AutoencoderRun, Config, Data, DiffusionRun, Run
from modules.training.render import compose
from modules.training.render.concepts import INDEX, Concept
from modules.training.render.scenes import Mix


def disc(concept: Concept, art: str = "3d") -> Image.Image:
    """A stand-in for a drawing: a disc with a stripe, of a colour that belongs to the concept."""
    i = INDEX[concept.name]
    image = Image.new("RGBA", (120, 120))
    draw = ImageDraw.Draw(image)
    draw.ellipse((4, 4, 116, 116), fill=(40 + 2 * i, 255 - 2 * i, (37 * i) % 256, 255))
    draw.rectangle((10, 55, 60, 65), fill=(255, 255, 255, 255))
    return image


@pytest.fixture
def discs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "sprite", disc)
    monkeypatch.setattr(compose, "tinted", lambda concept, colour, strength=1.0, art="3d": disc(concept))


@pytest.fixture
def tiny() -> Config:
    run = Run(steps=20, batch=4, rate=3e-3, warmup=2, ema=0.9, seed=3)
    return Config(
        name="tiny",
        data=Data(seed=5, pictures=12, encoded=12, side=32, captions=3, mix=Mix(single=1.0, two=0.0, count=0.0)),
        unet=UNetConfig(
            model_channels=16, channel_mult=(1, 2), num_res_blocks=1, transformer_depth=(0, 1), num_heads=2,
            context_dim=16, norm_groups=4,
        ),
        vae=VAEConfig(channels=8, channel_mult=(1, 1, 2, 2), num_res_blocks=1, norm_groups=4),
        text=TextConfig(width=16, layers=1, heads=2, inner=32),
        autoencoder=AutoencoderRun(run),
        sharpen=AutoencoderRun(run, decoder_only=True),
        captions=run,
        diffusion=DiffusionRun(run),
        judge=run,
        processes=1,
    )  # fmt: skip

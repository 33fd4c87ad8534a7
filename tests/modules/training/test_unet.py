from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch

from modules.training import loop, unet
from modules.training.config import Config
from modules.training.latents import Latents
from modules.training.render import cache
from modules.training.words import SHORT, UNKNOWN, tokenised


def latents(count: int) -> Latents:
    """Flat latents, one level for each picture: easy to learn."""
    level = torch.linspace(-1, 1, count).view(-1, 1, 1, 1).expand(count, 4, 4, 4)
    return Latents(level.half(), torch.full_like(level, 0.1).half(), 1.5)


@pytest.fixture
def captions(tiny: Config, tmp_path: Path) -> cache.Captions:
    cache.write_captions(tiny.data, tmp_path / "captions.npy", 1)
    return cache.read_captions(tmp_path / "captions.npy")


def diffusion_loss(config: Config, model: unet.TextToLatent, captions: cache.Captions) -> unet.DiffusionLoss:
    return unet.DiffusionLoss(model, config.diffusion, latents(config.data.encoded), captions)


def test_an_untrained_model_says_nothing(tiny: Config) -> None:
    model = unet.new(tiny)
    ids = torch.zeros(2, 77, dtype=torch.long)
    said = model(torch.randn(2, 4, 4, 4), torch.tensor([3, 900]), ids, torch.ones(2, 77))
    assert said.shape == (2, 4, 4, 4) and not said.any()


def test_latents_are_drawn_with_their_mean_and_deviation() -> None:
    kept = Latents(torch.full((1, 4, 8, 8), 2.0).half(), torch.full((1, 4, 8, 8), 0.5).half(), 3.0)
    drawn = kept.draw(torch.zeros(400, dtype=torch.long), torch.Generator().manual_seed(0))
    assert abs(float(drawn.mean()) - 6.0) < 0.02 and abs(float(drawn.std()) - 1.5) < 0.02


def test_captions_come_back_as_they_were_written(tiny: Config, captions: cache.Captions) -> None:
    rows, which = torch.arange(12), torch.arange(12) % 3
    ids, weights = captions.of(rows, which)
    for i in range(12):
        expected, tenths = tokenised(cache.scene(tiny.data, i), Random(f"5/{i}/{i % 3}"), tiny.data.unknown)
        assert ids[i, :SHORT].tolist() == expected.tolist() and (ids[i, SHORT:] == 49407).all()
        assert weights[i, :SHORT].tolist() == pytest.approx((tenths / 10).tolist()) and (weights[i, SHORT:] == 1).all()


def test_captions_are_dropped_or_made_unknown_as_often_as_configured(tiny: Config, captions: cache.Captions) -> None:
    loss = diffusion_loss(tiny, unet.new(tiny), captions)
    ids, _ = loss.texts(torch.zeros(4000, dtype=torch.long), loop.source(0, 0))
    empty, unknown = (ids[:, 1] == 49407), torch.isin(ids, torch.tensor([49406, 49407, UNKNOWN])).all(dim=1)
    assert abs(float(empty.float().mean()) - 0.07) < 0.015
    assert abs(float((unknown & ~empty).float().mean()) - 0.03) < 0.01


def test_the_diffusion_model_learns(tiny: Config, captions: cache.Captions, tmp_path: Path) -> None:
    model = unet.new(tiny)
    loss = diffusion_loss(tiny, model, captions)
    before = float(loss(loop.source(9, 0), 0)["loss"].detach())
    loop.Trainer(model, tiny.diffusion.run, tmp_path / "unet.pt").train(loss)
    assert float(loss(loop.source(9, 0), 0)["loss"].detach()) < 0.8 * before


def test_what_is_compiled_beside_is_what_training_runs(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same shapes and types go into the network: a compiler's files hold for nothing else."""
    seen: list[list[tuple[torch.Size, torch.dtype]]] = []

    def spied(
        network: torch.nn.Module, attempt: Callable[[torch.nn.Module], object], seconds: float
    ) -> torch.nn.Module:
        network.register_forward_pre_hook(lambda _module, args: seen.append([(a.shape, a.dtype) for a in args]))
        attempt(network)
        return network

    monkeypatch.setattr(loop, "compiled", spied)
    unet.compile_once(tiny)
    captions = cache.Captions(torch.full((12, 3, SHORT), 49407), torch.full((12, 3, SHORT), 10))
    loss = diffusion_loss(tiny, unet.new(tiny), captions)
    loop.compile_network(loss, tiny.diffusion.run)
    assert len(seen) == 2 and seen[0] == seen[1]

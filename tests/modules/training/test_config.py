from __future__ import annotations

import pytest

from modules.training.config import SHIPPED, Config, Run, build, load
from modules.training.loop import learning_rate
from modules.training.render.concepts import CONCEPTS


def test_the_shipped_configuration_is_read() -> None:
    config = load()
    assert config.name == "reprise-mini"
    assert config.data.mix.concepts == len(CONCEPTS)
    assert config.unet.context_dim == config.text.width
    assert config.data.encoded <= config.data.pictures
    assert (config.data.side, config.diffusion.prediction, config.version) == (256, "v", "3")
    assert len(config.start.sha256) == 64


def test_the_start_is_made_with_the_same_sizes_and_data() -> None:
    """And with a learning rate that never falls: its weights are there to be gone on from."""
    start, shipped = load(SHIPPED.with_name("reprise_mini_start.toml")), load()
    assert (start.unet, start.vae, start.text, start.data) == (shipped.unet, shipped.vae, shipped.text, shipped.data)
    assert not start.start.file
    rates = [learning_rate(start.diffusion.run, step) for step in range(250, start.diffusion.run.steps)]
    assert set(rates) == {1e-3}


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"stepz.*warmup"):
        build(Run, {"stepz": 3})
    with pytest.raises(ValueError, match="colour"):
        build(Config, {"name": "x", "data": {"colour": 1}})

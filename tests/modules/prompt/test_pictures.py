"""What the prompt language does to pictures of the default model. The pictures stay in the test's temporary folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.devices import Device
from modules.engine import Engine, Result
from modules.extension.host import Host
from modules.params.generation import GenerationParams

MODELS = Path(__file__).parents[3] / "models" / "Stable-diffusion"
SEEDS = (1, 2)
Picture = np.ndarray[Any, Any]
Make = Callable[[str], list[Picture]]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """On one thread: small layers gain little from more, and lose much on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    host = Host()
    register(host)
    store = ModelStore(MODELS, Device(torch.device("cpu"), torch.float32), Hashes(), default="reprise-mini")
    yield Engine(store, host, version="0.0")
    torch.set_num_threads(threads)


@pytest.fixture
def make(engine: Engine, tmp_path: Path) -> Make:
    """Pictures of a prompt, one for each of `SEEDS`: (height, width, 3), values in [0, 1]."""

    def pictures(prompt: str) -> list[Picture]:
        side = engine.store.load().config.native_size
        params = GenerationParams(prompt=prompt, sampler="Euler", steps=8, cfg_scale=5.0, width=side, height=side)
        found: list[Result] = []
        for seed in SEEDS:
            engine.run(params.changed(seed=seed, subseed=0), found.append)
            number = len(list(tmp_path.iterdir()))
            found[-1].image.save(tmp_path / f"{number:02d}.png")
        return [as_array(result.image) for result in found]

    return pictures


def as_array(image: Image.Image) -> Picture:
    return np.asarray(image, np.float32) / 255


def distance(first: Picture, second: Picture) -> float:
    return float(np.abs(first - second).mean())


def blueness(picture: Picture) -> float:
    """How far blue is above red, from -1 to 1."""
    return float((picture[..., 2] - picture[..., 0]).mean())


def edge(picture: Picture) -> Picture:
    """The upper corners, where there is background alone."""
    part = len(picture) * 3 // 16
    return np.concatenate([picture[:part, :part], picture[:part, -part:]])


def centre(picture: Picture) -> Picture:
    part = len(picture) // 4
    return picture[part:-part, part:-part]


@pytest.mark.parametrize(("before", "after"), [("cat", "dog"), ("dog", "frog")])
def test_an_edit_changes_the_animal_and_keeps_the_scene(make: Make, before: str, after: str) -> None:
    first, edited, second = (
        make(f"a {words} on a red background") for words in (before, f"[{before}:{after}:0.4]", after)
    )
    for a, ab, b in zip(first, edited, second, strict=True):
        apart = distance(centre(a), centre(b))
        assert distance(edge(a), edge(ab)) < 0.12, "the scene is another"
        assert distance(centre(a), centre(ab)) > 0.25 * apart, "the animal is the old one"
        assert distance(centre(ab), centre(b)) < apart, "the animal has not come nearer to the new one"


def test_the_later_an_edit_the_less_it_changes(make: Make) -> None:
    plain = make("a fox on a red background")
    changes = [
        np.mean([distance(a, b) for a, b in zip(plain, make(f"a [fox:owl:{when}] on a red background"), strict=True)])
        for when in (0.3, 0.75)
    ]
    assert changes[0] > changes[1] > 0


def test_weights_act_by_degrees(make: Make) -> None:
    """`(blue:1.5)` and `(blue:0.5)` are other pictures than `blue`, and further weights go further away."""
    plain = make("a blue heart")
    moved = [
        np.mean([distance(a, b) for a, b in zip(plain, make(f"a (blue:{weight}) heart"), strict=True)])
        for weight in (0.5, 1.1, 1.5, 3)
    ]
    assert moved[0] > 0
    assert 0 < moved[1] < moved[2] < moved[3]


def test_a_word_with_more_weight_gets_its_way(make: Make) -> None:
    """Two animals in one prompt: the picture shows the weaker one's rival."""
    cats, dogs = make("a cat on a red background"), make("a dog on a red background")

    def nearer_to_the_cat(weight: float) -> float:
        pictures = make(f"a (cat:{weight}) on a red background, dog")
        return float(
            np.mean([distance(p, dog) - distance(p, cat) for p, cat, dog in zip(pictures, cats, dogs, strict=True)])
        )

    assert nearer_to_the_cat(0.4) < 0 < nearer_to_the_cat(1.6)


def test_and_blends_two_prompts_by_their_weights(make: Make) -> None:
    red, blue = "a cat on a red background", "a cat on a blue background"
    shades = [
        np.mean([blueness(picture) for picture in make(prompt)])
        for prompt in (red, f"{red}:0.7 AND {blue}:0.3", f"{red}:0.3 AND {blue}:0.7", blue)
    ]
    assert shades[0] < shades[1] < shades[2] < shades[3]
    assert shades[2] - shades[1] > 0.1

"""Models whose latents have another factor than 8 or other channels than 4: nobody counts on the usual ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from modules.builtin import register
from modules.checkpoints.families.base import LatentFormat
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import FAMILIES, Tiny, write_tiny
from modules.devices import Device
from modules.engine import Engine, Result, RunCallbacks
from modules.errors import UserError
from modules.extension.host import Host
from modules.gallery.inputs import InputStore
from modules.nn.configs import VAEConfig
from modules.params.generation import GenerationParams, Hires, Init, Mask, Refiner, TiledUpscale

CPU = Device(torch.device("cpu"), torch.float32)
SIDES = (64, 96)
USUAL = FAMILIES["sd1"]


def of(factor: int, channels: int, inside: int = 0) -> Tiny:
    """A tiny model with that many latent channels; ``inside`` of its UNet's input, where it sees more than latents."""
    mults = {4: (1, 2, 2), 8: (1, 2, 2, 2), 16: (1, 1, 2, 2, 2)}[factor]
    vae = VAEConfig(channels=2, norm_groups=2, channel_mult=mults, num_res_blocks=1, z_channels=channels)
    unet = replace(USUAL.unet, in_channels=inside or channels, out_channels=channels)
    return replace(USUAL, unet=unet, vae=vae)


MODELS = {"fine": of(4, 3), "coarse": of(16, 16), "coarse inpainting": of(16, 16, 33), "coarse edit": of(16, 16, 32)}


class Kit(NamedTuple):
    engine: Engine
    picture: str
    half: str
    """A mask whose left half is white."""


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    folder, host = tmp_path_factory.mktemp("formats"), Host()
    register(host)
    for name, tiny in {**MODELS, "usual": USUAL}.items():
        write_tiny(folder / "models" / f"{name}.safetensors", tiny)
    inputs = InputStore(folder / "inputs")
    engine = Engine(ModelStore(folder / "models", CPU, Hashes()), host, version="0.0", inputs=inputs)
    gradient = Image.linear_gradient("L").resize(SIDES)
    half = Image.new("L", SIDES)
    half.paste(255, (0, 0, SIDES[0] // 2, SIDES[1]))
    yield Kit(engine, inputs.put(Image.merge("RGB", (gradient, gradient.rotate(180), gradient))), inputs.put(half))


def make(kit: Kit, name: str, **changes: Any) -> Result:
    asked: dict[str, Any] = {
        "width": SIDES[0],
        "height": SIDES[1],
        "steps": 2,
        "seed": 7,
        "prompt": "a fox",
        "checkpoint": name,
    }
    results: list[Result] = []
    kit.engine.run(GenerationParams(**(asked | changes)), results.append)
    (result,) = results
    return result


@pytest.mark.parametrize("name", MODELS)
def test_a_file_tells_its_latents_and_pictures_have_the_size_asked_for(kit: Kit, name: str) -> None:
    config = kit.engine.store.load(name).config
    assert (config.latent.factor, config.latent.channels) == ((4, 3) if name == "fine" else (16, 16))
    assert config.variant == {"coarse inpainting": "inpainting", "coarse edit": "pix2pix"}.get(name, "")
    found = make(kit, name, seed_resize_from_w=48, seed_resize_from_h=48)
    assert found.image.size == SIDES
    assert make(kit, name, seed=8).recipe.pixels != found.recipe.pixels


@pytest.mark.parametrize("content", ["original", "fill", "latent noise", "latent nothing"])
@pytest.mark.parametrize("name", MODELS)
def test_what_a_mask_protects_stays_byte_for_byte(kit: Kit, name: str, content: str) -> None:
    mask = Mask(kit.half, blur=0, content=content)
    found = make(kit, name, init=Init(kit.picture, denoising_strength=0.9, mask=mask))
    before = np.asarray(kit.engine.inputs.open(kit.picture).convert("RGB"))  # type: ignore[union-attr]
    after, middle = np.asarray(found.image), SIDES[0] // 2
    assert np.array_equal(after[:, middle:], before[:, middle:])
    assert not np.array_equal(after[:, :middle], before[:, :middle])


@pytest.mark.parametrize("mode", ["Just resize", "Just resize (latent upscale)"])
@pytest.mark.parametrize("name", MODELS)
def test_pictures_of_another_size_are_brought_to_the_latents_size(kit: Kit, name: str, mode: str) -> None:
    found = make(kit, name, width=128, height=64, init=Init(kit.picture, resize_mode=mode))
    assert found.image.size == (128, 64)


@pytest.mark.parametrize("upscaler", ["Latent", "Lanczos"])
@pytest.mark.parametrize("name", MODELS)
def test_a_second_pass_enlarges_and_crops(kit: Kit, name: str, upscaler: str) -> None:
    found = make(kit, name, hires=Hires(width=128, height=128, upscaler=upscaler, steps=2))
    assert found.image.size == (128, 128)  # of 128 x 192, cropped


@pytest.mark.parametrize("name", ["fine", "coarse"])
def test_sd_upscale_repaints_tiles(kit: Kit, name: str) -> None:
    tiled = TiledUpscale("Lanczos", 2.0, 16)
    found = make(kit, name, width=64, height=64, init=Init(kit.picture, denoising_strength=0.5, tiled=tiled))
    assert found.image.size == (2 * SIDES[0], 2 * SIDES[1])


@pytest.mark.parametrize("name", ["fine", "coarse"])
def test_previews_have_the_pictures_size(kit: Kit, name: str) -> None:
    sizes: list[tuple[int, int]] = []
    params = GenerationParams(width=SIDES[0], height=SIDES[1], steps=2, seed=7, checkpoint=name)
    for kind in ("Approx cheap", "Full", "TAESD"):
        watch = RunCallbacks(on_progress=lambda p: sizes.append(p.preview().size), preview_type=kind)
        kit.engine.run(params, lambda _: None, watch)
    assert sizes == [SIDES] * 6


def test_a_size_of_no_whole_latent_pixels_is_one_sentence(kit: Kit) -> None:
    with pytest.raises(UserError, match=r"multiples of 16, and 72 is none; ask for 64 or 80") as error:
        make(kit, "coarse", width=72)
    assert error.value.field == "width"
    with pytest.raises(UserError, match="multiples of 16, and 120 is none"):
        make(kit, "coarse", hires=Hires(width=120, height=192))
    assert make(kit, "fine", width=72).image.size == (72, 96)


def test_a_model_cannot_go_on_where_one_of_other_latents_ends(kit: Kit) -> None:
    with pytest.raises(UserError, match="usual cannot go on where coarse ends"):
        make(kit, "coarse", refiner=Refiner("usual", 0.3), steps=4)


def test_latents_of_a_picture_are_counted_by_the_factor() -> None:
    assert [LatentFormat(factor=factor).size(512, 768) for factor in (4, 8, 16)] == [(192, 128), (96, 64), (48, 32)]

"""Pictures from pictures on a tiny random model. The laws of inpainting hold byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from modules import masks
from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.engine import Engine, Progress, Result, Watcher
from modules.errors import NotFound, UserError
from modules.extension import Host
from modules.images import png_bytes
from modules.inputs import InputStore
from modules.params import CONTENTS, RESIZE_MODES, GenerationParams, Hires, Init, Mask, Refiner
from modules.pipeline.picture import flattened
from modules.replay import replay
from modules.resize import resized

PARAMS = GenerationParams(prompt="a red fox", width=64, height=64, steps=4, seed=7, subseed=1, sampler="Euler")
SAMPLERS = ("Euler", "Euler a", "DPM++ 2M", "DDIM", "Heun", "DPM++ SDE", "LCM")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("models")
    write_tiny_checkpoint(folder / "tiny.safetensors")
    write_tiny_checkpoint(folder / "other.safetensors", seed=1)
    write_tiny_checkpoint(folder / "painter.safetensors", "sd15-inpainting")
    host = Host()
    register(host)
    store = ModelStore(folder, Device(torch.device("cpu"), torch.float32), Hashes(), default="tiny")
    return Engine(store, host, version="0.0", inputs=InputStore(tmp_path_factory.mktemp("inputs")))


def run(engine: Engine, params: GenerationParams = PARAMS, **changes: Any) -> list[Result]:
    results: list[Result] = []
    engine.run(params.changed(**changes), results.append)
    return results


def noise_picture(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def put(engine: Engine, image: Image.Image) -> str:
    assert engine.inputs is not None
    return engine.inputs.put(image)


def init(engine: Engine, image: Image.Image, mask: Image.Image | None = None, **changes: Any) -> Init:
    own = {name: changes.pop(name) for name in tuple(changes) if name in Mask.__dataclass_fields__ and name != "image"}
    inner = Mask(image=put(engine, mask), **own) if mask else None
    return Init(image=put(engine, image), mask=inner, **changes)


def rectangle(width: int, height: int, box: masks.Box) -> Image.Image:
    mask = Image.new("L", (width, height))
    mask.paste(255, box)
    return mask


# ----------------------------------------------------------------------------------------------------------- img2img


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("exact", [False, True])
def test_strength_0_gives_the_picture_back(engine: Engine, sampler: str, exact: bool) -> None:
    image = noise_picture()
    start = init(engine, image, denoising_strength=0.0, exact_steps=exact)
    assert run(engine, sampler=sampler, init=start)[0].image.tobytes() == image.tobytes()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_picture_matters_less_the_stronger_it_is_changed(engine: Engine, sampler: str) -> None:
    def apart(strength: float) -> float:
        two = [
            run(engine, sampler=sampler, steps=8, init=init(engine, noise_picture(seed=s), denoising_strength=strength))
            for s in (0, 1)
        ]
        return float(np.abs(np.subtract(*(np.asarray(r[0].image, int) for r in two))).mean())

    assert apart(0.2) > apart(1.0)


def test_steps_are_the_strengths_part_or_exactly_those_asked(engine: Engine) -> None:
    def steps(**changes: Any) -> list[int]:
        seen: list[Progress] = []
        start = init(engine, noise_picture(), **changes)
        engine.run(PARAMS.changed(steps=10, init=start), lambda _: None, Watcher(on_progress=seen.append))
        assert seen[-1].fraction == 1.0
        assert {p.steps for p in seen} == {len(seen)}
        return [p.step for p in seen]

    assert steps(denoising_strength=0.5) == list(range(1, 7))  # the reference makes one more than the part
    assert steps(denoising_strength=0.5, exact_steps=True) == list(range(1, 11))
    assert steps(denoising_strength=1.0) == list(range(1, 11))


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("size", [(40, 90), (200, 70), (64, 64), (1, 1), (13, 300)])
def test_every_size_is_brought_to_the_one_asked_for(engine: Engine, mode: str, size: tuple[int, int]) -> None:
    start = init(engine, noise_picture(*size), resize_mode=mode, denoising_strength=0.3)
    assert run(engine, width=72, height=64, init=start)[0].image.size == (72, 64)


@pytest.mark.parametrize(
    "changes",
    [
        {"denoising_strength": 0.5},
        {"exact_steps": True},
        {"noise_multiplier": 0.9},
        {"extra_noise": 0.1},
        {"colour_correction": True},
    ],
    ids=str,
)
def test_every_parameter_of_the_start_matters(engine: Engine, changes: dict[str, Any]) -> None:
    plain, changed = (run(engine, init=init(engine, noise_picture(), **more))[0] for more in ({}, changes))
    assert plain.recipe.pixels != changed.recipe.pixels


def test_a_picture_of_a_batch_does_not_depend_on_its_company(engine: Engine) -> None:
    start = init(engine, noise_picture(), denoising_strength=0.6)
    batch = run(engine, init=start, batch_size=3)
    for i, result in enumerate(batch):
        (alone,) = run(engine, init=start, seed=7 + i)
        assert np.abs(np.asarray(alone.image, int) - np.asarray(result.image, int)).max() <= 1


def test_what_is_transparent_shows_the_background(engine: Engine) -> None:
    clear = Image.new("RGBA", (64, 64), (9, 9, 9, 0))
    start = init(engine, clear, denoising_strength=0.0)
    assert run(engine, init=start)[0].image.getpixel((0, 0)) == (255, 255, 255)
    start = Init(image=start.image, denoising_strength=0.0, background="#102030")
    assert run(engine, init=start)[0].image.getpixel((0, 0)) == (16, 32, 48)


def test_a_stored_picture_that_is_gone_is_said(engine: Engine) -> None:
    with pytest.raises(NotFound, match="no stored picture 000000000000"):
        run(engine, init=Init(image="0" * 64))
    with pytest.raises(UserError, match="no start picture"):
        run(engine, init=Init())
    with pytest.raises(UserError, match="no mask"):
        run(engine, init=Init(image="0" * 64, mask=Mask()))


def test_recipes_name_the_pictures(engine: Engine) -> None:
    start = init(engine, noise_picture(), rectangle(64, 64, (8, 8, 40, 40)))
    files = run(engine, init=start)[0].recipe.files
    assert start.mask
    assert [(file.role, file.sha256) for file in files[1:]] == [("image", start.image), ("mask", start.mask.image)]


# ----------------------------------------------------------------------------------------------------------- inpaint

few = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
sides = st.integers(0, 64)


@st.composite
def random_masks(draw: st.DrawFn) -> Image.Image:
    """A few rectangles and dots of any grey."""
    mask = Image.new("L", draw(st.sampled_from([(64, 64), (96, 64), (64, 80), (100, 50)])))
    for _ in range(draw(st.integers(0, 3))):
        x, y = draw(st.integers(0, mask.width - 1)), draw(st.integers(0, mask.height - 1))
        w, h = draw(st.sampled_from([(1, 1), (9, 30), (40, 7), (64, 64)]))
        mask.paste(draw(st.sampled_from([255, 255, 128, 1])), (x, y, min(x + w, mask.width), min(y + h, mask.height)))
    return mask


choices = st.fixed_dictionaries(
    {
        "blur": st.sampled_from([0, 1, 4, 16]),
        "invert": st.booleans(),
        "content": st.sampled_from(CONTENTS),
        "only_masked": st.booleans(),
        "padding": st.sampled_from([0, 8, 32]),
        "denoising_strength": st.sampled_from([0.3, 0.75, 1.0]),
        "resize_mode": st.sampled_from(RESIZE_MODES),
        "colour_correction": st.booleans(),
    }
)


@given(mask=random_masks(), choice=choices, sampler=st.sampled_from(SAMPLERS))
@few
def test_pixels_outside_the_blurred_mask_are_those_of_the_input(
    engine: Engine, mask: Image.Image, choice: dict[str, Any], sampler: str
) -> None:
    image = noise_picture(*mask.size)
    start = init(engine, image, mask, **choice)
    (result,) = run(engine, steps=2, sampler=sampler, init=start)
    assert start.mask
    soft = masks.blurred(Image.eval(mask, lambda v: 255 - v) if start.mask.invert else mask, start.mask.blur)
    if not start.mask.only_masked:
        mode = RESIZE_MODES[0] if start.resize_mode == RESIZE_MODES[3] else start.resize_mode
        image, soft = (resized(picture, mode, 64, 64) for picture in (image, soft))
    assert result.image.size == image.size
    outside = np.asarray(soft) == 0
    assert np.array_equal(np.asarray(result.image)[outside], np.asarray(image)[outside])


@given(choice=choices)
@few
def test_a_black_mask_gives_the_picture_back(engine: Engine, choice: dict[str, Any]) -> None:
    image = noise_picture()
    start = init(engine, image, Image.new("L", image.size), **choice | {"invert": False})
    assert run(engine, steps=2, init=start)[0].image.tobytes() == image.tobytes()


@given(choice=choices, sampler=st.sampled_from(SAMPLERS))
@few
def test_a_white_mask_is_image_to_image(engine: Engine, choice: dict[str, Any], sampler: str) -> None:
    choice = choice | {"invert": False, "content": "original"}
    image, white = noise_picture(), Image.new("L", (64, 64), 255)
    plain = {k: v for k, v in choice.items() if k not in Mask.__dataclass_fields__}
    (masked,) = run(engine, steps=2, sampler=sampler, init=init(engine, image, white, **choice))
    (whole,) = run(engine, steps=2, sampler=sampler, init=init(engine, image, **plain))
    assert masked.image.tobytes() == whole.image.tobytes()


@given(mask=random_masks(), choice=choices)
@few
def test_strength_0_gives_the_picture_back_whatever_the_mask(
    engine: Engine, mask: Image.Image, choice: dict[str, Any]
) -> None:
    image = noise_picture(64, 64)
    start = init(engine, image, mask.resize((64, 64)), **choice | {"denoising_strength": 0.0})
    assert run(engine, init=start)[0].image.tobytes() == image.tobytes()


@pytest.mark.parametrize("content", CONTENTS)
def test_what_stands_under_the_mask_matters(engine: Engine, content: str) -> None:
    image, mask = noise_picture(), rectangle(64, 64, (16, 16, 48, 48))
    start = {c: init(engine, image, mask, content=c, denoising_strength=0.3) for c in CONTENTS}
    pixels = {c: run(engine, init=start[c])[0].recipe.pixels for c in CONTENTS}
    assert list(pixels.values()).count(pixels[content]) == 1


def test_latent_noise_is_that_of_each_pictures_own_seed(engine: Engine) -> None:
    image, mask = noise_picture(), rectangle(64, 64, (16, 16, 48, 48))
    start = init(engine, image, mask, content="latent noise")
    first, second = run(engine, init=start, batch_size=2)
    (alone,) = run(engine, init=start, seed=8)
    assert first.recipe.pixels != second.recipe.pixels
    assert np.abs(np.asarray(alone.image, int) - np.asarray(second.image, int)).max() <= 1


def test_only_masked_keeps_the_size_of_the_picture(engine: Engine) -> None:
    image, mask = noise_picture(150, 110), rectangle(150, 110, (100, 60, 120, 90))
    (result,) = run(engine, init=init(engine, image, mask, only_masked=True, padding=8))
    assert result.image.size == (150, 110)
    changed = np.asarray(result.image) != np.asarray(image)
    assert changed[70, 110].any()


def test_flattening_leaves_opaque_pixels_alone() -> None:
    image = noise_picture()
    assert flattened(image.convert("RGBA")).tobytes() == image.tobytes()


# --------------------------------------------------------------------------------------------------------- hires fix


@pytest.mark.parametrize("upscaler", ["Latent", "Latent (nearest-exact)", "Latent (bicubic antialiased)", "Lanczos"])
def test_the_second_pass_gives_a_larger_picture(engine: Engine, upscaler: str) -> None:
    seen: list[Progress] = []
    results: list[Result] = []
    params = PARAMS.changed(hires=Hires(scale=1.5, upscaler=upscaler, steps=3))
    engine.run(params, results.append, Watcher(on_progress=seen.append))
    assert results[0].image.size == (96, 96)
    assert [(p.step, p.steps) for p in seen] == [(i, 7) for i in range(1, 8)]
    assert seen[-1].fraction == 1.0


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": 2.0},
        {"upscaler": "Lanczos"},
        {"steps": 6},
        {"denoising_strength": 0.4},
        {"sampler": "Euler a"},
        {"scheduler": "Karras"},
        {"prompt": "a dog"},
        {"negative_prompt": "blurry"},
        {"cfg_scale": 3.0},
        {"checkpoint": "other"},
        {"width": 104},
    ],
    ids=str,
)
def test_every_parameter_of_the_second_pass_matters(engine: Engine, changes: dict[str, Any]) -> None:
    plain, changed = (run(engine, hires=Hires(**{"scale": 1.5, **more}))[0] for more in ({}, changes))
    assert plain.recipe.pixels != changed.recipe.pixels


def test_a_second_pass_over_a_picture_is_refused(engine: Engine) -> None:
    with pytest.raises(UserError, match="hires fix is for pictures from text"):
        run(engine, init=init(engine, noise_picture()), hires=Hires())
    with pytest.raises(UserError, match="lower the scale"):
        run(engine, width=2048, height=2048, hires=Hires(scale=4.0))
    with pytest.raises(UserError, match="did you mean 'Latent"):
        run(engine, hires=Hires(upscaler="Latnet"))


# ----------------------------------------------------------------------------------------------------------- refiner


def test_the_refiner_takes_over_where_it_should(engine: Engine) -> None:
    plain, other = run(engine)[0], run(engine, checkpoint="other")[0]
    early, late = (
        run(engine, steps=8, refiner=Refiner(checkpoint="other", switch_at=at))[0].recipe for at in (0.3, 0.7)
    )
    assert len({plain.recipe.pixels, other.recipe.pixels, early.pixels, late.pixels}) == 4
    assert [file.role for file in early.files] == ["checkpoint", "refiner"]
    never = run(engine, refiner=Refiner(checkpoint="other", switch_at=1.0))[0]
    assert never.image.tobytes() == plain.image.tobytes()
    same = run(engine, refiner=Refiner(checkpoint="tiny", switch_at=0.5))[0]
    assert same.image.tobytes() == plain.image.tobytes()


def test_a_refiner_needs_a_checkpoint(engine: Engine) -> None:
    with pytest.raises(UserError, match="there is no refiner"):
        run(engine, refiner=Refiner())


# --------------------------------------------------------------------------------------------------- inpainting models


def test_an_inpainting_model_sees_the_picture_that_it_paints_into(engine: Engine) -> None:
    mask = rectangle(64, 64, (16, 16, 48, 48))

    def painted(seed: int, **changes: Any) -> np.ndarray[Any, Any]:
        """At full strength, from latent nothing: what is known of the picture comes through the model's eyes."""
        picture = init(engine, noise_picture(seed=seed), mask, content="latent nothing", blur=0, **changes)
        (result,) = run(engine, checkpoint="painter", init=picture)
        return np.asarray(result.image)[20:44, 20:44]

    assert (painted(0) != painted(1)).any()
    assert (painted(0, conditioning=0.0) != painted(0)).any()


@pytest.mark.parametrize("changes", [{}, {"hires": Hires(scale=1.5)}])
def test_an_inpainting_model_makes_pictures_from_text(engine: Engine, changes: dict[str, Any]) -> None:
    (result,) = run(engine, checkpoint="painter", **changes)
    assert "Conditional mask weight: 1.0" in result.infotext
    assert len(np.unique(np.asarray(result.image))) > 8


def test_the_laws_hold_for_an_inpainting_model(engine: Engine) -> None:
    image, mask = noise_picture(), rectangle(64, 64, (8, 8, 24, 40))
    (result,) = run(engine, checkpoint="painter", init=init(engine, image, mask, blur=0))
    outside = np.asarray(mask) == 0
    assert np.array_equal(np.asarray(result.image)[outside], np.asarray(image)[outside])


# ------------------------------------------------------------------------------------------------------------- replay


def save(path: Path, result: Result) -> Path:
    path.write_bytes(png_bytes(result.image, {"parameters": result.infotext, "recipe": str(result.recipe)}))
    return path


def test_pictures_from_pictures_come_back(engine: Engine, tmp_path: Path) -> None:
    image, mask = noise_picture(seed=5), rectangle(64, 64, (8, 8, 24, 40))
    requests: list[dict[str, Any]] = [
        {"init": init(engine, image)},
        {"init": init(engine, image, mask, only_masked=True, content="latent noise")},
        {"hires": Hires(scale=1.5, upscaler="Lanczos", checkpoint="other")},
        {"refiner": Refiner(checkpoint="other", switch_at=0.4)},
    ]
    for n, changes in enumerate(requests):
        (result,) = run(engine, **changes)
        assert str(replay(engine, save(tmp_path / f"{n}.png", result)).verdict) == "identical"


def test_replay_says_which_picture_is_missing(engine: Engine, tmp_path: Path) -> None:
    mask = rectangle(64, 64, (3, 3, 9, 9))
    start = init(engine, noise_picture(seed=99), mask)
    (result,) = run(engine, init=start)
    assert engine.inputs
    assert start.mask
    engine.inputs.path(start.mask.image).unlink()
    verdict = replay(engine, save(tmp_path / "x.png", result)).verdict
    assert verdict.kind == "cannot"
    assert str(verdict).startswith(f"cannot, because mask {start.mask.image[:12]}.png")
    assert str(verdict).endswith("is missing")

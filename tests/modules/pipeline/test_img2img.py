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

from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.engine import Engine, Progress, Result, RunCallbacks
from modules.errors import NotFound, UserError
from modules.extension.host import Host
from modules.gallery.inputs import InputStore
from modules.imaging import masks
from modules.imaging.files import carried_in, open_image, png_bytes
from modules.imaging.resize import resized
from modules.metadata.image_text import MAX_CARRIED, Encoding
from modules.metadata.image_text import encode as encode_file
from modules.params.generation import (
    CONTENTS,
    RESIZE_MODES,
    GenerationParams,
    Hires,
    Init,
    Mask,
    Refiner,
    SoftInpainting,
    TiledUpscale,
)
from modules.pipeline.init_image import flattened
from modules.replay import replay

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
        engine.run(PARAMS.changed(steps=10, init=start), lambda _: None, RunCallbacks(on_progress=seen.append))
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
        run(engine, init=Init(image=", "))
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
    engine.run(params, results.append, RunCallbacks(on_progress=seen.append))
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


# ---------------------------------------------------------------------------------------------------- soft inpainting


@given(mask=random_masks(), choice=choices, sampler=st.sampled_from(SAMPLERS))
@settings(few, max_examples=12)
def test_soft_inpainting_leaves_what_the_blurred_mask_does_not_reach(
    engine: Engine, mask: Image.Image, choice: dict[str, Any], sampler: str
) -> None:
    image = noise_picture(*mask.size)
    start = init(engine, image, mask, **choice | {"soft": SoftInpainting(), "resize_mode": "Just resize"})
    (result,) = run(engine, steps=2, sampler=sampler, init=start)
    assert start.mask
    soft = masks.blurred(Image.eval(mask, lambda v: 255 - v) if start.mask.invert else mask, start.mask.blur)
    if not start.mask.only_masked:
        image, soft = (resized(picture, "Just resize", 64, 64) for picture in (image, soft))
    outside = np.asarray(soft) == 0
    assert np.array_equal(np.asarray(result.image)[outside], np.asarray(image)[outside])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule_bias": 0.5},
        {"preservation": 2.0},
        {"contrast_boost": 1.0},
        {"mask_influence": 1.0},
        {"difference_threshold": 8.0},
        {"difference_contrast": 0.5},
    ],
    ids=str,
)
def test_every_parameter_of_soft_inpainting_matters(engine: Engine, changes: dict[str, Any]) -> None:
    mask = rectangle(64, 64, (16, 16, 48, 48))

    def made(soft: SoftInpainting | None) -> Result:
        return run(engine, init=init(engine, noise_picture(), mask, blur=12, soft=soft))[0]

    far = {"difference_threshold": 4.0}  # a random model's latents move far
    plain = made(SoftInpainting(**far) if changes else None)
    changed = made(SoftInpainting(**far | changes))
    assert plain.recipe.pixels != changed.recipe.pixels
    assert "Soft inpainting enabled: True, Soft inpainting schedule bias: " in changed.infotext


def test_greys_of_a_mask_that_is_not_rounded_mix_old_and_new(engine: Engine) -> None:
    grey = Image.new("L", (64, 64), 100)
    kept = run(engine, init=init(engine, noise_picture(), grey, blur=0))[0]
    mixed = run(engine, init=init(engine, noise_picture(), grey, blur=0, round=False))[0]
    assert kept.recipe.pixels != mixed.recipe.pixels
    assert "Mask rounding: False" in mixed.infotext


# --------------------------------------------------------------------------------------------- several start pictures


def several(engine: Engine, *seeds: int, **changes: Any) -> Init:
    return Init(image=",".join(put(engine, noise_picture(seed=seed)) for seed in seeds), **changes)


@pytest.mark.parametrize("masked", [False, True])
def test_each_of_several_pictures_has_its_own_result(engine: Engine, masked: bool) -> None:
    mask = Mask(image=put(engine, rectangle(64, 64, (8, 8, 40, 56)))) if masked else None
    batch = run(engine, batch_size=2, init=several(engine, 3, 4, mask=mask))
    assert [file.role for file in batch[0].recipe.files[1:]].count("image") == 2
    for i, result in enumerate(batch):
        (alone,) = run(engine, seed=7 + i, init=several(engine, 3 + i, mask=mask))
        assert np.abs(np.asarray(alone.image, int) - np.asarray(result.image, int)).max() <= 1


def test_the_pictures_make_the_batch_and_must_fit_into_it(engine: Engine) -> None:
    assert len(run(engine, batch_size=4, batch_count=2, init=several(engine, 1, 2))) == 4
    with pytest.raises(UserError, match="there are 3 start pictures for a batch of 2"):
        run(engine, batch_size=2, init=several(engine, 1, 2, 3))
    unchanged = run(engine, batch_size=2, init=several(engine, 1, 2, denoising_strength=0.0))
    assert [r.image.tobytes() for r in unchanged] == [noise_picture(seed=s).tobytes() for s in (1, 2)]


# --------------------------------------------------------------------------------------------------------- SD upscale

TILES = TiledUpscale(by=2.0, overlap=16)


def test_without_denoising_it_is_the_upscaled_picture(engine: Engine) -> None:
    image = noise_picture(72, 64)
    (result,) = run(engine, init=Init(image=put(engine, image), denoising_strength=0.0, tiled=TILES))
    assert result.image.tobytes() == image.resize((144, 128), Image.Resampling.LANCZOS).tobytes()
    same = TiledUpscale(upscaler="None", overlap=16)
    (result,) = run(engine, init=Init(image=put(engine, image), denoising_strength=0.0, tiled=same))
    assert result.image.tobytes() == image.tobytes()


def test_tiles_are_pictures_of_their_own_seeds_side_by_side(engine: Engine) -> None:
    image = noise_picture(112, 64)
    tiles = TiledUpscale(upscaler="None", overlap=16)
    (whole,) = run(engine, init=Init(image=put(engine, image), denoising_strength=0.5, tiled=tiles))
    left, right = (
        run(engine, seed=7 + i, init=init(engine, image.crop((x, 0, x + 64, 64)), denoising_strength=0.5))[0].image
        for i, x in enumerate((0, 48))
    )
    pixels = np.asarray(whole.image)
    assert np.array_equal(pixels[:, :48], np.asarray(left)[:, :48])
    assert np.array_equal(pixels[:, 64:], np.asarray(right)[:, 16:])
    assert "SD upscale overlap: 16, SD upscale upscaler: None, SD upscale factor: 2" in whole.infotext


@pytest.mark.parametrize("size", [(20, 30), (100, 20), (64, 65), (90, 150)])
def test_every_size_comes_out_enlarged_and_batches_of_tiles_change_seeds_alone(
    engine: Engine, size: tuple[int, int], tmp_path: Path
) -> None:
    start = Init(image=put(engine, noise_picture(*size)), denoising_strength=0.4, tiled=TILES)
    results = run(engine, steps=2, batch_size=3, batch_count=2, init=start)
    assert {r.image.size for r in results} == {(size[0] * 2 // 8 * 8, size[1] * 2 // 8 * 8)}
    assert [r.recipe.seed for r in results] == [7, 8]
    assert str(replay(engine, save(tmp_path / "tiles.png", results[1])).verdict) == "identical"


def test_progress_goes_over_the_tiles(engine: Engine) -> None:
    seen: list[Progress] = []
    start = Init(image=put(engine, noise_picture()), denoising_strength=0.5, tiled=TILES)
    engine.run(PARAMS.changed(batch_count=2, init=start), lambda _: None, RunCallbacks(on_progress=seen.append))
    assert seen[0].steps == 9 * 3  # 128 pixels in tiles of 64 that share 16: three a side, three steps each
    assert [p.step for p in seen] == [*range(1, 28)] * 2
    fractions = [p.fraction for p in seen]
    assert fractions == sorted(fractions)
    assert fractions[26] == pytest.approx(0.5)
    assert fractions[-1] == 1.0


def test_sd_upscale_is_for_one_whole_picture(engine: Engine) -> None:
    mask = Mask(image=put(engine, rectangle(64, 64, (8, 8, 40, 56))))
    for start in (several(engine, 1, tiled=TILES, mask=mask), several(engine, 1, 2, tiled=TILES)):
        with pytest.raises(UserError, match="SD upscale is for one whole picture"):
            run(engine, batch_size=2, init=start)
    with pytest.raises(UserError, match="tiles must be larger than their overlap"):
        run(engine, init=several(engine, 1, tiled=TiledUpscale()))
    with pytest.raises(UserError, match="did you mean 'Lanczos'"):
        run(engine, init=several(engine, 1, tiled=TiledUpscale(upscaler="Lancos", overlap=8)))


def test_extra_noise_in_the_second_pass_matters(engine: Engine) -> None:
    plain, noisy = (run(engine, hires=Hires(scale=1.5, extra_noise=e))[0].recipe.pixels for e in (0.0, 0.2))
    assert plain != noisy


# ------------------------------------------------------------------------------------------------ embedded pictures


def test_a_picture_that_carries_its_inputs_is_replayed_where_they_are_not(engine: Engine, tmp_path: Path) -> None:
    assert engine.inputs
    start = init(engine, noise_picture(seed=41), rectangle(64, 64, (5, 9, 44, 60)))
    (result,) = run(engine, init=start)
    files = engine.inventory.carried(result.recipe)
    data, note = encode_file(result.image, result.infotext, str(result.recipe), carried=files)
    assert (carried_in(data), note) == (files, "")
    assert open_image(data).tobytes() == result.image.tobytes()
    for name in result.recipe.inputs:
        engine.inputs.path(name).unlink()
    path = tmp_path / "whole.png"
    path.write_bytes(data)
    assert str(replay(engine, path).verdict) == "identical"
    assert all(name in engine.inputs for name in result.recipe.inputs)


def test_a_file_that_is_not_what_the_recipe_names_is_not_stored(engine: Engine, tmp_path: Path) -> None:
    assert engine.inputs
    (result,) = run(engine, init=init(engine, noise_picture(seed=42)))
    engine.inputs.path(result.recipe.inputs[0]).unlink()
    other = png_bytes(noise_picture(seed=43))
    path = tmp_path / "other.png"
    path.write_bytes(encode_file(result.image, result.infotext, str(result.recipe), carried=[other, b"none"])[0])
    assert replay(engine, path).verdict.kind == "cannot"


def test_what_is_too_large_or_has_no_place_is_said() -> None:
    image, large = noise_picture(), bytes(MAX_CARRIED // 2 + 1)
    data, note = encode_file(image, "x", "", carried=[large, large])
    assert (carried_in(data), note) == (
        [],
        "the start pictures have 16.0 MB, more than the 16 MB that a file may carry, so they are not embedded",
    )
    data, note = encode_file(image, "x", "", Encoding("jpg"), carried=[b"1"])
    assert (carried_in(data), note) == ([], "start pictures are embedded in PNG files alone")
    assert carried_in(png_bytes(image, carried=[b"12"])[:46]) == []  # cut off within the chunk

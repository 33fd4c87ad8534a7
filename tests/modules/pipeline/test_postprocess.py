"""Extras: two upscalers blended, sizes and crops, and the text that A1111 writes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.Image import Resampling

from modules.builtin import register
from modules.errors import UserError
from modules.extension.host import Host
from modules.params.generation import TO, ExtrasParams
from modules.pipeline.postprocess import check, process
from modules.restoration.upscale import UpscalerSpec


@pytest.fixture
def host() -> Host:
    made = Host()
    register(made)
    return made


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8))


def levels(image: Image.Image) -> NDArray[np.int16]:
    return np.asarray(image).astype(np.int16)


def test_by_a_factor(host: Host) -> None:
    extra = process(picture(48, 32), ExtrasParams(upscaler="Nearest", by=1.5), host)
    assert extra.infotext == "Postprocess upscale by: 1.5, Postprocess upscaler: Nearest"
    assert np.array_equal(levels(extra.image), levels(picture(48, 32).resize((72, 48), Resampling.NEAREST)))


def test_without_an_upscaler_nothing_happens(host: Host) -> None:
    extra = process(picture(50, 30), ExtrasParams(upscaler="None", by=4.0), host)
    assert extra.infotext == ""
    assert np.array_equal(levels(extra.image), levels(picture(50, 30)))


def test_two_upscalers_are_blended_by_the_visibility_of_the_second(host: Host) -> None:
    params = ExtrasParams(upscaler="Lanczos", upscaler_2="nearest", upscaler_2_visibility=0.25, by=2.0)
    extra = process(picture(32, 32), params, host)
    first, second = (levels(picture(32, 32).resize((64, 64), how)) for how in (Resampling.LANCZOS, Resampling.NEAREST))
    assert np.abs(levels(extra.image) - (0.75 * first + 0.25 * second)).max() <= 1
    assert extra.infotext == (
        "Postprocess upscale by: 2.0, Postprocess upscaler: Lanczos, Postprocess upscaler 2: Nearest"
    )


def test_a_second_upscaler_that_cannot_be_seen_is_not_run(host: Host) -> None:
    def never(*_: Any) -> Image.Image:
        raise AssertionError

    host.add_upscaler(UpscalerSpec("never", never))
    assert "upscaler 2" not in process(picture(32, 32), ExtrasParams("Lanczos", upscaler_2="never"), host).infotext


@pytest.mark.parametrize(
    ("target", "whole"), [((128, 128), (192, 128)), ((192, 64), (192, 128)), ((64, 128), (192, 128))]
)
def test_to_a_size_covers_it_and_crops_the_middle(host: Host, target: tuple[int, int], whole: tuple[int, int]) -> None:
    source = picture(96, 64)
    params = ExtrasParams(upscaler="Nearest", resize=TO, width=target[0], height=target[1], crop=False)
    assert process(source, params, host).image.size == whole
    cropped = process(source, ExtrasParams(upscaler="Nearest", resize=TO, width=target[0], height=target[1]), host)
    size = f"{target[0]}x{target[1]}"
    assert cropped.infotext == (
        f"Postprocess upscale to: {size}, Postprocess crop to: {size}, Postprocess upscaler: Nearest"
    )
    left, top = (whole[0] - target[0]) // 2, (whole[1] - target[1]) // 2
    large = source.resize(whole, Resampling.NEAREST).crop((left, top, left + target[0], top + target[1]))
    assert np.array_equal(levels(cropped.image), levels(large))


@pytest.mark.parametrize("size", [(101, 57), (7, 300), (640, 640)])
def test_a_crop_has_no_empty_edge_whatever_was_rounded_away(host: Host, size: tuple[int, int]) -> None:
    white = Image.new("RGB", size, "white")
    image = process(white, ExtrasParams(upscaler="Lanczos", resize=TO, width=252, height=196), host).image
    assert image.size == (252, 196)
    assert levels(image).min() == 255


def test_a_strip_does_not_grow_without_bound(host: Host) -> None:
    params = ExtrasParams(upscaler="Lanczos", resize=TO, width=8192, height=8192)
    with pytest.raises(UserError, match="megapixels") as raised:
        process(picture(8, 4000), params, host)
    assert raised.value.field == "width"


def test_names_with_a_comma_are_quoted(host: Host) -> None:
    host.add_upscaler(UpscalerSpec("a, b", lambda image, scale, work: image))
    text = process(picture(32, 32), ExtrasParams(upscaler="a, b"), host).infotext
    assert text == 'Postprocess upscale by: 2.0, Postprocess upscaler: "a, b"'


@pytest.mark.parametrize(
    ("params", "field", "says"),
    [
        (ExtrasParams(upscaler="Lancsoz"), "upscaler", "did you mean 'Lanczos'"),
        (ExtrasParams(upscaler_2="x"), "upscaler_2", "no upscaler named 'x'"),
        (ExtrasParams(tile_size=16, tile_overlap=20), "tile_size", "larger than their overlap"),
        (ExtrasParams(gfpgan_visibility=0.5), "gfpgan_visibility", "no face restorer named 'GFPGAN'"),
        (
            ExtrasParams(codeformer_visibility=0.5),
            "codeformer_visibility",
            "CodeFormer is not installed: x.pth is missing",
        ),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_computed(
    host: Host, params: ExtrasParams, field: str, says: str
) -> None:
    host.absent_face_restorers["CodeFormer"] = "x.pth is missing in models/Codeformer"
    with pytest.raises(UserError, match=says) as raised:
        check(params, host)
    assert raised.value.field == field


def test_a_face_restorer_that_an_extension_brings_is_blended_in_after_the_upscaler(host: Host) -> None:
    seen: list[tuple[tuple[int, int], float]] = []

    def restorer(image: Image.Image, weight: float) -> Image.Image:
        seen.append((image.size, weight))
        return ImageOps.invert(image)

    host.add_face_restorer("CodeFormer", restorer)
    params = ExtrasParams(upscaler="Nearest", codeformer_visibility=0.5, codeformer_weight=0.3)
    extra = process(picture(32, 32), params, host)
    assert seen == [((64, 64), 0.3)]
    assert np.abs(levels(extra.image) - 127.5).max() <= 1
    assert extra.infotext.endswith("Postprocess upscaler: Nearest, CodeFormer visibility: 0.5, CodeFormer weight: 0.3")


def test_a_picture_without_a_face_stays_and_is_said_so(host: Host) -> None:
    host.add_face_restorer("GFPGAN", lambda image, weight: image)
    extra = process(picture(32, 32), ExtrasParams(gfpgan_visibility=1.0), host)
    assert np.array_equal(levels(extra.image), levels(picture(32, 32)))
    assert extra.infotext == ""
    assert extra.notes == ("GFPGAN found no face in the picture",)

"""Picture arithmetic against the reference."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from modules.imaging.color_correction import corrected
from modules.imaging.files import grid, grid_rows
from modules.imaging.masks import blurred, filled, grey_mask, in_shape, region
from modules.imaging.resize import resized
from modules.params.generation import RESIZE_MODES
from modules.restoration.upscale import BUILTIN, upscale


@pytest.mark.golden("images.json", "grid")
def test_grids_have_the_reference_shape(case: dict[str, Any]) -> None:
    options = case["options"]
    rows = grid_rows(
        case["images"],
        rows=options.get("n_rows", -1),
        batch_size=case["batch_size"],
        no_gaps=options.get("grid_prevent_empty_spots", False),
    )
    sheet = grid([Image.new("RGB", (3, 5))] * case["images"], rows)
    assert [sheet.width // 3, sheet.height // 5] == case["size_in_tiles"]


@pytest.mark.golden("images.json", "upscale_size")
def test_upscaled_pictures_have_the_reference_size(case: dict[str, Any]) -> None:
    (spec,) = (spec for spec in BUILTIN if spec.name == case["upscaler"])
    assert list(upscale(spec, Image.new("RGB", case["source"]), case["scale"]).size) == case["size"]


def picture(width: int, height: int, k: int = 0) -> Image.Image:
    """Picture ``k`` of the reference data."""
    x, y = np.arange(width)[None], np.arange(height)[:, None]
    channels = (5 * x + 3 * y + 40 * k, 2 * x + 7 * y + 11, 31 * (x // 8) + 17 * (y // 8))
    return Image.fromarray(np.stack([c % 256 for c in channels], -1).astype(np.uint8))


def rectangle(size: list[int], corners: list[int]) -> Image.Image:
    """A white rectangle, corners included."""
    mask = Image.new("L", (size[0], size[1]))
    ImageDraw.Draw(mask).rectangle(corners, fill=255)
    return mask


def values(image: Image.Image, every: int = 1) -> list[int]:
    return np.asarray(image)[every // 2 :: every, every // 2 :: every].ravel().tolist()


@pytest.mark.golden("images.json", "crop")
def test_crop_regions_are_the_references(case: dict[str, Any]) -> None:
    box = region(rectangle(case["image"], case["rectangle"]), case["padding"])
    assert box == (tuple(case["region"]) if case["region"] else None)
    if box:
        width, height = case["processing"]
        assert in_shape(box, width, height, tuple(case["image"])) == tuple(case["expanded"])


@pytest.mark.golden("images.json", "resize")
def test_resizing_gives_the_references_pixels(case: dict[str, Any]) -> None:
    # What the reference does not know it takes for the first of its list, which enlarges nothing.
    upscalers = {spec.name: partial(upscale, spec) for spec in BUILTIN}
    upscalers |= {"missing": upscalers.pop("None")}
    image = picture(*case["source"])
    image = image.convert("L") if case["grayscale"] else image
    width, height = case["target"]
    result = resized(image, RESIZE_MODES[case["mode"]], width, height, upscalers.get(case["upscaler"] or ""))
    expected = case["result"]
    assert list(result.size) == expected["size"]
    assert values(result.convert(expected["mode"])) == expected["pixels"]


@pytest.mark.golden("images.json", "mask_blur")
def test_masks_are_blurred_like_the_references(case: dict[str, Any]) -> None:
    soft = np.asarray(blurred(rectangle(case["size"], case["rectangle"]), case["blur_x"], case["blur_y"]))
    x0, y0, x1, y1 = case["rectangle"]
    assert soft[(y0 + y1) // 2].tolist() == case["row"]
    assert soft[:, (x0 + x1) // 2].tolist() == case["column"]


@pytest.mark.golden("images.json", "fill")
def test_what_is_masked_is_filled_from_around(case: dict[str, Any]) -> None:
    image = picture(*case["size"])
    found = filled(image, rectangle(case["size"], case["rectangle"]))
    assert np.asarray(found)[::4, ::4].ravel().tolist() == case["pixels_every_4"]


@pytest.mark.golden("images.json", "binary_mask")
def test_masks_come_from_alpha_or_grey(case: dict[str, Any]) -> None:
    alpha = np.array([case["values"]], np.uint8)
    grey = np.full_like(alpha, 9)
    image = Image.fromarray(np.stack([grey, grey, grey, alpha], -1))
    image = image if case["mode"] == "RGBA" else Image.fromarray(alpha).convert(case["mode"])
    assert values(grey_mask(image, rounded=case["round"])) == case["result"]


@pytest.mark.golden("images.json", "color_correction")
def test_colours_are_corrected_like_the_references(case: dict[str, Any]) -> None:
    width, height = case["size"]
    image, target = (picture(width, height, case[k]) for k in ("image_k", "target_k"))
    found = corrected(image, target)
    apart = np.abs(np.asarray(found, int)[::4, ::4].ravel() - np.array(case["pixels_every_4"]))
    assert apart.max() <= 1

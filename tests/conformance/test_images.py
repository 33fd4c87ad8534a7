"""Picture arithmetic against the reference."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from modules.images import grid, grid_rows
from modules.upscale import BUILTIN, upscale


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

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.training.measures import colours_apart, edge_energy, mean_colours, objects, outlines, sharpness


def square(inside: tuple[int, int, int], side: int = 48) -> Tensor:
    """One picture: a square on blue."""
    pixels = torch.tensor([20, 40, 200], dtype=torch.uint8).repeat(1, side, side, 1)
    pixels[0, 12:36, 12:36] = torch.tensor(inside, dtype=torch.uint8)
    return pixels


def stripe(ramp: int) -> Tensor:
    """One picture: an upright stripe on blue, whose edges are ramps over ``ramp`` pixels."""
    share = np.convolve(np.pad(np.repeat([0.0, 1.0, 0.0], [20, 24, 20]), 8, mode="edge"), np.ones(ramp) / ramp, "same")
    row = np.array([20.0, 40.0, 200.0]) + share[8:-8, None] * np.array([200.0, 160.0, -170.0])
    return torch.from_numpy(np.rint(row).astype(np.uint8)).repeat(1, 64, 1, 1)


def test_what_stands_before_a_plain_colour_is_found() -> None:
    there = objects(square((220, 200, 30)))
    assert int(there.sum()) == 24 * 24 and bool(there[0, 12:36, 12:36].all())
    assert not objects(square((30, 50, 190))).any()  # hardly another colour


def test_an_outline_is_eight_pixels_wide() -> None:
    rim = outlines(objects(square((220, 200, 30))))
    assert rim[0, 24].nonzero().flatten().tolist() == [*range(8, 16), *range(32, 40)]


def test_edge_energy_of_a_step_in_closed_form() -> None:
    """Half the height on both sides of a step, along four sides of 24 pixels, and less at the corners."""
    energy = edge_energy(square((220, 40, 200)))
    on_the_rim = int(outlines(objects(square((220, 40, 200)))).sum())
    step = (200 / 2) ** 2
    sides = 4 * (22 + 24) * step  # 22 pixels inside and 24 outside of each side know one direction
    corners = 4 * 2 * step  # the four inner corners know two
    assert energy == pytest.approx((sides + corners) / on_the_rim, rel=1e-5)


def test_a_ramp_is_less_sharp_than_a_step_as_the_closed_form_says() -> None:
    """Central differences on both sides of a step are 1/2; 1/6, 1/3, 1/3, 1/6 over a ramp of 3."""
    assert sharpness(stripe(1), stripe(1)) == 1
    assert sharpness(stripe(3), stripe(1)) == pytest.approx(math.sqrt(2 * (1 / 9 + 1 / 36) / (2 / 4)), abs=0.01)
    assert sharpness(stripe(5), stripe(1)) == pytest.approx(math.sqrt((4 / 25 + 2 / 100) / (2 / 4)), abs=0.01)


def test_mean_colours_are_those_of_the_object_alone() -> None:
    pixels = torch.cat([square((220, 200, 30)), square((220, 200, 60))])
    there = objects(pixels)
    assert mean_colours(pixels, there).tolist() == [[220, 200, 30], [220, 200, 60]]
    assert colours_apart(pixels[:1], pixels[1:], there[:1]).tolist() == [10]
    assert mean_colours(pixels, torch.zeros_like(there)).isnan().all()

"""Soft inpainting's two halves: what is mixed while sampling, and where old pixels come back."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.diffusion.guidance import keep_softly, mixed
from modules.imaging.soft_inpainting import RADIUS, WIDTH, between, changed
from modules.params.generation import SoftInpainting

DEFAULT = SoftInpainting()


def pixel(*values: float) -> Tensor:
    return torch.tensor(values).reshape(1, -1, 1, 1)


def softly(mask: float, sigma: float, **changes: Any) -> Tensor:
    options = {"bias": 1.0, "preservation": 0.5, "boost": 4.0} | changes
    answer = keep_softly(lambda *_: pixel(0.0, 3.0), pixel(4.0, 0.0), torch.full((1, 1, 1, 1), mask), **options)
    return answer(pixel(0.0, 0.0), sigma, 0).flatten()


def test_the_answers_share_is_a_power_of_the_mask_that_grows_with_the_noise() -> None:
    for sigma, bias, preservation in ((14.6, 1.0, 0.5), (2.0, 1.0, 0.5), (0.1, 1.0, 0.5), (2.0, 3.0, 1.0)):
        x, y = softly(0.6, sigma, bias=bias, preservation=preservation, boost=2.0).tolist()
        share = 0.6 ** (sigma**bias * preservation)
        assert y / x == pytest.approx(3 * share / (4 * (1 - share)), rel=1e-4)


def test_lengths_are_mixed_by_a_power_mean() -> None:
    for power in (1.0, 4.0, 32.0):
        length = float(mixed(pixel(4.0, 0.0), pixel(0.0, 3.0), torch.full((1, 1, 1, 1), 0.25), power).norm())
        assert length == pytest.approx((0.75 * 4**power + 0.25 * 3**power) ** (1 / power), rel=1e-5)


def test_where_the_mask_is_black_or_white_one_side_alone_is_left() -> None:
    assert torch.equal(softly(1.0, 5.0), torch.tensor([0.0, 3.0]))
    assert torch.equal(softly(0.0, 5.0), torch.tensor([4.0, 0.0]))
    assert torch.equal(mixed(pixel(0.0, 0.0), pixel(0.0, 0.0), torch.full((1, 1, 1, 1), 0.5), 4.0), pixel(0.0, 0.0))


def one_by_one(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """In plain words: each value takes as much of a line as it weighs; a part of the line is averaged."""
    result = np.zeros_like(values)
    edge = math.exp(-((RADIUS + 1) ** 2) / WIDTH**2)
    for y, x in np.ndindex(values.shape):
        near = []
        for v, u in np.ndindex(values.shape):
            if abs(v - y) <= RADIUS and abs(u - x) <= RADIUS:
                weight = (math.exp(-((v - y) ** 2 + (u - x) ** 2) / WIDTH**2) - edge) / (1 - edge)
                near.append((values[v, u], max(weight, 0.0)))
        near.sort()
        total = sum(weight for _, weight in near)
        begin, end = total * low, total * high
        if end - begin < 1:
            begin, end = (begin + end) / 2 - 0.5, (begin + end) / 2 + 0.5
            if end > total:
                begin, end = total - 1, total
        at, parts = 0.0, []
        for value, weight in near:
            parts.append((max(min(at + weight, end) - max(at, begin), 0.0), value))
            at += weight
        result[y, x] = sum(part * value for part, value in parts) / sum(part for part, _ in parts)
    return result


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.0), (0.25, 0.75), (0.0, 1.0)])
def test_the_mean_between_two_quantiles_is_that_of_the_plain_words(low: float, high: float) -> None:
    values = np.random.default_rng(0).random((7, 9))
    np.testing.assert_allclose(between(values, low, high), one_by_one(values, low, high), rtol=1e-9)


def test_what_did_not_move_is_old_and_what_moved_far_is_new() -> None:
    still, far = np.zeros((8, 8), np.float32), np.full((8, 8), 50, np.float32)
    mask = np.ones((8, 8), np.float32)
    assert changed(still, mask, DEFAULT, 64, 64).getextrema() == (0, 0)
    assert changed(far, mask, DEFAULT, 64, 64).getextrema() == (254, 254)  # 1 - a little, rounded down
    half = changed(np.full((8, 8), 0.5, np.float32), mask, DEFAULT, 64, 64)
    assert abs(half.getpixel((30, 30)) - 127) <= 1  # type: ignore[operator] # at the threshold both are seen alike


def test_a_single_speck_of_change_is_left_out() -> None:
    speck = np.zeros((9, 9), np.float32)
    speck[4, 4] = 0.6
    moved = between(between(speck, 0.9, 1.0), 0.25, 0.75)
    assert moved.max() < 0.6
    assert changed(speck, np.ones((9, 9), np.float32), DEFAULT, 72, 72).getextrema()[0] == 0


@pytest.mark.parametrize("wanted", [SoftInpainting(difference_threshold=0.0), SoftInpainting(difference_contrast=0.0)])
@pytest.mark.parametrize("influence", [0.0, 0.5, 1.0])
def test_the_ends_of_the_ranges_give_masks_as_well(wanted: SoftInpainting, influence: float) -> None:
    distance = np.tile(np.linspace(0, 3, 8, dtype=np.float32), (8, 1))
    mask = np.tile(np.linspace(0, 1, 8, dtype=np.float32), (8, 1))
    with np.errstate(all="raise"):
        image = changed(distance, mask, replace(wanted, mask_influence=influence), 64, 64)
    assert image.size == (64, 64)


def test_the_mask_counts_as_much_as_it_is_asked_to() -> None:
    distance, mask = np.full((8, 8), 0.5, np.float32), np.ones((8, 8), np.float32)
    mask[:, :4] = 0.05
    alone = np.asarray(changed(distance, mask, SoftInpainting(mask_influence=1.0), 64, 64), int)
    assert alone[32, 60] - alone[32, 4] > 100
    ignored = np.asarray(changed(distance, mask, SoftInpainting(mask_influence=0.0), 64, 64), int)
    assert np.ptp(ignored) <= 1

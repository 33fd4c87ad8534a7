"""Weights that are the same on every machine."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

Seeded = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def seeded_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """numpy's normal numbers over 10, seeded by each tensor's name; norms around 1, variances above 0.5."""
    made = {}
    for key, tensor in state.items():
        numbers = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(tuple(tensor.shape)) / 10
        if "norm" in key and key.endswith("weight"):
            numbers = 1 + numbers
        if key.endswith("running_var"):
            numbers = 0.5 + np.abs(numbers)
        made[key] = torch.from_numpy(np.asarray(numbers, np.float32)) if tensor.is_floating_point() else tensor
    return made


@pytest.fixture
def seeded() -> Seeded:
    return seeded_weights


@pytest.fixture
def picture() -> Callable[[int, int], Tensor]:
    """(1, 3, h, w) in [0, 1], the same on every machine."""

    def make(height: int, width: int) -> Tensor:
        return torch.from_numpy(np.random.default_rng(7).random((1, 3, height, width), np.float32))

    return make

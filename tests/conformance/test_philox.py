"""Seeds and noise against the reference's numbers."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.diffusion.noise import BrownianPath, ImageNoise, PhiloxGenerator, first_normals, philox, slerp

Case = dict[str, Any]


def close(ours: Tensor, theirs: list[float]) -> None:
    np.testing.assert_allclose(ours.flatten().numpy(), theirs, rtol=0, atol=1e-6)


@pytest.mark.golden("philox.json", "philox_raw")
def test_words(case: Case) -> None:
    counter = np.zeros((4, len(case["subsequence"])), dtype=np.uint64)
    counter[0], counter[2] = case["offset"], case["subsequence"]
    assert philox(counter, case["seed"]).T.tolist() == case["uint32x4"]


@pytest.mark.golden("philox.json", "generator")
def test_normal_numbers(case: Case) -> None:
    numbers = PhiloxGenerator(case["seed"])
    for call in case["calls"]:
        close(numbers.randn(tuple(call["shape"])), call["values"])


@pytest.mark.golden("philox.json", "large")
def test_large_draws(case: Case) -> None:
    numbers = PhiloxGenerator(case["seed"])
    for _ in range(case["previous_calls"]):
        numbers.randn((1,))
    drawn = numbers.randn(tuple(case["shape"])).flatten()
    close(drawn[case["flat_index"]], case["values"])
    assert float(drawn.double().sum()) == pytest.approx(case["sum"], abs=1e-3)
    assert float(drawn.double().square().sum()) == pytest.approx(case["sum_of_squares"], rel=1e-6)


@pytest.mark.golden("philox.json", "slerp")
def test_slerp(case: Case) -> None:
    low, high = (PhiloxGenerator(case[name]).randn(tuple(case["shape"])) for name in ("low_seed", "high_seed"))
    close(slerp(case["val"], low, high, rows=True), case["result"])


@pytest.mark.golden("philox.json", "image_rng")
def test_image_noise(case: Case) -> None:
    noise = ImageNoise(
        case["seeds"],
        tuple(case["shape"]),
        source=case["source"],
        subseeds=case.get("subseeds", ()),
        subseed_strength=case.get("subseed_strength", 0.0),
        resize_from=(case.get("seed_resize_from_h", 0) // 8, case.get("seed_resize_from_w", 0) // 8),
        ensd=case["eta_noise_seed_delta"],
    )
    first, *later = case["calls"]
    close(noise.initial(), first)
    for values in later:
        close(noise(2.0, 1.0), values)


@pytest.mark.golden("philox.json", "brownian")
def test_brownian_noise(case: Case) -> None:
    paths = [
        BrownianPath(
            tuple(case["shape"]),
            case["sigma_min"],
            case["sigma_max"],
            seed,
            partial(first_normals, case["source"]),
        )
        for seed in case["seeds"]
    ]
    for query in case["queries"]:
        low, high = sorted((query["sigma"], query["sigma_next"]))
        scale = math.sqrt(high - low) * (1 if query["sigma"] < query["sigma_next"] else -1)
        close(torch.stack([path.increment(low, high) for path in paths]) / scale, query["noise"])

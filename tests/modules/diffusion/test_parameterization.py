"""Noise tables, and predictions as x0."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from modules.diffusion.parameterization import NoiseTable, denoised
from modules.errors import UserError


@pytest.mark.parametrize("name", ["scaled_linear", "linear", "cosine"])
def test_sigmas_rise_and_times_come_back(name: str) -> None:
    table = NoiseTable.named(name)
    assert np.all(np.diff(table.sigmas) > 0)
    for t in (0.0, 0.25, 499.5, 998.75, 999.0):
        assert table.sigma_to_t(table.t_to_sigma(t)) == pytest.approx(t, abs=1e-6)
    assert table.sigma_to_t(table.sigma_max * 2) == 999
    assert table.sigma_to_t(table.sigma_min / 2) == 0


def test_cosine_table_is_that_of_nichol_and_dhariwal() -> None:
    alphas = NoiseTable.named("cosine").alphas_cumprod
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert alphas[499] == pytest.approx(math.cos(0.508 / 1.008 * math.pi / 2) ** 2 / start, rel=1e-6)


def test_unknown_names_are_told() -> None:
    with pytest.raises(UserError, match="scaled_linear"):
        NoiseTable.named("quadratic")
    with pytest.raises(UserError, match="eps and v"):
        denoised(torch.zeros(1), torch.zeros(1), 1.0, "flow")


def test_zero_terminal_snr_ends_in_noise_and_leaves_the_start() -> None:
    table = NoiseTable.named("scaled_linear")
    zero = table.zero_terminal_snr()
    assert zero.sigma_max > 4000
    assert zero.sigma_min == pytest.approx(table.sigma_min, rel=1e-6)


def test_a_distilled_model_knows_every_twentieth_level() -> None:
    table = NoiseTable.named("scaled_linear")
    some = table.every(20)
    assert len(some.sigmas) == 50
    assert list(some.timesteps[:2]) == [19, 39]
    assert some.sigma_max == table.sigma_max
    assert some.sigma_to_t(table.t_to_sigma(52)) == 59, "nearest"
    assert some.t_to_sigma(59) == pytest.approx(table.t_to_sigma(59))


@pytest.mark.parametrize("kind", ["eps", "v"])
@pytest.mark.parametrize("sigma", [0.03, 1.0, 14.6])
def test_a_perfect_prediction_gives_x0(kind: str, sigma: float) -> None:
    x0, noise = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind(0)
    alpha = 1 / math.sqrt(1 + sigma**2)
    beta = sigma * alpha
    prediction = noise if kind == "eps" else alpha * noise - beta * x0
    torch.testing.assert_close(denoised(prediction, x0 + sigma * noise, sigma, kind), x0)

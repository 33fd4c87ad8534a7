from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.diffusion.parameterization import BETAS, cosine, denoised, linear, scaled_linear
from modules.training.diffusion import Process, loss, stratified


def test_linear_schedule_is_that_of_ho_et_al() -> None:
    betas = linear()
    assert betas[0] == pytest.approx(1e-4) and betas[-1] == pytest.approx(0.02)
    assert np.allclose(np.diff(betas), np.diff(betas)[0])


def test_scaled_linear_schedule_matches_its_formula() -> None:
    betas = scaled_linear()
    for i in (0, 1, 500, 999):
        root = math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * i / 999
        assert float(betas[i]) == pytest.approx(root**2, rel=1e-9)


def test_cosine_schedule_gives_back_its_alpha_bar() -> None:
    def f(t: float) -> float:
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    alpha_bar = np.cumprod(1 - cosine())
    for i in (0, 10, 400, 900):
        assert float(alpha_bar[i]) == pytest.approx(f(i + 1) / f(0), rel=1e-9)
    assert float(cosine()[-1]) == pytest.approx(0.999)


@pytest.mark.parametrize("schedule", sorted(BETAS))
def test_forward_process_in_one_step_has_the_moments_of_many(schedule: str) -> None:
    """Iterate q(x_t | x_{t-1}) as mean factor and variance; eq. 4 must name the same Gaussian."""
    process, betas = Process(schedule), BETAS[schedule]()
    factor, variance = 1.0, 0.0
    for t in range(700):
        factor *= math.sqrt(1 - float(betas[t]))
        variance = (1 - float(betas[t])) * variance + float(betas[t])
    ones, t_tensor = torch.ones(1, 1, 1, 1), torch.tensor([699])
    assert float(process.noised(ones, ones * 0, t_tensor)) == pytest.approx(factor, rel=1e-4)
    assert float(process.noised(ones * 0, ones, t_tensor)) ** 2 == pytest.approx(variance, rel=1e-4)


def x0_and_noise(process: Process, x: Tensor, said: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Both parts of ``x`` as the program's samplers read the network's answer, in sigma space."""
    parts = []
    for x_t, answer, step in zip(x, said, t.tolist(), strict=True):
        alpha_bar = float(process.alphas_cumprod[step])
        x0 = denoised(answer, x_t / alpha_bar**0.5, ((1 - alpha_bar) / alpha_bar) ** 0.5, process.prediction)
        parts.append((x0, (x_t - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5))
    return torch.stack([x0 for x0, _ in parts]), torch.stack([noise for _, noise in parts])


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_perfect_answer_gives_back_picture_and_noise(prediction: str) -> None:
    process = Process("scaled_linear", prediction)
    x0, noise, t = torch.randn(3, 4, 5, 5), torch.randn(3, 4, 5, 5), torch.tensor([0, 400, 900])
    got_x0, got_noise = x0_and_noise(process, process.noised(x0, noise, t), process.target(x0, noise, t), t)
    assert torch.allclose(got_x0, x0, atol=1e-4) and torch.allclose(got_noise, noise, atol=1e-4)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_error_in_x0_counts_min_snr_for_eps_and_one_more_for_v(prediction: str) -> None:
    """Whatever is predicted, weight * loss must equal min(SNR, 5), or min(SNR + 1, 6), times the error in x0."""
    process = Process("scaled_linear", prediction)
    x0, noise, wrong = torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3), torch.randn(1, 4, 3, 3)
    for step in (30, 300, 800):
        t = torch.tensor([step])
        said = process.target(x0, noise, t) + wrong
        implied, _ = x0_and_noise(process, process.noised(x0, noise, t), said, t)
        alpha_bar = float(process.alphas_cumprod[step])
        snr = alpha_bar / (1 - alpha_bar)
        counts = min(snr, 5.0) if prediction == "eps" else min(snr + 1, 6.0)
        expected = counts * float((implied - x0).square().mean())
        assert float(loss(process, said, x0, noise, t, 5.0)) == pytest.approx(expected, rel=1e-3)


def test_gamma_zero_is_the_simple_loss() -> None:
    process = Process()
    noise, said = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    t = torch.tensor([1, 900])
    assert torch.allclose(loss(process, said, noise, noise, t, 0.0), (said - noise).square().mean())


def test_stratified_timesteps_fall_one_into_each_part() -> None:
    t = stratified(50, torch.Generator().manual_seed(0))
    assert (t // 20).tolist() == list(range(50))


def test_an_unknown_schedule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="scaled_linear"):
        Process("quadratic")

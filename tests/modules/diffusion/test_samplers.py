"""Samplers against closed forms: a Gaussian's probability-flow ODE, polynomials, moments. No reference is needed."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.builtin import SAMPLERS, register
from modules.diffusion import samplers
from modules.diffusion.noise import ImageNoise
from modules.diffusion.parameterization import NoiseTable
from modules.diffusion.samplers.multistep import _vp_time
from modules.diffusion.samplers.unipc import whole_timesteps
from modules.diffusion.schedules import sigmas_for
from modules.diffusion.types import SamplerSpec
from modules.errors import Cancelled
from modules.extension.host import Host

MEAN, DEVIATION = 0.7, 0.5
TABLE = NoiseTable.named("scaled_linear")
FINE = NoiseTable(
    np.cumprod(1 - np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 20_000) ** 2 / 20).astype(np.float64)
)
"""Between levels UniPC interpolates ln alpha and its caller ln sigma; here the levels are too close to matter."""


def gaussian(x: Tensor, sigma: float, step: int) -> Tensor:
    """x0 given x where x0 is normal."""
    return (DEVIATION**2 * x + sigma**2 * MEAN) / (DEVIATION**2 + sigma**2)


def flow(x: Tensor, sigma: float, sigma_next: float) -> Tensor:
    """The exact solution of the probability-flow ODE for that Gaussian."""
    return MEAN + (x - MEAN) * math.sqrt((DEVIATION**2 + sigma_next**2) / (DEVIATION**2 + sigma**2))


class Draws:
    """Independent noise of any shape, from a seed."""

    def __init__(self, shape: Sequence[int], seed: int = 0):
        self._generator = torch.Generator().manual_seed(seed)
        self._shape = shape

    def initial(self) -> Tensor:
        return torch.randn(self._shape, generator=self._generator, dtype=torch.float64)

    def __call__(self, sigma: float, sigma_next: float) -> Tensor:
        return self.initial()


def ignored(step: int, x: Tensor, sigma: float, denoised: Tensor) -> None:
    """An `OnStep`."""


def exponential(n: int, high: float = 20.0, low: float = 0.05) -> list[float]:
    return [float(s) for s in np.geomspace(high, low, n + 1)]


def even(n: int) -> list[float]:
    return [float(s) for s in np.linspace(10.0, 0.5, n + 1)]


TO_THE_END = {"lower_order_final": False, "table": FINE}
ORDERS: list[tuple[str, Callable[..., Tensor], float, dict[str, Any], Callable[[int], list[float]]]] = [
    ("Euler", samplers.euler, 1, {}, exponential),
    ("Euler a without noise", samplers.euler_ancestral, 1, {"eta": 0.0}, exponential),
    ("HeunPP2", samplers.heunpp2, 1, {}, exponential),
    ("Heun", samplers.heun, 2, {}, exponential),
    ("DPM2", samplers.dpm_2, 2, {}, exponential),
    ("DPM2 a without noise", samplers.dpm_2_ancestral, 2, {"eta": 0.0}, exponential),
    ("Restart below 20 steps", samplers.restart, 2, {}, exponential),
    ("DPM++ 2S a without noise", samplers.dpmpp_2s_ancestral, 2, {"eta": 0.0}, exponential),
    ("DPM++ SDE without noise", samplers.dpmpp_sde, 2, {"eta": 0.0}, exponential),
    ("DPM++ 2M", samplers.dpmpp_2m, 2, {}, exponential),
    ("DPM++ 2M SDE without noise", samplers.dpmpp_2m_sde, 2, {"eta": 0.0}, exponential),
    ("DPM++ 2M SDE Heun without noise", samplers.dpmpp_2m_sde, 2, {"eta": 0.0, "solver_type": "heun"}, exponential),
    # Started by a first-order step, a multistep method keeps that step's error, which is of second order. It is small
    # where the flow is nearly straight, at high sigmas.
    ("DPM++ 3M SDE without noise", samplers.dpmpp_3m_sde, 2, {"eta": 0.0}, exponential),
    ("DEIS", samplers.deis, 2, {}, exponential),
    ("LMS", samplers.lms, 3.5, {}, exponential),
    ("IPNDM on even steps", samplers.ipndm, 3.5, {}, even),
    ("PLMS", samplers.plms, 3.5, {}, even),
    ("DDIM", samplers.ddim, 1, {}, exponential),
    ("UniPC of order 1 with its corrector", samplers.unipc, 2, {"order": 1, "table": FINE}, exponential),
    ("UniPC of order 2 with its corrector", samplers.unipc, 3, {"order": 2, "table": FINE}, exponential),
    # A last step of lower order would spoil these.
    ("UniPC of order 2 with bh2", samplers.unipc, 3, {"order": 2, "variant": "bh2"} | TO_THE_END, exponential),
    ("UniPC of order 3 with its corrector", samplers.unipc, 4, {"order": 3} | TO_THE_END, exponential),
]


@pytest.mark.parametrize(("sample", "order", "options", "grid"), [o[1:] for o in ORDERS], ids=[o[0] for o in ORDERS])
def test_error_falls_with_the_order_of_the_method(
    sample: Callable[..., Tensor], order: float, options: dict[str, Any], grid: Callable[[int], list[float]]
) -> None:
    x = torch.tensor([[-9.0, 3.0, 14.0]], dtype=torch.float64)
    errors = []
    for n in (8, 16) if sample is samplers.restart else (32, 64, 128):
        sigmas = grid(n) if "table" not in options else exponential(n, high=14.0)
        found = sample(gaussian, x, sigmas, noise=Draws(x.shape), on_step=ignored, **options)
        exact = flow(x, sigmas[0], sigmas[-1])
        if sample in (samplers.ddim, samplers.plms, samplers.unipc):
            exact = exact / math.sqrt(1 + sigmas[-1] ** 2)
        errors.append(float((found - exact).abs().max()))
    slope = math.log2(errors[-2] / errors[-1])
    assert slope > order - 0.3, errors
    assert slope < order + 1.7, "a method of lower order was expected"
    assert errors[-1] < 0.5


def test_ddim_cfgpp_without_guidance_is_ddim() -> None:
    x, sigmas, last = torch.tensor([[-9.0, 3.0, 14.0]], dtype=torch.float64), exponential(16), torch.empty(0)

    def denoise(x: Tensor, sigma: float, step: int) -> Tensor:
        nonlocal last
        last = (x - gaussian(x, sigma, step)) / sigma
        return gaussian(x, sigma, step)

    one = samplers.ddim_cfgpp(denoise, x, sigmas, noise=Draws(x.shape), on_step=ignored, direction=lambda: last)
    other = samplers.ddim(gaussian, x, sigmas, noise=Draws(x.shape), on_step=ignored)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_dpm_fast_is_of_third_order() -> None:
    x = torch.tensor([[-9.0, 3.0, 14.0]], dtype=torch.float64)
    errors = []
    for n in (31, 61, 121):  # 3k + 1: third-order steps and one of the first order, which shrinks as they do
        found = samplers.dpm_fast(gaussian, x, [20.0, 0.05, 0.0], noise=Draws(x.shape), on_step=ignored, eta=0, steps=n)
        errors.append(float((found - flow(x, 20.0, 0.05)).abs().max()))
    n = 60
    coarse = samplers.euler(gaussian, x, exponential(n), noise=Draws(x.shape), on_step=ignored)
    assert errors[1] < float((coarse - flow(x, 20.0, 0.05)).abs().max()) / 10
    assert math.log2(errors[-2] / errors[-1]) > 1.7


def test_dpm_adaptive_keeps_its_tolerance_with_fewer_calls_where_it_may_be_larger() -> None:
    x = torch.tensor([[-9.0, 3.0, 14.0]], dtype=torch.float64)
    calls, errors = [], []
    for rtol in (0.05, 0.001):
        count = 0

        def counted(x: Tensor, sigma: float, step: int) -> Tensor:
            nonlocal count
            count += 1
            return gaussian(x, sigma, step)

        sigmas = [20.0, 0.05, 0.0]
        found = samplers.dpm_adaptive(
            counted, x, sigmas, noise=Draws(x.shape), on_step=ignored, eta=0, rtol=rtol, atol=rtol / 10
        )
        calls.append(count)
        errors.append(float((found - flow(x, 20.0, 0.05)).abs().max()))
    assert calls[0] < calls[1]
    assert errors[1] < errors[0] < 0.1


@pytest.mark.parametrize(
    ("sample", "grid", "variable", "degree"),
    [
        (samplers.lms, exponential, float, 3),
        (samplers.ipndm, even, float, 3),
        (samplers.plms, even, float, 3),
        (samplers.deis, exponential, _vp_time, 2),
    ],
    ids=["LMS", "IPNDM", "PLMS", "DEIS"],
)
def test_multistep_methods_integrate_polynomials_exactly_once_started(
    sample: Callable[..., Tensor],
    grid: Callable[[int], list[float]],
    variable: Callable[[float], float],
    degree: int,
) -> None:
    def derivative(sigma: float) -> float:
        u = variable(sigma)
        return sum((k + 1) * u**k for k in range(degree + 1))

    def denoise(x: Tensor, sigma: float, step: int) -> Tensor:
        return x - sigma * derivative(sigma)

    seen: list[tuple[float, float]] = []
    sample(
        denoise,
        torch.zeros(1, dtype=torch.float64),
        grid(12),
        noise=Draws((1,)),
        on_step=lambda step, x, sigma, denoised: seen.append((sigma, float(x))),
    )
    for (a, x), (b, x_next) in pairwise(seen[5:]):
        at = np.linspace(b, a, 2001)
        exact = -np.trapezoid([derivative(float(s)) for s in at], at)
        assert x_next - x == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize(
    ("sample", "steps", "options"),
    [
        (samplers.euler, 300, {"s_churn": 20.0}),
        (samplers.heun, 60, {"s_churn": 40.0}),
        (samplers.euler_ancestral, 300, {}),
        (samplers.dpm_2_ancestral, 60, {}),
        (samplers.dpmpp_2s_ancestral, 60, {}),
        (samplers.ddpm, 300, {}),
        (samplers.restart, 60, {}),
        (samplers.dpmpp_sde, 60, {}),
        (samplers.dpmpp_2m_sde, 60, {}),
        (samplers.dpmpp_2m_sde, 60, {"solver_type": "heun"}),
        (samplers.dpmpp_3m_sde, 60, {}),
        (samplers.predictor_corrector, 60, {}),
    ],
)
def test_noisy_samplers_end_in_the_distribution(
    sample: Callable[..., Tensor], steps: int, options: dict[str, Any]
) -> None:
    shape = (4, 4, 32, 32)
    noise = Draws(shape)
    sigmas = [*exponential(steps - 1, high=40.0, low=0.02), 0.0]
    x = sample(gaussian, noise.initial() * sigmas[0], sigmas, noise=noise, on_step=ignored, **options)
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.04)
    assert float(x.std()) == pytest.approx(DEVIATION, rel=0.06)


def test_ddpm_is_euler_a_written_in_another_way() -> None:
    x, sigmas = Draws((2, 3)).initial() * 20, [*exponential(9), 0.0]
    one = samplers.ddpm(gaussian, x, sigmas, noise=Draws((2, 3), 1), on_step=ignored)
    other = samplers.euler_ancestral(gaussian, x, sigmas, noise=Draws((2, 3), 1), on_step=ignored, eta=1.0)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_forward_variance_of_ddpm_is_that_of_the_forward_process() -> None:
    sigma, sigma_next = 3.0, 2.0
    alpha, alpha_next = 1 / (1 + sigma**2), 1 / (1 + sigma_next**2)
    zeros, ones = torch.zeros(1, 1), torch.ones(1, 1)

    class Ones:
        def initial(self) -> Tensor:
            return ones

        def __call__(self, sigma: float, sigma_next: float) -> Tensor:
            return ones

    def nothing(x: Tensor, sigma: float, step: int) -> Tensor:
        return zeros

    added = samplers.ddpm(nothing, zeros, [sigma, sigma_next], noise=Ones(), on_step=ignored, variance="forward")
    beta = 1 - alpha / alpha_next
    assert float(added) ** 2 * alpha_next == pytest.approx(beta)


@pytest.mark.parametrize("spec", [s for s in SAMPLERS if not s.couples_batch], ids=lambda spec: spec.name)
def test_image_does_not_depend_on_its_company(spec: SamplerSpec) -> None:
    seeds = (11, 12, 13, 14)
    together = run(spec, seeds)
    for i, seed in enumerate(seeds):
        assert torch.equal(together[i : i + 1], run(spec, (seed,)))


def test_samplers_that_couple_a_batch_say_so() -> None:
    (adaptive,) = [spec for spec in SAMPLERS if spec.couples_batch]
    assert not torch.equal(run(adaptive, (11, 12))[:1], run(adaptive, (11,)))


def run(spec: SamplerSpec, seeds: tuple[int, ...]) -> Tensor:
    host = Host()
    register(host)
    table = spec.table_for(TABLE)
    sigmas = sigmas_for(spec, host.schedulers.get(spec.default_scheduler or "uniform"), 8, table)
    noise = ImageNoise(seeds, (4, 6, 5), brownian=sigmas if spec.brownian else ())
    last = torch.empty(0)

    def denoise(x: Tensor, sigma: float, step: int) -> Tensor:
        nonlocal last
        denoised = (x / math.sqrt(1 + sigma**2)).tanh()
        last = (x - denoised * 0.5) / sigma
        return denoised

    wrapped = spec.wrap(denoise, table) if spec.wrap else denoise
    start = math.sqrt(1 + sigmas[0] ** 2) if spec.unit_start else sigmas[0]
    options = spec.arguments(table=table, eta=1.0, s_churn=3.0, direction=lambda: last)
    return spec.sample(wrapped, noise.initial() * start, sigmas, noise=noise, on_step=ignored, **options)


@pytest.mark.parametrize("spec", SAMPLERS, ids=lambda spec: spec.name)
def test_a_run_stops_where_on_step_says_so(spec: SamplerSpec) -> None:
    table, seen = spec.table_for(TABLE), []
    sigmas = sigmas_for(spec, KARRAS, 8, table)

    def on_step(step: int, x: Tensor, sigma: float, denoised: Tensor) -> None:
        assert x.shape == denoised.shape
        seen.append(step)
        if step == 2:
            raise Cancelled

    x = torch.ones(1, 4, 2, 2)
    options = spec.arguments(table=table, direction=lambda: x)
    with pytest.raises(Cancelled):
        spec.sample(gaussian, x, sigmas, noise=ImageNoise((1,), (4, 2, 2)), on_step=on_step, **options)
    assert seen == [0, 1, 2]


def hosted() -> Host:
    host = Host()
    register(host)
    return host


KARRAS = hosted().schedulers.get("karras")


def test_samplers_have_the_reference_s_names_order_and_aliases() -> None:
    host = hosted()
    assert host.samplers.names()[:20] == (
        "DPM++ 2M",
        "DPM++ SDE",
        "DPM++ 2M SDE",
        "DPM++ 2M SDE Heun",
        "DPM++ 2S a",
        "DPM++ 3M SDE",
        "Euler a",
        "Euler",
        "LMS",
        "Heun",
        "DPM2",
        "DPM2 a",
        "DPM fast",
        "DPM adaptive",
        "Restart",
        "DDIM",
        "DDIM CFG++",
        "PLMS",
        "UniPC",
        "LCM",
    )
    assert host.samplers.canonical("k_euler_ancestral") == "Euler a"
    assert host.samplers.canonical("k_dpm_ad") == "DPM adaptive"
    assert host.schedulers.canonical("SGMUniform") == "SGM Uniform"


def test_options_of_a_spec_win_over_what_is_offered() -> None:
    heun = hosted().samplers.get("DPM++ 2M SDE Heun")
    assert heun.arguments(eta=0.5, solver_type="midpoint", table=TABLE, s_noise=None) == {
        "eta": 0.5,
        "solver_type": "heun",
    }


def test_listing_samplers_needs_no_torch() -> None:
    code = "import sys, modules.builtin, modules.diffusion.guidance; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("steps", [6, 9, 37, 45, 111, 148])
@pytest.mark.parametrize("start", [999, 251, 831, 576, 726])
def test_unipc_reads_a_v_at_the_whole_timesteps_that_torch_cuts(steps: int, start: int) -> None:
    """Many of these times lie on a timestep, so that one bit more or less of float32 decides."""
    times = torch.linspace(1.0 if start == 999 else torch.tensor(start) / 1000 + 1 / 1000, 1 / 1000, steps + 1)
    theirs = ((times - 1 / 1000) * 1000).to(torch.int).tolist()
    timesteps = [start] * steps
    sigmas = samplers.own_unipc(timesteps, TABLE, whole=start == 999)
    ours = whole_timesteps([(TABLE.sigma_to_t(sigma) + 1) / 1000 for sigma in sigmas], 1000)
    assert ours == theirs

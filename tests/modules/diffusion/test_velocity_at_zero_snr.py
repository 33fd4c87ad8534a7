"""DDIM, PLMS and UniPC over a velocity model whose schedule ends in pure noise, against the algorithms as their papers
have them: in variance-preserving space, with timesteps, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.builtin import register
from modules.diffusion.parameterization import NoiseTable, denoised
from modules.diffusion.schedules import sigmas_for
from modules.extension.host import Host
from tests.modules.diffusion.test_samplers import Draws

Floats = NDArray[np.float64]
TABLE = NoiseTable.named("scaled_linear").zero_terminal_snr()
A: Floats = TABLE.alphas_cumprod
SHAPE = (2, 3)


def velocity(x: Floats, t: float) -> Floats:
    """A network of no meaning that depends on both."""
    found: Floats = 0.6 * np.tanh(x) - 0.2 * x + 0.1 * np.sin(t / 150) - 0.3
    return found


def noise_of(x: Floats, t: float, level: int) -> Floats:
    """What A1111 makes of a velocity: the level is that of the whole timestep."""
    found: Floats = math.sqrt(A[level]) * velocity(x, t) + math.sqrt(1 - A[level]) * x
    return found


def timesteps(steps: int) -> list[int]:
    k = 1000 // steps
    return [min(t + 1, 999) for t in range(0, 1000, k)]


def step_to(x: Floats, eps: Floats, t: int, before: int, eta: float, draw: Callable[[], Floats]) -> Floats:
    """Song et al. (2021), eq. 12 and 16."""
    a, p = A[t], A[before]
    q = eta * math.sqrt((1 - p) / (1 - a) * (1 - a / p))
    clean = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
    found: Floats = math.sqrt(p) * clean + math.sqrt(1 - p - q**2) * eps
    return found + q * draw() if q else found


def ddim(x: Floats, ts: Sequence[int], draw: Callable[[], Floats], eta: float) -> Floats:
    for before, t in reversed(list(pairwise(ts))):
        x = step_to(x, noise_of(x, t, t), t, before, eta, draw)
    return x


def plms(x: Floats, ts: Sequence[int], draw: Callable[[], Floats]) -> Floats:
    """Liu et al. (2022), eq. 11 and 12."""
    old: list[Floats] = []
    for before, t in reversed(list(pairwise(ts))):
        e = noise_of(x, t, t)
        if not old:
            ahead = step_to(x, e, t, before, 0.0, draw)
            mean = (e + noise_of(ahead, before, before)) / 2
        elif len(old) == 1:
            mean = (3 * e - old[0]) / 2
        elif len(old) == 2:
            mean = (23 * e - 16 * old[0] + 5 * old[1]) / 12
        else:
            mean = (55 * e - 59 * old[0] + 37 * old[1] - 9 * old[2]) / 24
        old = [e, *old][:3]
        x = step_to(x, mean, t, before, 0.0, draw)
    return x


def unipc(x: Floats, count: int, order: int = 3) -> Floats:
    """Zhao et al. (2023), alg. 7 and 8 with data prediction and B(h) = h, spelled out for orders 1 to 3."""
    times = np.linspace(1.0, 1 / 1000, count + 1)
    log_alpha = np.interp(times, (np.arange(1000) + 1) / 1000, np.log(A) / 2)
    alpha, sigma = np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))
    lam = log_alpha - np.log(sigma)

    def data(i: int, x: Floats) -> Floats:
        t = times[i] * 1000 - 1
        found: Floats = (x - sigma[i] * noise_of(x, t, int(t + 1e-9))) / alpha[i]
        return found

    answers = [data(0, x)]
    for i in range(1, count + 1):
        p = min(i, order, count + 1 - i)
        h, z = lam[i] - lam[i - 1], -(lam[i] - lam[i - 1])
        f, last = math.expm1(z), answers[-1]
        r = [(lam[i - 1 - k] - lam[i - 1]) / h for k in range(1, p)]
        differences = [(answers[-1 - k] - last) / r[k - 1] for k in range(1, p)]
        g = [f / z - 1]
        for k in range(1, p + 1):
            g.append(g[-1] / z - 1 / math.factorial(k + 1))
        b = np.array([g[k] * math.factorial(k + 1) / z for k in range(p)])
        powers = np.array([[*[s**j for s in r], 1.0] for j in range(p)])
        base = sigma[i] / sigma[i - 1] * x - alpha[i] * f * last
        predictor = [0.5] if p == 2 else np.linalg.solve(powers[:-1, :-1], b[:-1]) if p > 2 else []
        corrector = [0.5] if p == 1 else np.linalg.solve(powers, b)
        x = base - alpha[i] * z * sum((w * d for w, d in zip(predictor, differences, strict=True)), np.zeros(SHAPE))
        if i < count:
            ahead = data(i, x)
            terms = zip(corrector, [*differences, ahead - last], strict=True)
            x = base - alpha[i] * z * sum((w * d for w, d in terms), np.zeros(SHAPE))
            answers.append(ahead)
    return x


def ours(name: str, steps: int, dtype: torch.dtype, **options: object) -> Tensor:
    host = Host()
    register(host)
    sampler = host.samplers.get(name)
    sigmas = sigmas_for(sampler, host.schedulers.get("uniform"), steps, TABLE)

    def denoise(x: Tensor, sigma: float, step: int) -> Tensor:
        scaled = x / math.sqrt(sigma**2 + 1)
        answer = velocity(scaled.double().numpy(), TABLE.sigma_to_t(sigma))
        return denoised(torch.from_numpy(answer).to(dtype), x, sigma, "v")

    draws = Draws(SHAPE)
    x = (draws.initial() * math.sqrt(1 + sigmas[0] ** 2)).to(dtype)
    told = sampler.arguments(table=TABLE, prediction="v", direction=lambda: x, **options)
    return sampler.sample(denoise, x, sigmas, noise=draws, on_step=lambda *_: None, **told)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 2e-3)])
@pytest.mark.parametrize("steps", [7, 10, 25])
@pytest.mark.parametrize("name", ["DDIM", "DDIM, eta 1", "PLMS", "UniPC"])
def test_runs_are_those_of_the_papers(name: str, steps: int, dtype: torch.dtype, tolerance: float) -> None:
    draws = Draws(SHAPE)
    first = draws.initial().numpy()

    def draw() -> Floats:
        found: Floats = draws.initial().numpy()
        return found

    ts = timesteps(steps)
    reference: dict[str, Callable[[], Floats]] = {
        "DDIM": partial(ddim, first, ts, draw, 0.0),
        "DDIM, eta 1": partial(ddim, first, ts, draw, 1.0),
        "PLMS": partial(plms, first, ts, draw),
        "UniPC": partial(unipc, first, len(ts)),
    }
    sampler, _, eta = name.partition(", eta ")
    found = ours(sampler, steps, dtype, **({"eta": float(eta)} if eta else {}))
    assert np.isfinite(first).all()
    np.testing.assert_allclose(found.double().numpy(), reference[name](), rtol=tolerance, atol=tolerance)


def test_the_table_ends_in_noise_as_the_reference_has_it() -> None:
    assert math.sqrt((1 - A[-1]) / A[-1]) == pytest.approx(4518.76, abs=0.01)

"""Samplers against the reference's, in float64 on the analytic denoisers of the reference data."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modules.builtin import register
from modules.diffusion.parameterization import NoiseTable
from modules.diffusion.types import SamplerSpec
from modules.extension.host import Host

Case = dict[str, Any]
RENAMED = {"uni_pc_order": "order", "uni_pc_variant": "variant", "uni_pc_lower_order_final": "lower_order_final"}
SCHEDULE_OPTIONS = {"uni_pc_skip_type"}


@cache
def arrays(path: Path) -> dict[str, Tensor]:
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@cache
def table() -> NoiseTable:
    """The reference data's table is not rounded to float32."""
    betas = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000) ** 2
    return NoiseTable(np.cumprod(1 - betas).astype(np.float64))


class Mixture:
    """x0 given x for independent mixtures of three normals: Bayes' rule. Latents (n, 4, 2, 2)."""

    def __init__(self, weights: tuple[float, float, float]):
        j = torch.arange(1, 17, dtype=torch.float64).reshape(4, 2, 2)
        self.means = [a + 0.4 * torch.sin(0.7 * j * (k + 1)) for k, a in enumerate((-1.0, 0.2, 1.3))]
        self.weights = weights

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        top: Tensor = torch.zeros_like(x)
        bottom: Tensor = torch.zeros_like(x)
        variances = [s**2 + sigma**2 for s in (0.3, 0.5, 0.2)]
        logs = [
            math.log(w) - (x - m) ** 2 / (2 * v) - math.log(v) / 2
            for w, m, v in zip(self.weights, self.means, variances, strict=True)
        ]
        peak = torch.stack(logs).amax(0)
        for log, mean, variance in zip(logs, self.means, variances, strict=True):
            share = torch.exp(log - peak)
            top = top + share * (x * (variance - sigma**2) + sigma**2 * mean) / variance
            bottom = bottom + share
        return top / bottom


COND, UNCOND = Mixture((0.5, 0.3, 0.2)), Mixture((0.2, 0.3, 0.5))


class Recorder:
    """A `Denoiser` and a `Noise` that remember what they were asked."""

    def __init__(self, case: Case, noises: Tensor, n: int):
        self.scale = case.get("cfg_scale", 1.0) / 12.5 if case["sampler"] == "DDIM CFG++" else None
        self.noises = noises[:, :n]
        self.calls: list[tuple[float, Tensor]] = []
        self.draws: list[tuple[float, float]] = []
        self.steps: list[int] = []

    def __call__(self, x: Tensor, sigma: float, step: int) -> Tensor:
        self.calls.append((sigma, x))
        if self.scale is None:
            return COND(x, sigma)
        cond, uncond = COND(x, sigma), UNCOND(x, sigma)
        self._direction = (x - uncond) / sigma
        guided: Tensor = uncond + (cond - uncond) * self.scale
        return guided

    def direction(self) -> Tensor:
        return self._direction

    def on_step(self, step: int, x: Tensor, sigma: float, denoised: Tensor) -> None:
        assert self.calls[-1][0] == pytest.approx(sigma)
        self.steps.append(step)

    def initial(self) -> Tensor:
        raise AssertionError("samplers get their start noise as x")

    def draw(self, sigma: float, sigma_next: float) -> Tensor:
        self.draws.append((sigma, sigma_next))
        return self.noises[len(self.draws) - 1]


class Draws:
    def __init__(self, recorder: Recorder):
        self.initial = recorder.initial
        self._draw = recorder.draw

    def __call__(self, sigma: float, sigma_next: float) -> Tensor:
        return self._draw(sigma, sigma_next)


@pytest.fixture(scope="module")
def host() -> Host:
    host = Host()
    register(host)
    return host


def schedule(case: Case, spec: SamplerSpec) -> list[float]:
    if "sigmas" in case:
        return list(case["sigmas"])
    if "timesteps" not in case:
        return [*np.linspace(case["sigma_max"], case["sigma_min"], case["steps"]), 0.0]
    assert spec.own_schedule is not None
    skip = case["params"].get("uni_pc_skip_type", "time_uniform")
    return spec.own_schedule(case["timesteps"], table(), skip_type=skip, whole="t_enc" not in case)


@pytest.mark.golden("samplers.json", "cases")
def test_sampler(case: Case, host: Host, golden_dir: Path) -> None:
    data = arrays(golden_dir / "samplers.npz")
    spec = host.samplers.get(case["sampler"])
    sigmas, n = schedule(case, spec), case.get("batch", 2)
    recorder = Recorder(case, data["noise"], n)
    scale = math.sqrt(1 + sigmas[0] ** 2) if spec.unit_start else 1.0
    given = {RENAMED.get(name, name): v for name, v in case["params"].items() if name not in SCHEDULE_OPTIONS}
    limits = {name: case[name] for name in ("sigma_min", "sigma_max", "steps") if name in case}
    options = spec.arguments(table=table(), direction=recorder.direction, **(limits | given))
    assert not given.keys() - options.keys(), "every parameter of the case is used"

    final = spec.sample(
        recorder,
        data[f"{case['id']}_start"] * scale,
        sigmas,
        noise=Draws(recorder),
        on_step=recorder.on_step,
        **options,
    )

    close(final, data[f"{case['id']}_final"])
    assert len(recorder.calls) == case["evaluations"]
    levels = data[f"{case['id']}_call_level"].tolist()
    ask: Callable[[float], float] = table().t_to_sigma if spec.unit_start else float
    for (sigma, x), level, theirs in zip(recorder.calls, levels, data[f"{case['id']}_call_x"], strict=True):
        assert sigma == pytest.approx(ask(level), rel=1e-9)
        close(x / math.sqrt(1 + sigma**2) if spec.unit_start else x, theirs)
    assert len(set(recorder.steps)) == len(recorder.steps), "one report a step"
    if recorder.draws and None not in case["noise_calls"]:
        np.testing.assert_allclose(recorder.draws, case["noise_calls"], rtol=1e-9)


def close(ours: Tensor, theirs: Tensor) -> None:
    scale = float(theirs.abs().max())
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-9, atol=1e-9 * scale)

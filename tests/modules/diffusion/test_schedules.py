"""Schedules and their ends."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from modules.builtin import SCHEDULERS, register
from modules.diffusion.parameterization import NoiseTable
from modules.diffusion.schedules import ScheduleOptions, beta_cdf, beta_quantile, image_start, sigmas_for
from modules.diffusion.types import SchedulerSpec
from modules.errors import UserError
from modules.extension.host import Host

TABLE = NoiseTable.named("scaled_linear")


@pytest.fixture(scope="module")
def host() -> Host:
    host = Host()
    register(host)
    return host


@pytest.mark.parametrize("scheduler", [s for s in SCHEDULERS if s.schedule], ids=lambda s: s.label)
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 150])
def test_sigmas_fall_and_are_float32(host: Host, scheduler: SchedulerSpec, steps: int) -> None:
    sigmas = sigmas_for(host.samplers.get("Euler"), scheduler, steps, TABLE)
    assert all(a > b >= 0 for a, b in pairwise(sigmas))
    assert [float(np.float32(s)) for s in sigmas] == sigmas
    assert sigmas[-1] == (pytest.approx(TABLE.sigma_min) if scheduler.label == "KL Optimal" else 0)
    # The DDIM scheduler may give more than asked, as the reference's does.
    assert len(sigmas) == steps + 1 or (scheduler.label == "DDIM" and len(sigmas) > steps)


@pytest.mark.parametrize("x", [0.001, 0.2, 0.5, 0.77, 0.9999])
def test_beta_distribution_in_closed_form(x: float) -> None:
    assert beta_cdf(x, 1, 1) == pytest.approx(x, rel=1e-12)
    assert beta_cdf(x, 3, 1) == pytest.approx(x**3, rel=1e-12)
    assert beta_cdf(x, 1, 2.5) == pytest.approx(1 - (1 - x) ** 2.5, rel=1e-12)
    assert beta_cdf(x, 0.5, 0.5) == pytest.approx(2 / math.pi * math.asin(math.sqrt(x)), rel=1e-12)


@pytest.mark.parametrize("p", [0.0, 1e-5, 0.3, 0.5, 0.9, 1.0])
def test_quantile_is_the_inverse_of_the_distribution(p: float) -> None:
    assert beta_cdf(beta_quantile(p, 0.6, 0.6), 0.6, 0.6) == pytest.approx(p, rel=1e-9)


def test_limits_replace_the_model_s(host: Host) -> None:
    options = ScheduleOptions(sigma_min=0.1, sigma_max=5.0)
    sigmas = sigmas_for(host.samplers.get("Euler"), host.schedulers.get("karras"), 6, TABLE, options)
    assert [sigmas[0], sigmas[-2]] == pytest.approx([5.0, 0.1])


@pytest.mark.parametrize("name", ["Euler", "DPM2", "DDIM", "UniPC", "LCM"])
def test_more_strength_starts_higher(host: Host, name: str) -> None:
    sampler, karras = host.samplers.get(name), host.schedulers.get("karras")
    starts = [image_start(sampler, karras, 20, strength, TABLE) for strength in (0.1, 0.4, 0.7, 1.0)]
    assert all(a.noised_to < b.noised_to and len(a.sigmas) < len(b.sigmas) for a, b in pairwise(starts))


def test_fixed_steps_do_as_many_as_asked(host: Host) -> None:
    sampler, karras = host.samplers.get("Euler"), host.schedulers.get("karras")
    for strength in (0.2, 0.5, 1.0):
        assert len(image_start(sampler, karras, 12, strength, TABLE, fix_steps=True).sigmas) == 13
    assert image_start(sampler, karras, 12, 0.0, TABLE, fix_steps=True).sigmas == [0.0]


@pytest.mark.parametrize("name", ["DDIM", "DDIM CFG++", "PLMS", "UniPC"])
@pytest.mark.parametrize(("steps", "strength"), [(10, 0.6), (20, 0.3), (20, 0.5)])
def test_ddim_over_an_image_makes_the_steps_it_announces_where_asked(name: str, steps: int, strength: float) -> None:
    host = Host()
    register(host)
    sampler, karras = host.samplers.get(name), host.schedulers.get("karras")
    start = image_start(sampler, karras, steps, strength, TABLE, short_ddim=False)
    assert len(start.sigmas) - 1 == start.t_enc + 1
    assert start.noised_to == start.sigmas[0]
    short = image_start(sampler, karras, steps, strength, TABLE)
    assert len(short.sigmas) < len(start.sigmas)


def test_a_schedule_that_would_rise_is_refused_in_a_sentence() -> None:
    host = Host()
    register(host)
    with pytest.raises(UserError, match=r"from sigma 14\.61 up to 20"):
        sigmas_for(host.samplers.get("Euler"), host.schedulers.get("karras"), 5, TABLE, ScheduleOptions(sigma_min=20.0))

"""Noise tables, schedules and the ends of schedules against the reference's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modules.builtin import register
from modules.diffusion.parameterization import NoiseTable
from modules.diffusion.schedules import ScheduleOptions, ddim_timesteps, image_start, sigmas_for
from modules.diffusion.types import SamplerSpec, SchedulerSpec
from modules.extension.host import Host

Case = dict[str, Any]
NAMES = {
    "sigma_min": "sigma_min",
    "sigma_max": "sigma_max",
    "rho": "rho",
    "beta_dist_alpha": "alpha",
    "beta_dist_beta": "beta",
    "use_old_karras_scheduler_sigmas": "old_sigmas",
    "always_discard_next_to_last_sigma": "discard_next_to_last",
}


@pytest.fixture(scope="module")
def host() -> Host:
    host = Host()
    register(host)
    return host


@pytest.fixture(scope="module")
def table() -> NoiseTable:
    return NoiseTable.named("scaled_linear")


def resolved(host: Host, sampler: str, scheduler: str) -> tuple[SamplerSpec, SchedulerSpec]:
    spec = host.samplers.get(sampler)
    if scheduler == "Automatic":
        scheduler = spec.default_scheduler or "uniform"
    return spec, host.schedulers.get(scheduler)


def close(ours: list[float], theirs: list[float]) -> None:
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=0)


@pytest.mark.golden("sigmas.json", "schedulers")
def test_scheduler(case: Case, host: Host, table: NoiseTable, request: pytest.FixtureRequest) -> None:
    label = request.node.callspec.id
    name, options = label.removesuffix(" (SDXL)"), ScheduleOptions(sdxl=label.endswith(" (SDXL)"))
    for steps, sigmas in case.items():
        close(sigmas_for(host.samplers.get("Euler"), host.schedulers.get(name), int(steps), table, options), sigmas)


@pytest.mark.golden("sigmas.json", "samplers")
def test_default_scheduler(case: Case, host: Host, table: NoiseTable, request: pytest.FixtureRequest) -> None:
    sampler, scheduler = resolved(host, request.node.callspec.id, "Automatic")
    for steps, expected in case.items():
        close(sigmas_for(sampler, scheduler, int(steps), table), expected["sigmas"])


@pytest.mark.golden("sigmas.json", "options")
def test_options(case: Case, host: Host, table: NoiseTable) -> None:
    given = dict(case["options"])
    if given.pop("sd_noise_schedule", "") == "Zero Terminal SNR":
        table = table.zero_terminal_snr()
    if given.pop("use_downcasted_alpha_bar", False):
        table = table.half()
    options = ScheduleOptions(**{NAMES[name]: value for name, value in given.items()})
    sampler, scheduler = resolved(host, case["sampler"], case["scheduler"])
    close(sigmas_for(sampler, scheduler, case["steps"], table, options), case["sigmas"])


@pytest.mark.golden("sigmas.json", "img2img")
def test_start_over_an_image(case: Case, host: Host, table: NoiseTable) -> None:
    sampler, scheduler = resolved(host, case["sampler"], case["scheduler"])
    fix = case["img2img_fix_steps"] or case["explicit_steps"] is not None
    steps = case["explicit_steps"] or case["steps"]
    start = image_start(sampler, scheduler, steps, case["denoising_strength"], table, fix_steps=fix)
    assert (start.schedule_steps, start.t_enc) == (case["schedule_steps"], case["t_enc"])
    if "sigma_sched" in case:
        close(start.sigmas, case["sigma_sched"])
        assert start.noised_to == start.sigmas[0]
        return
    close([start.noised_to], [float(table.sigmas[case["noise_timestep"]])])
    if case["sampler"] == "UniPC":
        assert len(start.sigmas) == len(case["timesteps_used"]) + 1
        close([start.sigmas[0]], [float(table.sigmas[case["timesteps_used"][-1]])])
    else:
        close(start.sigmas, [float(table.sigmas[t]) for t in reversed(case["timesteps_used"])])


@pytest.mark.golden("sigmas.json", "timesteps")
def test_timesteps(case: list[int], table: NoiseTable, request: pytest.FixtureRequest) -> None:
    assert ddim_timesteps(int(request.node.callspec.id), table) == case


@pytest.mark.golden("sigmas.json", "base")
def test_table(case: Any, table: NoiseTable, request: pytest.FixtureRequest) -> None:
    match request.node.callspec.id:
        case "alphas_cumprod_f32":
            close([float(table.alphas_cumprod[int(i)]) for i in case], list(case.values()))
        case "sigmas_f32":
            close([float(table.sigmas[int(i)]) for i in case], list(case.values()))
        case "sigma_min":
            close([table.sigma_min], [case])
        case "sigma_max":
            close([table.sigma_max], [case])
        case "zero_terminal_snr_alphas_cumprod_f32":
            alphas = table.zero_terminal_snr().alphas_cumprod
            close([float(alphas[int(i)]) for i in case], list(case.values()))
        case "half_alphas_cumprod":
            half = table.half()
            assert [float(half.alphas_cumprod[int(i)].astype(half.dtype)) for i in case] == list(case.values())
        case "t_to_sigma":
            close([table.t_to_sigma(t) for t, _ in case], [sigma for _, sigma in case])
        case "sigma_to_t":
            np.testing.assert_allclose([table.sigma_to_t(s) for s, _, _ in case], [t for _, t, _ in case], atol=2e-3)
            assert [table.quantize().sigma_to_t(s) for s, _, _ in case] == [t for _, _, t in case]
        case other:
            raise AssertionError(f"nothing checks {other}")

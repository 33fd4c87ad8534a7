"""Registers what we ship, through the same `Host` that extensions use."""

from __future__ import annotations

from modules.diffusion import samplers, schedules
from modules.diffusion.types import SamplerSpec, SchedulerSpec
from modules.extension import Host

SAMPLERS = (
    SamplerSpec("DPM++ 2M", samplers.dpmpp_2m, ("k_dpmpp_2m",), default_scheduler="karras"),
    SamplerSpec("Euler a", samplers.euler_ancestral, ("k_euler_a", "k_euler_ancestral"), eta=1.0, marks_ensd=True),
    SamplerSpec("Euler", samplers.euler, ("k_euler",)),
    SamplerSpec("Heun", samplers.heun, ("k_heun",), second_order=True),
    SamplerSpec("DDIM", samplers.ddim, ("ddim",), own_schedule=samplers.ddim_sigmas, eta=0.0, unit_start=True),
)

SCHEDULERS = (
    SchedulerSpec("automatic", "Automatic", None),
    SchedulerSpec("uniform", "Uniform", schedules.uniform),
    SchedulerSpec("karras", "Karras", schedules.karras),
    SchedulerSpec("exponential", "Exponential", schedules.exponential),
)


def register(host: Host) -> None:
    """Add the built-in samplers and schedulers to ``host``."""
    for sampler in SAMPLERS:
        host.add_sampler(sampler)
    for scheduler in SCHEDULERS:
        host.add_scheduler(scheduler)

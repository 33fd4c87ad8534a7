"""Registers the built-in samplers, schedulers and upscalers, through the same `Host` that extensions use."""

from __future__ import annotations

from modules.checkpoints.networks.shelf import NetworkShelf
from modules.diffusion import samplers, schedules
from modules.diffusion.types import SamplerSpec, SchedulerSpec
from modules.extension.host import Host
from modules.pipeline import networks
from modules.restoration import upscale

CHURN = {name: name for name in ("s_churn", "s_tmin", "s_tmax", "s_noise")}
S_NOISE = {"s_noise": "s_noise"}
UNIPC = {f"uni_pc_{name}": name for name in ("order", "variant", "lower_order_final")}

# A1111's list in A1111's order; the first is its default.
SAMPLERS = (
    SamplerSpec("DPM++ 2M", samplers.dpmpp_2m, ("k_dpmpp_2m",), default_scheduler="karras"),
    SamplerSpec(
        "DPM++ SDE",
        samplers.dpmpp_sde,
        ("k_dpmpp_sde",),
        default_scheduler="karras",
        second_order=True,
        brownian=True,
        eta=1.0,
        takes=S_NOISE,
    ),
    SamplerSpec(
        "DPM++ 2M SDE",
        samplers.dpmpp_2m_sde,
        ("k_dpmpp_2m_sde",),
        default_scheduler="exponential",
        brownian=True,
        eta=1.0,
        takes=S_NOISE,
    ),
    SamplerSpec(
        "DPM++ 2M SDE Heun",
        samplers.dpmpp_2m_sde,
        ("k_dpmpp_2m_sde_heun",),
        default_scheduler="exponential",
        brownian=True,
        eta=1.0,
        options={"solver_type": "heun"},
        takes=S_NOISE,
    ),
    SamplerSpec(
        "DPM++ 2S a",
        samplers.dpmpp_2s_ancestral,
        ("k_dpmpp_2s_a",),
        default_scheduler="karras",
        second_order=True,
        eta=1.0,
        marks_ensd=True,
        takes=S_NOISE,
    ),
    SamplerSpec(
        "DPM++ 3M SDE",
        samplers.dpmpp_3m_sde,
        ("k_dpmpp_3m_sde",),
        default_scheduler="exponential",
        discard_next_to_last=True,
        brownian=True,
        eta=1.0,
        takes=S_NOISE,
    ),
    SamplerSpec("Euler a", samplers.euler_ancestral, ("k_euler_a", "k_euler_ancestral"), eta=1.0, marks_ensd=True),
    SamplerSpec("Euler", samplers.euler, ("k_euler",), takes=CHURN),
    SamplerSpec("LMS", samplers.lms, ("k_lms",)),
    SamplerSpec("Heun", samplers.heun, ("k_heun",), second_order=True, takes=CHURN),
    SamplerSpec(
        "DPM2",
        samplers.dpm_2,
        ("k_dpm_2",),
        default_scheduler="karras",
        second_order=True,
        discard_next_to_last=True,
        takes=CHURN,
    ),
    SamplerSpec(
        "DPM2 a",
        samplers.dpm_2_ancestral,
        ("k_dpm_2_a",),
        default_scheduler="karras",
        second_order=True,
        discard_next_to_last=True,
        eta=1.0,
        marks_ensd=True,
        takes=S_NOISE,
    ),
    SamplerSpec("DPM fast", samplers.dpm_fast, ("k_dpm_fast",), eta=1.0, marks_ensd=True, takes=S_NOISE),
    SamplerSpec("DPM adaptive", samplers.dpm_adaptive, ("k_dpm_ad",), eta=1.0, marks_ensd=True, couples_batch=True),
    SamplerSpec("Restart", samplers.restart, ("restart",), default_scheduler="karras", second_order=True),
    SamplerSpec("DDIM", samplers.ddim, ("ddim",), own_schedule=schedules.own_ddim, eta=0.0, unit_start=True),
    SamplerSpec(
        "DDIM CFG++",
        samplers.ddim_cfgpp,
        ("ddim_cfgpp",),
        own_schedule=schedules.own_ddim,
        eta=0.0,
        unit_start=True,
        cfg_factor=1 / 12.5,
    ),
    SamplerSpec("PLMS", samplers.plms, ("plms",), own_schedule=schedules.own_ddim, unit_start=True),
    SamplerSpec("UniPC", samplers.unipc, ("unipc",), own_schedule=samplers.own_unipc, unit_start=True, takes=UNIPC),
    SamplerSpec("LCM", samplers.lcm, ("k_lcm",), levels=samplers.lcm_levels, wrap=samplers.lcm_boundary),
    # Ours.
    SamplerSpec("DDPM", samplers.ddpm),
    SamplerSpec("HeunPP2", samplers.heunpp2, second_order=True),
    SamplerSpec("IPNDM", samplers.ipndm),
    SamplerSpec("DEIS", samplers.deis),
    SamplerSpec("Predictor-Corrector", samplers.predictor_corrector, ("pc",), second_order=True),
)

SCHEDULERS = (
    SchedulerSpec("automatic", "Automatic", None),
    SchedulerSpec("uniform", "Uniform", schedules.uniform),
    SchedulerSpec("karras", "Karras", schedules.karras),
    SchedulerSpec("exponential", "Exponential", schedules.exponential),
    SchedulerSpec("polyexponential", "Polyexponential", schedules.polyexponential),
    SchedulerSpec("sgm_uniform", "SGM Uniform", schedules.sgm_uniform, ("SGMUniform",)),
    SchedulerSpec("kl_optimal", "KL Optimal", schedules.kl_optimal),
    SchedulerSpec("align_your_steps", "Align Your Steps", schedules.align_your_steps),
    SchedulerSpec("simple", "Simple", schedules.simple),
    SchedulerSpec("normal", "Normal", schedules.normal),
    SchedulerSpec("ddim", "DDIM", schedules.ddim_uniform),
    SchedulerSpec("beta", "Beta", schedules.beta),
)


def register(host: Host, shelf: NetworkShelf | None = None) -> None:
    """Add the built-in samplers, schedulers and upscalers to ``host``, and the tags for networks of a ``shelf``."""
    host.shelf = shelf or host.shelf
    host.add_modifier(networks.spec(host.shelf))
    for tag in networks.TAGS:
        host.add_tag(tag)
    for sampler in SAMPLERS:
        host.add_sampler(sampler)
    for scheduler in SCHEDULERS:
        host.add_scheduler(scheduler)
    for upscaler in upscale.BUILTIN:
        host.add_upscaler(upscaler)

"""Sampler names of old A1111 versions, which include the schedule: "DPM++ 2M Karras", `k_dpmpp_2m_ka`."""

from __future__ import annotations

from modules.diffusion.types import SamplerSpec, SchedulerSpec
from modules.registry import Registry

Samplers = Registry[SamplerSpec]
Schedulers = Registry[SchedulerSpec]

ENDINGS = {"_ka": "karras", "_exp": "exponential"}
"""Schedule suffixes of A1111's short names before 1.9."""


def split_sampler(name: str, schedulers: Schedulers) -> tuple[str, str | None]:
    """Split a sampler name from before A1111 1.9: "DPM++ 2M Karras" -> ("DPM++ 2M", "Karras")."""
    found = None
    for label, spec in schedulers.items():
        for ending in (label, spec.name, *spec.aliases):
            if name.endswith(f" {ending}"):
                name, found = name.removesuffix(f" {ending}"), label
                break
    return name, found


def resolve(name: str, scheduler: str, samplers: Samplers, schedulers: Schedulers) -> tuple[str, str, tuple[str, ...]]:
    """Today's names of a sampler and a schedule, and a note if they differ from the ones asked for.

    A schedule in the sampler's name wins over ``scheduler``, as in A1111. Raises `UnknownName`.
    """
    if name in samplers:
        sampler, label = samplers.canonical(name), schedulers.canonical(scheduler)
        return sampler, label, () if sampler.casefold() == name.casefold() else (f"sampler {name} is {sampler}",)
    bare, split = split_sampler(name, schedulers)
    for ending, key in ENDINGS.items():
        if split is None and name.endswith(ending) and key in schedulers:
            bare, split = name.removesuffix(ending), schedulers.canonical(key)
    if split is None or bare not in samplers:
        raise samplers.unknown(name)
    sampler = samplers.canonical(bare)
    return sampler, split, (f"sampler {name} is {sampler} with schedule type {split}",)

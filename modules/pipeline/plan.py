"""Decide first: a request becomes batches whose every choice is made, before a weight is touched.

Errors of the person are raised here, in milliseconds, each with the field at fault.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from modules.diffusion.names import resolve
from modules.diffusion.types import SamplerSpec, SchedulerSpec
from modules.errors import UserError
from modules.extension import Host
from modules.options import options_of
from modules.params import MAX_PROMPT, GenerationParams
from modules.profile import Profile, profile_named

MAX_RANDOM_SEED = 4294967293
"""A1111 draws random seeds from 0 to this."""


@dataclass(frozen=True)
class Batch:
    """One batch, decided: what `generate` needs beside the model. Image i has ``seeds[i]`` and ``subseeds[i]``."""

    params: GenerationParams
    profile: Profile
    sampler: SamplerSpec
    scheduler: SchedulerSpec
    first_image: int
    """Number of the batch's first image within the request."""
    seeds: tuple[int, ...]
    subseeds: tuple[int, ...]

    @property
    def schedule_steps(self) -> int:
        """The steps that the prompt's schedule counts."""
        doubled = self.sampler.second_order and self.profile.double_steps
        return self.params.steps * (2 if doubled else 1)


@dataclass(frozen=True)
class Plan:
    """All batches of a request, the request as it will be done, and what was changed in it, in sentences."""

    params: GenerationParams
    batches: tuple[Batch, ...]
    notes: tuple[str, ...]

    @property
    def images(self) -> int:
        return sum(len(batch.seeds) for batch in self.batches)


def fix_seeds(params: GenerationParams) -> GenerationParams:
    """Replace -1 by random seeds. Done once, when a job is submitted, so that any worker makes the same image.

    A variation seed that has no strength is 0: the same request then gives the same file, recipe and all.
    """
    seed = _random_seed() if params.seed == -1 else params.seed
    subseed = (_random_seed() if params.subseed_strength else 0) if params.subseed == -1 else params.subseed
    return params.changed(seed=seed, subseed=subseed)


def _random_seed() -> int:
    return secrets.randbelow(MAX_RANDOM_SEED + 1)


def check(params: GenerationParams, host: Host) -> tuple[GenerationParams, tuple[str, ...]]:
    """``params`` with every value in range and every name canonical, and notes on what was changed."""
    values = {name: option.cast(getattr(params, name)) for name, option in options_of(GenerationParams).items()}
    for name, label in (("prompt", "Prompt"), ("negative_prompt", "Negative prompt")):
        if len(values[name]) > MAX_PROMPT:
            raise UserError(
                f"{label} has {len(values[name]):,} characters and the limit is {MAX_PROMPT:,}",
                hint="shorten it",
                field=name,
            )
    values["sampler"], values["scheduler"], said = resolve(
        values["sampler"], values["scheduler"], host.samplers, host.schedulers
    )
    notes = list(said)
    for side in ("width", "height"):
        rounded = max(values[side] // 8 * 8, 64)
        if rounded != values[side]:
            notes.append(f"{side} {values[side]} was rounded to {rounded}, a multiple of 8")
            values[side] = rounded
    return GenerationParams(**values), tuple(notes)


def make_plan(params: GenerationParams, host: Host) -> Plan:
    """Check and resolve ``params``. Seeds of -1 are drawn here if nobody fixed them before."""
    params, notes = check(params, host)
    params = fix_seeds(params)
    sampler = host.samplers.get(params.sampler)
    scheduler = _scheduler(params, sampler, host)
    # With a variation the main seed stays and only the variation seed counts on (spec 3.1).
    varied = params.subseed_strength != 0
    total = params.batch_size * params.batch_count
    # A sampler whose step size looks at the whole batch is exact only with one image at a time.
    size = 1 if sampler.couples_batch and params.kernels == "exact" else params.batch_size
    seeds = [params.seed if varied else params.seed + i for i in range(total)]
    subseeds = [params.subseed + i for i in range(total)]
    batches = tuple(
        Batch(
            params=params,
            profile=profile_named(params.profile),
            sampler=sampler,
            scheduler=scheduler,
            first_image=start,
            seeds=tuple(seeds[start : start + size]),
            subseeds=tuple(subseeds[start : start + size]),
        )
        for start in range(0, total, size)
    )
    return Plan(params, batches, notes)


def _scheduler(params: GenerationParams, sampler: SamplerSpec, host: Host) -> SchedulerSpec:
    scheduler = host.schedulers.get(params.scheduler)
    if scheduler.schedule is None and not sampler.own_schedule:
        return host.schedulers.get(sampler.default_scheduler or "uniform")
    return scheduler

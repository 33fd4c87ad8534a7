"""Planning: turns a request into fully decided batches before any weight is loaded.

Errors of the person are raised here, in milliseconds, each with the field at fault.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, NamedTuple

from modules.checkpoints.families.base import LatentFormat
from modules.diffusion.names import resolve
from modules.diffusion.types import SamplerSpec, SchedulerSpec
from modules.errors import UserError
from modules.extension.contexts import SamplingPass
from modules.extension.host import Host
from modules.params.generation import MAX_PROMPT, GenerationParams, Init, ModifierOptions, wrapped
from modules.params.options import checked, nested_of, options_of
from modules.params.profile import Profile, profile_named
from modules.pipeline.hires import LATENT_MODES, HiresSize, hires_size
from modules.pipeline.prompts import PromptParser, Prompts
from modules.prompt.clock import Clock
from modules.prompt.schedule import Pass
from modules.registry import Registry

MAX_HIRES = 4096
"""Pixel limit of the sides of a second pass."""
MAX_RANDOM_SEED = 4294967293
"""A1111 draws random seeds from 0 to this."""
Changes = Mapping[str, Mapping[str, Any]]
"""What extensions changed in a request: by extension, new values by parameter name."""
Revise = Callable[[GenerationParams], tuple[GenerationParams, Changes]]
"""Revises the request of one image, which has its own seeds, and tells what each extension changed."""


@dataclass(frozen=True)
class Batch:
    """A fully decided batch: all that sampling needs besides the model. Image i has ``seeds[i]`` and
    ``subseeds[i]``.
    """

    params: GenerationParams
    profile: Profile
    sampler: SamplerSpec
    scheduler: SchedulerSpec
    first_image: int
    """Number of the batch's first image within the request."""
    seeds: tuple[int, ...]
    subseeds: tuple[int, ...]
    prompts: Prompts
    """The parsed prompts of this pass, as extensions revised them."""
    hires: HiresPass | None = None
    changed: Changes = field(default_factory=dict)
    """What extensions changed in ``params``."""
    first_pass_steps: int | None = None
    """In the second pass of hires fix: the schedule steps of the first pass. Else None."""
    told_size: tuple[int, int] | None = None
    """The size for SDXL's conditioning if it differs from ``params``: that of a second pass before cropping."""

    @property
    def schedule_steps(self) -> int:
        """The number of steps for the prompt's schedule."""
        doubled = self.sampler.second_order and self.profile.double_steps
        return self.params.steps * (2 if doubled else 1)

    @property
    def prompt_steps(self) -> Pass:
        """How the prompts' schedules count the steps of this pass."""
        second, old = self.first_pass_steps is not None, self.params.use_old_scheduling
        return Pass(self.schedule_steps, self.first_pass_steps or self.schedule_steps, second=second, old=old)

    @property
    def hires_batch(self) -> Batch | None:
        """The second pass as a batch of its own; None without hires fix."""
        if (second := self.hires) is None:
            return None
        return replace(
            self,
            params=second.params,
            sampler=second.sampler,
            scheduler=second.scheduler,
            prompts=second.prompts,
            hires=None,
            first_pass_steps=self.schedule_steps,
            told_size=second.size.upscaled,
        )

    @property
    def passes(self) -> tuple[Batch, ...]:
        """The batch itself and, with hires fix, its second pass."""
        return (self, second) if (second := self.hires_batch) else (self,)

    @property
    def sampling_pass(self) -> SamplingPass:
        """This pass as modifiers are told of it."""
        clock = Clock(self.prompt_steps, self.announced_steps, self.profile)
        return SamplingPass(int(self.first_pass_steps is not None), self.params.prompt, clock)

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height in pixels that a size-conditioned model (SDXL) is told."""
        return self.told_size or (self.params.width, self.params.height)

    @property
    def announced_steps(self) -> int:
        """The number of steps that the sampler will take, as shown in the progress."""
        init, steps = self.params.init, self.params.steps
        if init is None or init.exact_steps:
            return steps
        return min(int(min(init.denoising_strength, 0.999) * steps), steps - 1) + 1


@dataclass(frozen=True)
class HiresPass:
    """The second pass of hires fix, fully decided: the first pass's request with its changes."""

    params: GenerationParams
    sampler: SamplerSpec
    scheduler: SchedulerSpec
    prompts: Prompts
    size: HiresSize


@dataclass(frozen=True)
class Plan:
    """All batches of a request, the request in canonical form, and notes on what was changed in it."""

    params: GenerationParams
    batches: tuple[Batch, ...]
    notes: tuple[str, ...]

    @property
    def images(self) -> int:
        return sum(len(batch.seeds) for batch in self.batches)


def fix_seeds(params: GenerationParams) -> GenerationParams:
    """Replace seeds of -1 by random ones. Done once, at submission, so that any worker makes the same image.

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
    inner = {name: found and checked(found) for name in nested_of(GenerationParams) if (found := getattr(params, name))}
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
    if values["restore_faces"]:
        values["face_restorer"] = host.face_restorer(values["face_restorer"]).name
    notes = list(said)
    for side in ("width", "height"):
        rounded = max(values[side] // 8 * 8, 64)
        if rounded != values[side]:
            notes.append(f"{side} {values[side]} was rounded to {rounded}, a multiple of 8")
            values[side] = rounded
    params = GenerationParams(**values, **inner, extensions=check_extensions(params.extensions, host))
    return _check_passes(params, host), tuple(notes)


def check_extensions(chosen: ModifierOptions, host: Host) -> ModifierOptions:
    """``chosen`` with canonical names and all options of each, in range."""
    specs = {name: host.modifiers.get(name) for name in chosen}
    return ModifierOptions({spec.name: spec.chosen(chosen[name]) for name, spec in specs.items()})


def _check_passes(params: GenerationParams, host: Host) -> GenerationParams:
    """Check init image, second pass and refiner as far as possible without reading a file."""
    init, hires, refiner = params.init, params.hires, params.refiner
    if init and hires:
        raise UserError("hires fix is for pictures from text", hint="give a larger size instead", field="hires")
    if init and not init.images:
        raise UserError("there is no start picture", hint="choose one", field="init.image")
    if init and init.mask and not init.mask.image:
        raise UserError("there is no mask", hint="paint or choose one", field="init.mask.image")
    if init:
        check_colour(init.background)
        params = _check_start(params, init, host)
    if refiner and not refiner.checkpoint:
        raise UserError("there is no refiner", hint="choose a checkpoint", field="refiner.checkpoint")
    if hires:
        upscaler = hires_upscalers(host).canonical(hires.upscaler)
        sampler = hires.sampler and host.samplers.canonical(hires.sampler)
        scheduler = hires.scheduler and host.schedulers.canonical(hires.scheduler)
        params = params.changed(hires=replace(hires, upscaler=upscaler, sampler=sampler, scheduler=scheduler))
        limit_size(params)
    return params


def _check_start(params: GenerationParams, init: Init, host: Host) -> GenerationParams:
    """Check the init images: several form a batch with one each; SD upscale takes one, without a mask."""
    several = len(init.images)
    if several > params.batch_size:
        raise UserError(
            f"there are {several} start pictures for a batch of {params.batch_size}",
            hint="make the batch larger, or give fewer",
            field="init.image",
        )
    if tiled := init.tiled:
        if several > 1 or init.mask:
            raise UserError(
                "SD upscale is for one whole picture", hint="leave out the mask and further pictures", field="init"
            )
        if tiled.overlap >= min(params.width, params.height):
            raise UserError(
                "tiles must be larger than their overlap", hint="lower the overlap", field="init.tiled.overlap"
            )
        tiled = replace(tiled, upscaler=host.upscalers.canonical(tiled.upscaler))
        return params.changed(init=replace(init, tiled=tiled))
    return params.changed(batch_size=several) if several > 1 else params


def hires_upscalers(host: Host) -> Registry[str]:
    """The upscalers usable between the two passes: latent ones first, then all others."""
    found: Registry[str] = Registry("upscaler", field="hires.upscaler")
    for name in (*LATENT_MODES, *host.upscalers.names()):
        found.add(name, name)
    return found


def limit_size(params: GenerationParams) -> None:
    """Check the size of the second pass, which has a limit of its own."""
    assert params.hires is not None
    width, height = hires_size(params.width, params.height, params.hires).upscaled
    if max(width, height) > MAX_HIRES:
        raise UserError(
            f"the second pass would be {width} x {height} pixels and the limit is {MAX_HIRES} a side",
            hint="lower the scale",
            field="hires.scale",
        )


def check_colour(text: str) -> None:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise UserError(f"Background must look like #rrggbb, not {text[:20]!r}", field="init.background")


def check_sides(batch: Batch, name: str, latent: LatentFormat) -> None:
    """Check that the sizes of a batch are whole latent pixels of the model ``name``; multiples of 8 they are before."""
    for params in (one.params for one in batch.passes):
        for side in ("width", "height"):
            pixels = getattr(params, side)
            if pixels % latent.factor:
                lower = pixels // latent.factor * latent.factor
                raise UserError(
                    f"{name} makes pictures with sides that are multiples of {latent.factor}, and {pixels} is none",
                    hint=f"ask for {lower or latent.factor} or {lower + latent.factor}",
                    field=side,
                )


def make_plan(
    params: GenerationParams, host: Host, revise: Revise | None = None, parser: PromptParser | None = None
) -> Plan:
    """Check and resolve ``params`` into batches. Seeds of -1 are drawn here if they were not fixed before.

    Images for which ``revise`` gives different requests are not computed together. ``parser`` keeps the prompts that
    it has parsed already.
    """
    params, notes = check(params, host)
    params = fix_seeds(params)
    parser = parser or PromptParser()
    sampler = host.samplers.get(params.sampler)
    # With a variation the main seed stays and only the variation seed counts on, as in A1111.
    varied = params.subseed_strength != 0
    total = params.images
    # A sampler whose step size looks at the whole batch is exact only with one image at a time.
    size = 1 if sampler.couples_batch and params.kernels == "exact" else total // params.batch_count
    seeds = [params.seed if varied else params.seed_after(i) for i in range(total)]
    subseeds = [wrapped(params.subseed + i) for i in range(total)]
    images = [SeededImage(i, *both) for i, both in enumerate(zip(seeds, subseeds, strict=True))]
    batches = tuple(
        _batch(own, host, parser, group, changes)
        for start in range(0, total, size)
        for own, changes, group in _groups(params, host, images[start : start + size], revise)
    )
    return Plan(params, batches, notes)


class SeededImage(NamedTuple):
    """One image of a request: its index and its seeds."""

    number: int
    seed: int
    subseed: int


def _groups(
    params: GenerationParams, host: Host, images: Sequence[SeededImage], revise: Revise | None
) -> Iterator[tuple[GenerationParams, Changes, Sequence[SeededImage]]]:
    """Group neighbouring images with equal requests: all of them, or as many groups as extensions made requests."""
    if revise is None:
        yield params, {}, images
        return
    # Extensions see each image's own seed, so they may want different things of images that would go together. What
    # they agree on still does: only neighbours are joined, because a batch numbers its images without gaps.
    revised = [(*_revised(params, host, image, revise), image) for image in images]
    for (own, changes), group in groupby(revised, key=lambda one: one[:2]):
        yield own, changes, [image for *_, image in group]


def _revised(
    params: GenerationParams, host: Host, image: SeededImage, revise: Revise
) -> tuple[GenerationParams, Changes]:
    """An image's request as revised by extensions, which cannot change its seeds and batch."""
    alone = params.changed(seed=image.seed, subseed=image.subseed, batch_size=1, batch_count=1)
    own, changes = revise(alone)
    fixed = {name: getattr(params, name) for name in ("seed", "subseed", "batch_size", "batch_count", "extensions")}
    return check(own.changed(**fixed), host)[0], changes


def _batch(
    params: GenerationParams, host: Host, parser: PromptParser, images: Sequence[SeededImage], changed: Changes
) -> Batch:
    sampler = host.samplers.get(params.sampler)
    return Batch(
        params=params,
        profile=profile_named(params.profile),
        sampler=sampler,
        scheduler=_scheduler(params.scheduler, sampler, host),
        first_image=images[0].number,
        seeds=tuple(image.seed for image in images),
        subseeds=tuple(image.subseed for image in images),
        prompts=parser.prompts(params),
        hires=_hires_pass(params, host, parser),
        changed=changed,
    )


def _scheduler(name: str, sampler: SamplerSpec, host: Host) -> SchedulerSpec:
    scheduler = host.schedulers.get(name)
    if scheduler.schedule is None and not sampler.own_schedule:
        return host.schedulers.get(sampler.default_scheduler or "uniform")
    return scheduler


def _hires_pass(params: GenerationParams, host: Host, parser: PromptParser) -> HiresPass | None:
    hires = params.hires
    if hires is None:
        return None
    name = hires.sampler or params.sampler
    sampler = host.samplers.get(name)
    # A1111 leaves the schedule to the first pass's choice; "Automatic" is the second sampler's own.
    scheduler = _scheduler(hires.scheduler or params.scheduler, sampler, host)
    size = hires_size(params.width, params.height, hires)
    changed = params.changed(
        sampler=name,
        steps=hires.steps or params.steps,
        cfg_scale=hires.cfg_scale or params.cfg_scale,
        prompt=hires.prompt or params.prompt,
        negative_prompt=hires.negative_prompt or params.negative_prompt,
        checkpoint=hires.checkpoint or params.checkpoint,
        prediction="auto" if hires.checkpoint else params.prediction,
        width=size.final[0],
        height=size.final[1],
    )
    return HiresPass(changed, sampler, scheduler, parser.prompts(changed), size)

"""The types and protocols of sampling: Network, Guidance, Denoiser, Sampler, Noise.

Everything runs in sigma space: ``x = x0 + sigma * noise`` (Karras et al. 2022, arXiv:2206.00364). Latents are
float32 tensors (n, c, h, w); sigmas are Python floats from high to low, the last one usually 0. Three nested callables
carry the diffusion, each of which an add-on may wrap:

    Network   (x, sigma, cond)              -> x0   one evaluation of the model under one condition
    Guidance  (positive, negative, scale)   -> x0   how two answers become one
    Denoiser  (x, sigma, step)              -> x0   what a sampler calls
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from modules.diffusion.parameterization import NoiseTable


@dataclass(frozen=True)
class Cond:
    """A condition as the network takes it: ``context`` (n or 1, tokens, width) of a text and, for SDXL, ``vector`` (n
    or 1, width). ``image`` (n or 1, channels, h, w) stands beside the latents where the network sees a picture.
    """

    context: Tensor
    vector: Tensor | None = None
    image: Tensor | None = None


@dataclass(frozen=True)
class Part:
    """One AND part of a positive prompt at a network call."""

    weight: float
    cond: Cond


@dataclass(frozen=True)
class Row:
    """What a row of the network's input belongs to."""

    image: int
    """Number of the image in the batch, from 0."""
    kind: Literal["positive", "negative", "other"]
    """Which prompt conditions it; "other": a condition of an extension's own."""
    part: int = 0
    """Which AND part, of the positive prompt."""


@dataclass(frozen=True)
class Asked:
    """What a denoiser of guidance is asked at one call: the conditions that hold, and how to evaluate others."""

    x: Tensor
    """Latents (n, c, h, w)."""
    sigma: float
    step: int
    call: int
    cond: tuple[Part, ...]
    uncond: Cond | None
    """None where the negative prompt is not evaluated."""


class Network(Protocol):
    def __call__(self, x: Tensor, sigma: float, cond: Cond) -> Tensor: ...


@runtime_checkable
class SharingNetwork(Network, Protocol):
    """A network that computes only once what several conditions of the same latents have in common."""

    def for_each(self, x: Tensor, sigma: float, conds: Cond, copies: int) -> Tensor:
        """What the call gives for ``x`` repeated ``copies`` times; ``conds`` has that many rows."""
        ...


class Guidance(Protocol):
    def __call__(self, positive: Tensor, negative: Tensor, scale: float) -> Tensor: ...


class Denoiser(Protocol):
    """``(x, sigma, step) -> x0``. ``step`` is the sampler's own step index, from 0: looking it up from sigma fails
    under churn.
    """

    def __call__(self, x: Tensor, sigma: float, step: int) -> Tensor: ...


class Noise(Protocol):
    """The noise source of a batch. Each image draws from its own generator, so it is the same alone or in a batch."""

    def initial(self) -> Tensor:
        """The initial noise, of standard deviation 1."""
        ...

    def __call__(self, sigma: float, sigma_next: float) -> Tensor:
        """Noise of deviation 1 for the step between two sigmas (Brownian sources look at them, others do not)."""
        ...


OnStep = Callable[[int, "Tensor", float, "Tensor"], None]
"""``(step, x, sigma, denoised)`` after the network's first answer at that step. Raising ends the run: `Cancelled`, or
`StopSampling` where the image is to be made from what there is."""


class StopSampling(Exception):
    """Raised by an `OnStep` callback to end sampling after this step."""


Sampler = Callable[..., "Tensor"]
"""``(denoise, x, sigmas, *, noise, on_step, **options) -> x``: a `Denoiser`, start latents, sigmas from high to low, a
`Noise`, an `OnStep`, and the sampler's own options such as eta."""

Scheduler = Callable[..., "list[float]"]
"""``(n, sigma_min, sigma_max, *, table, **options) -> sigmas``: ``n`` sigmas from ``sigma_max`` down, then 0."""


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler and its requirements, which planning reads."""

    name: str
    sample: Sampler
    aliases: tuple[str, ...] = ()
    default_scheduler: str = ""
    """Used for "Automatic"; empty: Uniform."""
    own_schedule: Callable[..., list[float]] | None = None
    """Samplers that ignore the scheduler make their own sigmas: ``(timesteps, table, skip_type=, whole=)``, timesteps
    rising; not ``whole`` where a run over an image starts later."""
    levels: Callable[[NoiseTable], NoiseTable] | None = None
    """Restricts the noise levels, for samplers that use only some of the model's (LCM)."""
    wrap: Callable[[Denoiser, NoiseTable], Denoiser] | None = None
    """A wrapper around the denoiser (LCM's boundary condition)."""
    cfg_factor: float = 1.0
    """Multiplies the CFG scale (CFG++ guides by a twelfth or so)."""
    second_order: bool = False
    """Makes two network calls per step."""
    discard_next_to_last: bool = False
    brownian: bool = False
    eta: float | None = None
    """The default eta of a sampler that has one."""
    marks_ensd: bool = False
    """A1111 writes ENSD into the metadata for this sampler."""
    unit_start: bool = False
    """Starts from x / sqrt(1 + sigma^2) of deviation 1 (DDIM family) rather than from sigma * noise."""
    couples_batch: bool = False
    """Its step size depends on the whole batch, so an image alone differs from the same one in a batch."""
    options: Mapping[str, Any] = field(default_factory=dict)
    takes: Mapping[str, str] = field(default_factory=dict)
    """The request's parameters that it accepts, and its own names for them. A1111 passes ``s_noise`` only to some of
    the samplers that could use it."""

    def table_for(self, table: NoiseTable) -> NoiseTable:
        """The noise levels that the sampler uses of a model trained on ``table``."""
        return self.levels(table) if self.levels else table

    def arguments(self, **offered: Any) -> dict[str, Any]:
        """The keyword arguments for `sample`: those of ``offered`` that it accepts and that are not None, then its
        `options`.
        """
        known = inspect.signature(self.sample).parameters
        taken = {name: value for name, value in offered.items() if name in known and value is not None}
        return taken | dict(self.options)


@dataclass(frozen=True)
class SchedulerSpec:
    name: str
    """A1111's key, as in "karras"."""
    label: str
    """What people read, as in "Karras"."""
    schedule: Scheduler | None
    """None: "Automatic", the sampler's own choice."""
    aliases: tuple[str, ...] = ()

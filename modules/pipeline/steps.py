"""The step at hand: what hooks of extensions are told while a pass is sampled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from modules.diffusion.types import Asked, Cond, Denoiser, Row
from modules.extension.contexts import AttentionFunction, Step
from modules.pipeline.plan import Batch

if TYPE_CHECKING:
    from torch import Tensor

    from modules.diffusion.guidance import Kind

Attending = Callable[[str, Mapping[str, AttentionFunction]], AbstractContextManager[None]]
"""While it lasts, functions of the extension of that name stand around the attentions that they name."""


class GuidedDenoiser(Protocol):
    """The part of `Guided` and `Refined` that answers for a step."""

    def __call__(self, x: Tensor, sigma: float, step: int) -> Tensor: ...
    def asked(self, x: Tensor, sigma: float, step: int) -> Asked: ...
    def evaluate(self, x: Tensor, sigma: float, cond: Cond, row: tuple[Kind, int] = ...) -> Tensor: ...


@dataclass
class StepScope:
    """Follows the calls of one pass (`modules.diffusion.guidance.Observer`), and makes the `Step` of each."""

    batch: Batch
    attending: Attending
    timestep: Callable[[float], float]
    guided_always: bool = False
    needs_negative: bool = False
    guided: GuidedDenoiser | None = None
    """Set when it is made, after this."""
    _asked: Asked | None = None
    _rows: tuple[Row, ...] = ()

    def asked(self, asked: Asked) -> None:
        self._asked, self._rows = asked, ()

    def evaluating(self, rows: tuple[Row, ...]) -> None:
        self._rows = rows

    def step(self, name: str) -> Step:
        """The step at hand, as the extension of that name is told of it."""
        assert self._asked is not None, "no step is at hand"
        asked, batch = self._asked, self.batch
        return Step(
            x=asked.x,
            sigma=asked.sigma,
            step=asked.step,
            steps=batch.announced_steps,
            call=asked.call,
            pass_=batch.sampling_pass,
            cond=asked.cond,
            uncond=asked.uncond,
            seeds=batch.seeds,
            image_numbers=tuple(range(batch.first_image, batch.first_image + len(batch.seeds))),
            network=partial(self._evaluate, name),
            timestep=self.timestep,
            rows=self._rows,
        )

    def opened(self, denoise: Denoiser) -> Denoiser:
        """The outermost wrapper of a denoiser: hooks within it know what will be asked."""

        def call(x: Tensor, sigma: float, step: int) -> Tensor:
            assert self.guided is not None
            self.asked(self.guided.asked(x, sigma, step))
            return denoise(x, sigma, step)

        return call

    def _evaluate(
        self, name: str, x: Tensor, sigma: float, cond: Cond, *, attention: Mapping[str, AttentionFunction] = {}
    ) -> Tensor:
        assert self.guided is not None and self._asked is not None
        with self._nested(x, sigma), self.attending(name, attention):
            return self.guided.evaluate(x, sigma, cond, self._row_of(cond))

    @contextmanager
    def _nested(self, x: Tensor, sigma: float) -> Iterator[None]:
        """What is at hand comes back when an evaluation within it ends."""
        assert self._asked is not None
        before = self._asked, self._rows
        self._asked = replace(self._asked, x=x, sigma=sigma)
        try:
            yield
        finally:
            self._asked, self._rows = before

    def _row_of(self, cond: Cond) -> tuple[Kind, int]:
        assert self._asked is not None
        if cond is self._asked.uncond:
            return "negative", 0
        parts = [i for i, part in enumerate(self._asked.cond) if part.cond is cond]
        return ("positive", parts[0]) if parts else ("other", 0)

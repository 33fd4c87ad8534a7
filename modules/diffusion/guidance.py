"""From a network under two conditions to the denoiser that a sampler calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from modules.diffusion.types import Cond, Guidance, Network

if TYPE_CHECKING:
    from torch import Tensor


class Part(Protocol):
    """One AND part of a prompt: its weight, and its condition at the ``call``-th network call."""

    @property
    def weight(self) -> float: ...

    def at(self, call: int) -> Cond: ...


def cfg(positive: Tensor, negative: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: Ho & Salimans (2022), arXiv:2207.12598, eq. 6, in A1111's scale (1 = none)."""
    return negative + (positive - negative) * scale


def compose(parts: Sequence[Tensor], weights: Sequence[float], negative: Tensor) -> Tensor:
    """Composition with AND: Liu et al. (2022), arXiv:2206.01714, eq. 11. ``negative + sum w_i (part_i - negative)``."""
    total = negative
    for part, weight in zip(parts, weights, strict=True):
        total = total + (part - negative) * weight
    return total


def join(conds: Sequence[Cond], n: int) -> Cond:
    """Conditions (1 or n, tokens, width) one behind the other, each for ``n`` images."""
    from torch import cat  # here, so that the server can import this file without torch

    context = cat([cond.context.expand(n, -1, -1) for cond in conds])
    vectors = [cond.vector for cond in conds if cond.vector is not None]
    return Cond(context, cat([vector.expand(n, -1) for vector in vectors]) if vectors else None)


class Guided:
    """The `Denoiser` of a batch: asks the network for every part and for the negative prompt, then guides.

    It counts its own calls, because A1111 chooses the text by that count; the sampler's step would not do for samplers
    that call twice. Conditions of equal length go through the network in one call with all images.
    """

    def __init__(self, network: Network, guidance: Guidance, positive: Sequence[Part], negative: Part, scale: float):
        self._network = network
        self._guidance = guidance
        self._positive = positive
        self._negative = negative
        self._scale = scale
        self._calls = 0
        self._joined: dict[tuple[int, ...], tuple[tuple[Cond, ...], Cond]] = {}

    def __call__(self, x: Tensor, sigma: float, step: int) -> Tensor:
        call, self._calls = self._calls, self._calls + 1
        conds = [part.at(call) for part in self._positive]
        weights = [part.weight for part in self._positive]
        if self._scale == 1 and weights == [1.0]:
            return self._evaluate(x, sigma, conds)[0]  # the negative prompt would cancel out
        *positive, negative = self._evaluate(x, sigma, [*conds, self._negative.at(call)])
        one = positive[0] if weights == [1.0] else compose(positive, weights, negative)
        return self._guidance(one, negative, self._scale)

    def _evaluate(self, x: Tensor, sigma: float, conds: Sequence[Cond]) -> list[Tensor]:
        """x0 under each condition."""
        answers: dict[int, Tensor] = {}
        for length in dict.fromkeys(cond.context.shape[1] for cond in conds):
            group = [i for i, cond in enumerate(conds) if cond.context.shape[1] == length]
            if len(group) == 1:
                answers[group[0]] = self._network(x, sigma, conds[group[0]])
                continue
            joined = self._join([conds[i] for i in group], len(x))
            together = self._network(x.repeat(len(group), 1, 1, 1), sigma, joined)
            answers.update(zip(group, together.split(len(x)), strict=True))
        return [answers[i] for i in range(len(conds))]

    def _join(self, conds: Sequence[Cond], n: int) -> Cond:
        """The conditions one behind the other, each for ``n`` images; the same object for the same conditions."""
        key = tuple(id(cond) for cond in conds)
        if key not in self._joined:
            self._joined[key] = (tuple(conds), join(conds, n))
        return self._joined[key][1]

"""Classifier-free guidance, AND composition, and the inpainting wrappers: from a `Network` to the `Denoiser` of a
sampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Protocol

from modules.diffusion.types import Asked, Cond, Denoiser, Guidance, Network, Part, Row, SharingNetwork

if TYPE_CHECKING:
    from torch import Tensor

Skip = Callable[[int, float], bool]
"""``(call, sigma) -> bool``: whether to skip the negative prompt in network call number ``call`` of a run."""


Kind = Literal["positive", "negative", "other"]


class WeightedCond(Protocol):
    """One AND part of a prompt: its weight, and its condition at network call number ``call``."""

    @property
    def weight(self) -> float: ...

    def at(self, call: int, step: int | None = None) -> Cond: ...


class Observer(Protocol):
    """Hears what a `Guided` is about to do, and says what it wants of it (see `modules.pipeline.steps`)."""

    @property
    def guided_always(self) -> bool:
        """Guidance is asked at every call; where there is no negative answer it is given the positive one twice."""
        ...

    @property
    def needs_negative(self) -> bool:
        """The negative prompt is evaluated at every call."""
        ...

    def asked(self, asked: Asked) -> None:
        """A call begins."""
        ...

    def evaluating(self, rows: tuple[Row, ...]) -> None:
        """The network is about to be called with these rows."""
        ...


def cfg(positive: Tensor, negative: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: Ho & Salimans (2022), arXiv:2207.12598, eq. 6, in A1111's scale (1 = none)."""
    return negative + (positive - negative) * scale


def compose(parts: Sequence[Tensor], weights: Sequence[float], negative: Tensor) -> Tensor:
    """Composition with AND: Liu et al. (2022), arXiv:2206.01714, eq. 11. ``negative + sum w_i (part_i - negative)``."""
    total = negative
    for part, weight in zip(parts, weights, strict=True):
        total = total + (part - negative) * weight
    return total


def rescaled(guidance: Guidance, amount: float) -> Guidance:
    """CFG rescale: Lin et al. (2024), arXiv:2305.08891, eq. 15 and 16, on x0. ``amount`` is their phi, 0 to 1."""

    def rescale(positive: Tensor, negative: Tensor, scale: float) -> Tensor:
        guided = guidance(positive, negative, scale)
        # Image by image: a sum over a batch may be split up differently from the same sum alone.
        ratios = [float(p.std()) / max(float(g.std()), 1e-12) for p, g in zip(positive, guided, strict=True)]
        factors = guided.new_tensor([amount * ratio + 1 - amount for ratio in ratios])
        return guided * factors.reshape(-1, *[1] * (guided.dim() - 1))

    return rescale


def skip_early(part: float, total_calls: int) -> Skip:
    """A1111's "Ignore negative prompt during early sampling": skip it in the first ``part`` (0 to 1) of the calls."""
    return lambda call, sigma: part != 0 and call / total_calls <= part


def skip_low(level: float, *, every: bool = False, of: Callable[[float], float] = float) -> Skip:
    """A1111's negative guidance minimum sigma: skip the negative prompt below ``level``, in every second call or in
    ``every`` call.

    ``of`` gives what is compared, for the DDIM family the timestep of a sigma.
    """
    return lambda call, sigma: level > 0 and of(sigma) < level and (every or call % 2 == 1)


class Seeing:
    """The conditions of a `WeightedCond` with ``image`` (1 or n, channels, h, w) beside the latents."""

    def __init__(self, part: WeightedCond, image: Tensor):
        self._part = part
        self._image = image
        self._seen: dict[int, tuple[Cond, Cond]] = {}

    @property
    def weight(self) -> float:
        return self._part.weight

    def at(self, call: int, step: int | None = None) -> Cond:
        """The same object for the same text: networks keep a text's keys and values by the identity of its
        condition.
        """
        cond = self._part.at(call, step)
        if id(cond) not in self._seen:
            self._seen[id(cond)] = cond, replace(cond, image=self._image)
        return self._seen[id(cond)][1]


class Guided:
    """The `Denoiser` of a batch: evaluates the network for every AND part and for the negative prompt, then applies
    guidance.

    It counts its own calls, because A1111 chooses the text by that count; the sampler's step would not do for samplers
    that call twice. Conditions of equal length go through the network in one call with all images; with ``alone`` each
    image goes by itself, so that kernels which look at the batch size cannot make it depend on its company.
    """

    def __init__(
        self,
        network: Network,
        guidance: Guidance,
        positive: Sequence[WeightedCond],
        negative: WeightedCond,
        scale: float,
        *,
        skips: Sequence[Skip] = (),
        alone: bool = False,
        apart: bool = False,
        always_negative: bool = False,
        calls: int = 0,
        observer: Observer | None = None,
        unseen: WeightedCond | None = None,
        image_scale: float = 1.0,
    ):
        """``calls``: those of the run that were made before. ``apart``: each condition goes through the network by
        itself, which takes less memory.

        ``unseen``: the negative prompt without the picture that the others see, for guidance by the picture of
        strength ``image_scale`` (Brooks et al. 2023, arXiv:2211.09800, eq. 3); then the negative prompt is never
        skipped.

        ``always_negative``: ask for the negative prompt even where it cancels out, because `direction` is wanted.
        """
        self._network = network
        self._guidance = guidance
        self._positive = positive
        self._negative = negative
        self._scale = scale
        self._skips = skips
        self._alone = alone
        self._apart = apart
        self._unseen = unseen
        self._image_scale = image_scale
        needed = observer is not None and observer.needs_negative
        self._always_negative = always_negative or unseen is not None or needed
        self._observer = observer
        self.calls = calls
        self._last: tuple[Tensor, float, Tensor] | None = None
        self._estimate: Tensor | None = None
        self._joined: dict[tuple[int, ...], tuple[tuple[Cond, ...], Cond]] = {}
        self._rows: dict[tuple[int, int], tuple[Cond, Cond]] = {}

    def __call__(self, x: Tensor, sigma: float, step: int) -> Tensor:
        asked = self.asked(x, sigma, step)
        self.calls += 1
        if self._observer:
            self._observer.asked(asked)
        conds, weights = [part.cond for part in asked.cond], [part.weight for part in asked.cond]
        single, rows = weights == [1.0], list[tuple[Kind, int]](("positive", i) for i in range(len(conds)))
        if asked.uncond is None:
            first, *others = self._evaluate(x, sigma, conds, rows)
            self._estimate = first if single else compose([first, *others], weights, first)
            always = self._observer is not None and self._observer.guided_always
            return self._guidance(self._estimate, self._estimate, self._scale) if always else self._estimate
        # All conditions are evaluated together, in as few network calls as their lengths allow.
        unseen = [self._unseen.at(asked.call, step)] if self._unseen else []
        rows += [("negative", 0), *(("other", 0) for _ in unseen)]
        answers = self._evaluate(x, sigma, [*conds, asked.uncond, *unseen], rows)
        positive, negative = answers[: len(conds)], answers[len(conds)]
        self._last = x, sigma, negative
        self._estimate = positive[0] if single else compose(positive, weights, negative)
        guided = self._guidance(self._estimate, negative, self._scale)
        return guided + (negative - answers[-1]) * (self._image_scale - 1) if unseen else guided

    def asked(self, x: Tensor, sigma: float, step: int) -> Asked:
        """The conditions of the call that comes next."""
        call = self.calls
        cond = tuple(Part(part.weight, part.at(call, step)) for part in self._positive)
        # The negative prompt costs half of the time: leave it out where A1111 skips it or where it would cancel out.
        cancels = self._scale == 1 and [part.weight for part in cond] == [1.0]
        skipped = not self._always_negative and (cancels or any(skip(call, sigma) for skip in self._skips))
        return Asked(x, sigma, step, call, cond, None if skipped else self._negative.at(call, step))

    def evaluate(self, x: Tensor, sigma: float, cond: Cond, row: tuple[Kind, int] = ("other", 0)) -> Tensor:
        """x0 under one condition, image by image where each goes by itself; no call is counted."""
        (answer,) = self._evaluate(x, sigma, [cond], [row])
        return answer

    def estimate(self) -> Tensor:
        """x0 under the positive prompt alone at the last call: what A1111 decodes when sampling is interrupted."""
        assert self._estimate is not None, "there was no call"
        return self._estimate

    def direction(self) -> Tensor:
        """The derivative dx/dsigma at the last call under the negative prompt alone, as CFG++ needs it."""
        assert self._last is not None, "there was no call with the negative prompt"
        x, sigma, negative = self._last
        return (x - negative) / sigma

    def _evaluate(
        self, x: Tensor, sigma: float, conds: Sequence[Cond], rows: Sequence[tuple[Kind, int]]
    ) -> list[Tensor]:
        """x0 under each condition; ``rows`` says of each which prompt and which of its parts it is."""
        images = range(len(x))
        if not self._alone or len(x) == 1:
            return self._together(x, sigma, conds, rows, images)
        from torch import cat  # here, so that the server can import this file without torch

        answers = [
            self._together(x[i : i + 1], sigma, [self._row(cond, i) for cond in conds], rows, images[i : i + 1])
            for i in images
        ]
        return [cat(answers) for answers in zip(*answers, strict=True)]

    def _together(
        self,
        x: Tensor,
        sigma: float,
        conds: Sequence[Cond],
        rows: Sequence[tuple[Kind, int]],
        images: Sequence[int],
    ) -> list[Tensor]:
        # A tensor of contexts has one length, so only conditions of equal length can share a call. One alone goes as
        # the very object it is: networks keep a text's keys and values by the identity of its condition.
        answers: dict[int, Tensor] = {}
        for length in dict.fromkeys(cond.context.shape[1] for cond in conds):
            group = [i for i, cond in enumerate(conds) if cond.context.shape[1] == length]
            if len(group) == 1 or self._apart:
                for i in group:
                    self._evaluating([i], rows, images)
                    answers[i] = self._network(x, sigma, conds[i])
                continue
            self._evaluating(group, rows, images)
            joined = self._join([conds[i] for i in group], len(x))
            if isinstance(self._network, SharingNetwork):
                together = self._network.for_each(x, sigma, joined, len(group))
            else:  # an extension's, which may treat the copies differently
                together = self._network(x.repeat(len(group), 1, 1, 1), sigma, joined)
            answers.update(zip(group, together.chunk(len(group)), strict=True))
        return [answers[i] for i in range(len(conds))]

    def _evaluating(self, group: Sequence[int], rows: Sequence[tuple[Kind, int]], images: Sequence[int]) -> None:
        """Tell the observer which rows the network is called with next."""
        if self._observer:
            self._observer.evaluating(tuple(Row(image, *rows[i]) for i in group for image in images))

    def _join(self, conds: Sequence[Cond], n: int) -> Cond:
        """Concatenate conditions along the batch, each for ``n`` images; cached, so equal input gives the same
        object.
        """
        key = (n, *(id(cond) for cond in conds))
        if key not in self._joined:
            self._joined[key] = (tuple(conds), join(conds, n))
        return self._joined[key][1]

    def _row(self, cond: Cond, i: int) -> Cond:
        """The condition of image ``i`` alone; cached, so equal input gives the same object."""
        if all(tensor is None or len(tensor) == 1 for tensor in (cond.context, cond.vector, cond.image)):
            return cond
        if (id(cond), i) not in self._rows:
            self._rows[id(cond), i] = (cond, row_of(cond, i))
        return self._rows[id(cond), i][1]


class Refined:
    """The `Denoiser` of a batch that another network finishes (A1111's refiner): from the first call on at which
    ``switch_test(sigma)``, ``second`` takes over. It is made then, and told how many calls there were before."""

    def __init__(self, first: Guided, second: Callable[[int], Guided], switch_test: Callable[[float], bool]):
        self._guided = first
        self._second: Callable[[int], Guided] | None = second
        self._switch_test = switch_test

    def __call__(self, x: Tensor, sigma: float, step: int) -> Tensor:
        return self._at(sigma)(x, sigma, step)

    def asked(self, x: Tensor, sigma: float, step: int) -> Asked:
        return self._at(sigma).asked(x, sigma, step)

    def evaluate(self, x: Tensor, sigma: float, cond: Cond, row: tuple[Kind, int] = ("other", 0)) -> Tensor:
        return self._guided.evaluate(x, sigma, cond, row)

    def _at(self, sigma: float) -> Guided:
        if self._second and self._switch_test(sigma):
            self._guided, self._second = self._second(self._guided.calls), None
        return self._guided

    def direction(self) -> Tensor:
        return self._guided.direction()

    def estimate(self) -> Tensor:
        return self._guided.estimate()


def join(conds: Sequence[Cond], n: int) -> Cond:
    """Concatenate conditions (1 or n, tokens, width) along the batch, each expanded to ``n`` images."""
    from torch import cat

    context = cat([cond.context.expand(n, -1, -1) for cond in conds])
    vectors = [cond.vector.expand(n, -1) for cond in conds if cond.vector is not None]
    images = [cond.image for cond in conds if cond.image is not None]
    image = images[0] if images else None
    if any(one is not image for one in images):  # one for all conditions stays one: it is repeated where it is used
        image = cat([one.expand(n, -1, -1, -1) for one in images])
    return Cond(context, cat(vectors) if vectors else None, image)


def row_of(cond: Cond, i: int) -> Cond:
    """The condition of image ``i`` alone; what has one row is for all images."""

    def row(tensor: Tensor) -> Tensor:
        return tensor if len(tensor) == 1 else tensor[i : i + 1]

    vector, image = cond.vector, cond.image
    return Cond(row(cond.context), vector if vector is None else row(vector), image if image is None else row(image))


def keep(denoise: Denoiser, original: Tensor, mask: Tensor) -> Denoiser:
    """Inpainting: x0 is replaced by ``original`` (clean latents) where ``mask`` (1 = repaint, broadcasts) is 0."""

    def kept(x: Tensor, sigma: float, step: int) -> Tensor:
        return denoise(x, sigma, step) * mask + original * (1 - mask)

    return kept


def keep_input(denoise: Denoiser, original: Tensor, mask: Tensor) -> Denoiser:
    """Inpainting as A1111's DDIM family does it: the network's input is ``original``, without noise, where ``mask``
    is 0.

    The predicted noise is left as it is, so the answer moves along with the input.
    """

    def kept(x: Tensor, sigma: float, step: int) -> Tensor:
        mixed = x * mask + original * (1 - mask) * math.sqrt(1 + sigma**2)
        return denoise(mixed, sigma, step) + (x - mixed)

    return kept


def keep_softly(
    denoise: Denoiser, original: Tensor, mask: Tensor, *, bias: float, preservation: float, boost: float
) -> Denoiser:
    """A1111's soft inpainting (1.8, by CodeHatchling): where ``mask`` is grey, x0 is mixed with ``original``, which
    weighs more at higher noise. The share of x0 is ``mask ** (sigma ** bias * preservation)``.

    Lengths of the latent vectors are mixed apart from their directions, as a power mean of exponent ``boost``: the
    plain mean of two unlike vectors is shorter than both, which looks pale. With every sampler it is the answer that is
    mixed; A1111's DDIM family mixes the input instead, with the timestep in the place of sigma.
    """

    def kept(x: Tensor, sigma: float, step: int) -> Tensor:
        return mixed(original, denoise(x, sigma, step), mask ** (sigma**bias * preservation), boost)

    return kept


def mixed(a: Tensor, b: Tensor, share: Tensor, power: float) -> Tensor:
    """Mix ``share`` (n or 1, 1, h, w) of ``b`` with the rest of ``a``, both (n or 1, c, h, w); lengths by power
    mean.
    """
    plain = a * (1 - share) + b * share
    # float64: lengths to the power of 32 leave float32's range.
    lengths = [v.double().norm(dim=1, keepdim=True) ** power for v in (a, b)]
    wanted = (lengths[0] * (1 - share) + lengths[1] * share) ** (1 / power)
    factor: Tensor = wanted / plain.double().norm(dim=1, keepdim=True).clamp_min(1e-5)
    return plain * factor.to(plain.dtype)

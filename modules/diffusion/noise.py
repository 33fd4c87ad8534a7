"""Seeded noise. Every image has its own generator, so it is the same alone or in a batch, on any device.

Sources: "NV", a software model of the generator of CUDA cards (Philox 4x32-10, Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"), the same on every machine; "CPU", torch's own generator; "GPU", torch's generator on the
device that computes, different on other kinds of card.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.errors import UserError
from modules.params.profile import A1111, Profile

Shape = tuple[int, ...]
Words = NDArray[np.uint64]
_Floats = NDArray[np.float32]
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_M0, _M1, _W0, _W1 = map(np.uint64, (0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85))
_Node = tuple[int, int]
"""An interval of a Brownian tree: its index within its depth, and the depth."""


def philox(counter: Words, seed: int) -> Words:
    """Philox 4x32-10 of ``counter`` (4, n) 32-bit words under a 64-bit key -> (4, n)."""
    c0, c1, c2, c3 = counter.astype(np.uint64)
    return np.stack(_rounds(c0, c1, c2, c3, np.array(seed, np.uint64)))


def _rounds(c0: Words, c1: Words, c2: Words, c3: Words, keys: Words) -> tuple[Words, Words, Words, Words]:
    """The rounds of Philox. Words and keys broadcast, so what the first rounds share over either is computed once."""
    turn = np.arange(10, dtype=np.uint64).reshape(-1, *[1] * keys.ndim)
    for i, k0, k1 in zip(range(10), (keys + turn * _W0) & _LOW, ((keys >> _HALF) + turn * _W1) & _LOW, strict=True):
        p0, p1 = c0 * _M0, c2 * _M1
        if i < 3:
            c0, c1, c2, c3 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        else:  # by now all have the whole shape and are ours to write over
            np.right_shift(p1, _HALF, out=c0)
            c0 ^= c1
            c0 ^= k0
            np.right_shift(p0, _HALF, out=c2)
            c2 ^= c3
            c2 ^= k1
            c1, c3 = np.bitwise_and(p1, _LOW, out=p1), np.bitwise_and(p0, _LOW, out=p0)
    return c0, c1, c2, c3


def philox_normals(seeds: Sequence[int], calls: Sequence[int], n: int) -> NDArray[np.float32]:
    """The normal numbers that fresh generators with ``seeds`` draw at their ``calls`` (paired, or either of length
    one): (pairs, n).

    One counter word an element, Box-Muller's sine branch, as CUDA cards do it.
    """
    keys = np.array([seed % 2**64 for seed in seeds], np.uint64)[:, None]
    zero = np.zeros((1, 1), np.uint64)
    places, turns = np.arange(n, dtype=np.uint64)[None], np.array(calls, np.uint64)[:, None]
    g0, g1, _, _ = _rounds(turns, zero, places, zero, keys)
    angle = float(np.float32(2 * math.pi * 2.0**-32))
    u, v = g0.astype(np.float64), g1.astype(np.float64)
    u *= 2.0**-32
    u += 2.0**-33
    v *= angle
    v += angle / 2
    np.sqrt(np.log(u, out=u) * -2.0, out=u)
    u *= np.sin(v, out=v)
    return u.astype(np.float32)


class Generator(Protocol):
    def randn(self, shape: Shape) -> Tensor:
        """The next normal numbers, float32."""
        ...


class PhiloxGenerator:
    """The generator of a CUDA GPU: `philox_normals`, with a counter of its calls."""

    AHEAD = 4
    """Number of equal-sized draws made together: for small latents, numpy's call overhead exceeds its arithmetic."""

    def __init__(self, seed: int):
        self._seed = seed
        self._calls = 0
        self._ahead: list[NDArray[np.float32]] = []

    def randn(self, shape: Shape) -> Tensor:
        n = math.prod(shape)
        if not self._ahead or len(self._ahead[0]) != n:
            count = self.AHEAD if self._calls and n <= 2**14 else 1  # the first draw is often the only one
            self._ahead = [*philox_normals([self._seed], range(self._calls, self._calls + count), n)]
        self._calls += 1
        return torch.from_numpy(self._ahead.pop(0).reshape(shape))


class TorchGenerator:
    """torch's own generator, on the CPU or on the networks' device."""

    def __init__(self, seed: int, device: torch.device | str = "cpu"):
        self._device = device
        self._generator = torch.Generator(device).manual_seed(seed % 2**64)

    def randn(self, shape: Shape) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self._device)


SOURCES: dict[str, Callable[[int, torch.device | str], Generator]] = {
    "NV": lambda seed, _: PhiloxGenerator(seed),
    "CPU": lambda seed, _: TorchGenerator(seed),
    "GPU": TorchGenerator,
}


def generator(source: str, seed: int, device: torch.device | str = "cpu") -> Generator:
    """Create a generator; ``device`` matters for the source "GPU" only."""
    try:
        make = SOURCES[source]
    except KeyError:
        raise UserError(f"no noise source {source!r}", hint=f"there are {', '.join(SOURCES)}", field="rng") from None
    return make(seed, device)


def first_normals(source: str, seeds: Sequence[int], shape: Shape, device: torch.device | str = "cpu") -> Tensor:
    """The first draw of a fresh generator for each of ``seeds``: (seeds, *shape)."""
    if source == "NV":
        return torch.from_numpy(philox_normals(seeds, [0], math.prod(shape)).reshape(len(seeds), *shape))
    return torch.stack([generator(source, seed, device).randn(shape) for seed in seeds])


def slerp(t: float, low: Tensor, high: Tensor, *, rows: bool) -> Tensor:
    """Spherical interpolation of noise (c, h, w): Shoemake (1985), "Animating rotation with quaternion curves".

    ``rows``: angles along the height axis and swapped weights for near-parallel inputs, as A1111 has it; otherwise one
    angle for the whole tensor.
    """
    axes = (1,) if rows else tuple(range(low.dim()))
    unit_low = low / torch.linalg.vector_norm(low, dim=axes, keepdim=True)
    unit_high = high / torch.linalg.vector_norm(high, dim=axes, keepdim=True)
    dot = (unit_low * unit_high).sum(axes, keepdim=True)
    if dot.mean() > 0.9995:
        return low * t + high * (1 - t) if rows else low * (1 - t) + high * t
    omega = torch.acos(dot)
    return (torch.sin((1 - t) * omega) * low + torch.sin(t * omega) * high) / torch.sin(omega)


def pasted(noise: Tensor, ground: Tensor) -> Tensor:
    """``noise`` (c, h, w) centred in ``ground`` (c, H, W), cropped where it is larger."""
    result = ground.clone()
    there, here = zip(*(_overlap(a, b) for a, b in zip(ground.shape[1:], noise.shape[1:], strict=True)), strict=True)
    result[:, *there] = noise[:, *here]
    return result


def _overlap(outer: int, inner: int) -> tuple[slice, slice]:
    """The slices by which ``inner`` places, centred in ``outer`` ones, overlap."""
    offset = (outer - inner) // 2
    if offset >= 0:
        return slice(offset, offset + inner), slice(0, inner)
    size = inner + 2 * offset  # an odd difference leaves one place of the ground
    return slice(0, size), slice(-offset, -offset + size)


class BrownianPath:
    """A Brownian motion over [``low``, ``high``], determined by its seed alone, not by where or in what order it is
    evaluated.

    A virtual Brownian tree (Li et al. 2020, arXiv:2001.01328, sec. 4): an interval's increment is split at its middle
    by a Brownian bridge, whose noise has a seed of its own, until the times asked for are boundaries. Seeds, halves and
    rounding are those of torchsde 0.2.6's ``BrownianTree``, so that seeds mean here what they mean elsewhere; written
    anew because torchsde draws with torch's generator alone.
    """

    DIGITS = 6
    """Times are rounded to this many digits, which ends the bisection."""
    POOL = 24
    """Words in the entropy pool of numpy's seed sequence."""

    KEPT = 128
    """Size of the cache of split intervals: those on the way to the most recent times."""

    def __init__(self, shape: Shape, low: float, high: float, seed: int, normals: Callable[[list[int], Shape], Tensor]):
        """``normals(seeds, shape)`` draws normal numbers (seeds, *shape), each row from a fresh generator."""
        self._ends = round(low, self.DIGITS), round(high, self.DIGITS)
        self._shape = shape
        self._seed = seed
        self._normals = normals
        # numpy: its operations on so few numbers cost a quarter of torch's.
        self._whole = self._drawn([()])[0] * np.float32(math.sqrt(high - low))
        self._halves: OrderedDict[_Node, tuple[_Floats, _Floats]] = OrderedDict()

    def _drawn(self, keys: Sequence[tuple[int, ...]]) -> _Floats:
        found: _Floats = self._normals([*map(self._state, keys)], self._shape).numpy(force=True)
        return found

    def _state(self, key: tuple[int, ...]) -> int:
        return int(np.random.SeedSequence(self._seed, spawn_key=key, pool_size=self.POOL).generate_state(1)[0])

    def increment(self, start: float, end: float) -> Tensor:
        """W(end) - W(start), for ``start < end``; times beyond the ends count as the ends."""
        start, end = (min(max(round(t, self.DIGITS), self._ends[0]), self._ends[1]) for t in (start, end))
        if start == end:
            return torch.zeros(self._shape)
        pieces, way = self._way(start, end)
        unknown = [node for node, *_ in way if node not in self._halves]
        # All draws of a step at once: one by one they would take longer than a small model's step allows.
        drawn = dict(zip(unknown, self._drawn(unknown), strict=True)) if unknown else {}
        for node, low, middle, high in way:
            if node in drawn:
                self._split(node, low, middle, high, drawn[node])
            else:
                self._halves.move_to_end(node)
        first, *rest = map(self._value, pieces)
        total = first.copy()
        for piece in rest:
            total += piece
        while len(self._halves) > self.KEPT:
            self._halves.popitem(last=False)
        return torch.from_numpy(total)

    def _way(self, start: float, end: float) -> tuple[list[_Node], list[tuple[_Node, float, float, float]]]:
        """The largest tree intervals that make up [start, end], from left to right, and those to split for them."""
        pieces: list[_Node] = []
        way = []
        waiting = [((0, 0), start, end, *self._ends)]
        while waiting:
            node, start, end, low, high = waiting.pop()
            if (start, end) == (low, high):
                pieces.append(node)
                continue
            middle = round((high + low) / 2, self.DIGITS)
            way.append((node, low, middle, high))
            key, depth = node
            if end > middle:
                waiting.append(((2 * key + 1, depth + 1), max(start, middle), end, middle, high))
            if start < middle:
                waiting.append(((2 * key, depth + 1), start, min(end, middle), low, middle))
        return pieces, way

    def _split(self, node: _Node, low: float, middle: float, high: float, bridge: _Floats) -> None:
        """Split an interval: the increments of its two halves."""
        reciprocal, before, after = 1 / (high - low), middle - low, high - middle
        whole = self._value(node)
        left = before * whole
        left *= reciprocal
        left += math.sqrt(before * after * reciprocal) * bridge
        self._halves[node] = left, whole - left

    def _value(self, node: _Node) -> _Floats:
        """The increment over an interval whose parent is already split."""
        key, depth = node
        return self._halves[key // 2, depth - 1][key % 2] if depth else self._whole


class ImageNoise:
    """The `Noise` of a batch: latents of ``shape`` (c, h, w) for each of ``seeds``.

    ``ensd`` (eta noise seed delta) changes every draw after the first. ``subseeds`` and ``subseed_strength`` move the
    start noise towards that of another seed. ``resize_from`` (height, width), of latents, takes the start noise of
    another image size; 0: off. With ``brownian``, the sigmas of the whole run, the noise of the steps is that of one
    Brownian path an image; ENSD does not touch it.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Shape,
        *,
        source: str = "NV",
        subseeds: Sequence[int] = (),
        subseed_strength: float = 0.0,
        resize_from: tuple[int, int] = (0, 0),
        ensd: int = 0,
        brownian: Sequence[float] = (),
        profile: Profile = A1111,
        device: torch.device | str = "cpu",
    ):
        self._seeds = tuple(seeds)
        self._subseeds = tuple(subseeds)
        self._shape = shape
        self._source = source
        self._strength = subseed_strength
        self._noise_shape = (shape[0], *resize_from) if min(resize_from) > 0 else shape
        self._ensd = ensd
        self._profile = profile
        self._device = device
        self._generators = [self._generator(seed) for seed in self._seeds]
        positive = [sigma for sigma in brownian if sigma > 0]
        self._paths = [
            BrownianPath(shape, min(positive), max(positive), seed, partial(first_normals, source, device=device))
            for seed in (self._seeds if positive else ())
        ]

    def initial(self) -> Tensor:
        noises = [self._start(i) for i in range(len(self._seeds))]
        if self._ensd:
            self._generators = [self._generator(seed + self._ensd) for seed in self._seeds]
        return torch.stack(noises).to(self._device)

    def __call__(self, sigma: float, sigma_next: float) -> Tensor:
        if not self._paths:
            return torch.stack([g.randn(self._shape) for g in self._generators]).to(self._device)
        low, high = sorted((sigma, sigma_next))
        scale = math.copysign(math.sqrt(high - low), sigma_next - sigma)
        return torch.stack([path.increment(low, high) / scale for path in self._paths]).to(self._device)

    def _generator(self, seed: int) -> Generator:
        return generator(self._source, seed, self._device)

    def _start(self, i: int) -> Tensor:
        same_size = self._noise_shape == self._shape
        own = self._generators[i] if same_size else self._generator(self._seeds[i])
        noise = own.randn(self._noise_shape)
        if self._strength:
            other = self._generator(self._subseeds[i]).randn(self._noise_shape)
            noise = slerp(self._strength, noise, other, rows=self._profile.slerp_rows)
        return noise if same_size else pasted(noise, self._generators[i].randn(self._shape))

"""Seeds to noise. Every image has its own generator, so it is the same alone or in a batch, on any device.

Sources: "NV", a software model of the generator of CUDA cards (Philox 4x32-10, Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"), the same on every machine; "CPU", torch's own generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modules.errors import UserError
from modules.profile import A1111, Profile

Shape = tuple[int, ...]
Words = NDArray[np.uint64]
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: Words, seed: int) -> Words:
    """Philox 4x32-10 of ``counter`` (4, n) 32-bit words under a 64-bit key -> (4, n)."""
    c0, c1, c2, c3 = counter.astype(np.uint64)
    k0, k1 = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (p1 >> _HALF) ^ c1 ^ np.uint64(k0),
            p1 & _LOW,
            (p0 >> _HALF) ^ c3 ^ np.uint64(k1),
            p0 & _LOW,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3])


class Generator(Protocol):
    def randn(self, shape: Shape) -> Tensor:
        """The next normal numbers, float32 on the CPU."""
        ...


class PhiloxGenerator:
    """What a CUDA card's generator draws: one call counter, one counter word an element, Box-Muller's sine branch."""

    def __init__(self, seed: int):
        self._seed = seed % 2**64
        self._calls = 0

    def randn(self, shape: Shape) -> Tensor:
        n = math.prod(shape)
        counter = np.zeros((4, n), dtype=np.uint64)
        counter[0] = self._calls
        counter[2] = np.arange(n)
        self._calls += 1
        g0, g1 = philox(counter, self._seed)[:2].astype(np.float64)
        u = g0 * 2.0**-32 + 2.0**-33
        angle = float(np.float32(2 * math.pi * 2.0**-32))
        v = g1 * angle + angle / 2
        values = np.sqrt(-2.0 * np.log(u)) * np.sin(v)
        return torch.from_numpy(values.astype(np.float32).reshape(shape))


class TorchGenerator:
    """torch's generator on the CPU."""

    def __init__(self, seed: int):
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def randn(self, shape: Shape) -> Tensor:
        return torch.randn(shape, generator=self._generator)


SOURCES: dict[str, Callable[[int], Generator]] = {"NV": PhiloxGenerator, "CPU": TorchGenerator}


def generator(source: str, seed: int) -> Generator:
    try:
        return SOURCES[source](seed)
    except KeyError:
        raise UserError(f"no noise source {source!r}", hint=f"there are {', '.join(SOURCES)}", field="rng") from None


def slerp(t: float, low: Tensor, high: Tensor, *, rows: bool) -> Tensor:
    """Spherical interpolation of noise (c, h, w): Shoemake (1985), "Animating rotation with quaternion curves".

    ``rows``: angles along the height axis and swapped weights for near-parallel inputs, as A1111 has it; otherwise one
    angle for the whole tensor.
    """
    axes = (1,) if rows else tuple(range(low.dim()))
    unit_low = low / low.norm(dim=axes, keepdim=True)
    unit_high = high / high.norm(dim=axes, keepdim=True)
    dot = (unit_low * unit_high).sum(axes, keepdim=True)
    if dot.mean() > 0.9995:
        return low * t + high * (1 - t) if rows else low * (1 - t) + high * t
    omega = torch.acos(dot)
    return (torch.sin((1 - t) * omega) * low + torch.sin(t * omega) * high) / torch.sin(omega)


class ImageNoise:
    """The `Noise` of a batch: latents of ``shape`` (c, h, w) for each of ``seeds``.

    ``ensd`` (eta noise seed delta) changes every draw after the first. ``subseeds`` and ``subseed_strength`` move the
    start noise towards that of another seed.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Shape,
        *,
        source: str = "NV",
        subseeds: Sequence[int] = (),
        subseed_strength: float = 0.0,
        ensd: int = 0,
        profile: Profile = A1111,
        device: torch.device | str = "cpu",
    ):
        self._seeds = tuple(seeds)
        self._subseeds = tuple(subseeds)
        self._shape = shape
        self._source = source
        self._strength = subseed_strength
        self._ensd = ensd
        self._profile = profile
        self._device = device
        self._generators = [generator(source, seed) for seed in self._seeds]

    def initial(self) -> Tensor:
        noises = [self._start(i) for i in range(len(self._seeds))]
        if self._ensd:
            self._generators = [generator(self._source, seed + self._ensd) for seed in self._seeds]
        return torch.stack(noises).to(self._device)

    def _start(self, i: int) -> Tensor:
        noise = self._generators[i].randn(self._shape)
        if not self._strength:
            return noise
        other = generator(self._source, self._subseeds[i]).randn(self._shape)
        return slerp(self._strength, noise, other, rows=self._profile.slerp_rows)

    def __call__(self, sigma: float, sigma_next: float) -> Tensor:
        return torch.stack([g.randn(self._shape) for g in self._generators]).to(self._device)

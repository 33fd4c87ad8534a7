"""Seeds to noise."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch

from modules.diffusion.noise import (
    BrownianPath,
    ImageNoise,
    PhiloxGenerator,
    first_normals,
    generator,
    pasted,
    philox_normals,
    slerp,
)
from modules.errors import UserError
from modules.params.profile import EXACT

SHAPE = (4, 6, 5)


@pytest.mark.parametrize("source", ["NV", "CPU"])
@pytest.mark.parametrize("brownian", [(), (10.0, 5.0, 1.0, 0.0)])
def test_image_does_not_depend_on_its_company(source: str, brownian: tuple[float, ...]) -> None:
    def drawn(seeds: tuple[int, ...], subseeds: tuple[int, ...]) -> list[torch.Tensor]:
        noise = ImageNoise(
            seeds, SHAPE, source=source, subseeds=subseeds, subseed_strength=0.3, ensd=5, brownian=brownian
        )
        return [noise.initial(), noise(10.0, 5.0), noise(5.0, 1.0)]

    together = drawn((1, 2, 3), (7, 8, 9))
    for i, (seed, subseed) in enumerate(((1, 7), (2, 8), (3, 9))):
        for all_images, alone in zip(together, drawn((seed,), (subseed,)), strict=True):
            assert torch.equal(all_images[i : i + 1], alone)


def test_philox_numbers_are_normal() -> None:
    numbers = PhiloxGenerator(3).randn((100_000,)).double()
    assert float(numbers.mean()) == pytest.approx(0, abs=0.02)
    assert float(numbers.var()) == pytest.approx(1, abs=0.02)
    assert float((numbers**4).mean()) == pytest.approx(3, abs=0.2)


def test_every_call_draws_anew() -> None:
    numbers = PhiloxGenerator(3)
    assert not torch.equal(numbers.randn((8,)), numbers.randn((8,)))


@pytest.mark.parametrize("seed", [2**53 + 1, 2**63 + 7, 2**64 - 1])
def test_seeds_have_64_bits(seed: int) -> None:
    """torch takes a negative seed for what is left of 2^64, and Philox has a key of two words."""
    expected = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed - 2**64 if seed >= 2**63 else seed))
    assert torch.equal(generator("CPU", seed).randn(SHAPE), expected)
    draws = [first_normals("NV", [other], SHAPE) for other in (seed, seed % 2**32, seed >> 32 << 32)]
    assert not any(torch.equal(draws[0], draw) for draw in draws[1:])


@pytest.mark.parametrize("source", ["NV", "CPU"])
@pytest.mark.parametrize(("seed", "ensd"), [(2**64 - 1, 5), (3, -5), (0, 2**64 - 1)])
def test_a_seed_delta_wraps_at_64_bits(source: str, seed: int, ensd: int) -> None:
    noise = ImageNoise([seed], SHAPE, source=source, ensd=ensd)
    noise.initial()
    assert torch.equal(noise(2.0, 1.0)[0], generator(source, (seed + ensd) % 2**64).randn(SHAPE))


def test_unknown_source_is_told() -> None:
    with pytest.raises(UserError, match="NV, CPU, GPU"):
        generator("TPU", 1)


def test_gpu_source_draws_on_the_device() -> None:
    assert torch.equal(generator("GPU", 4, "cpu").randn(SHAPE), generator("CPU", 4).randn(SHAPE))


def test_seed_delta_leaves_the_start_and_changes_the_rest() -> None:
    plain, delta = ImageNoise((1,), SHAPE), ImageNoise((1,), SHAPE, ensd=31337)
    assert torch.equal(plain.initial(), delta.initial())
    assert torch.equal(delta(2.0, 1.0)[0], PhiloxGenerator(1 + 31337).randn(SHAPE))
    assert not torch.equal(plain(2.0, 1.0), delta(2.0, 1.0))


def test_seed_delta_does_not_touch_brownian_noise() -> None:
    sigmas = (4.0, 2.0, 1.0, 0.0)
    noises = [ImageNoise((1,), SHAPE, ensd=ensd, brownian=sigmas) for ensd in (0, 9)]
    for noise in noises:
        noise.initial()
    assert torch.equal(noises[0](4.0, 2.0), noises[1](4.0, 2.0))


def test_variation_of_strength_1_is_the_other_seed() -> None:
    noise = ImageNoise((1,), SHAPE, subseeds=(2,), subseed_strength=1.0)
    torch.testing.assert_close(noise.initial()[0], PhiloxGenerator(2).randn(SHAPE))


@pytest.mark.parametrize("rows", [True, False])
def test_interpolated_noise_keeps_its_deviation(rows: bool) -> None:
    low, high = (PhiloxGenerator(seed).randn((4, 64, 64)) for seed in (1, 2))
    assert float(slerp(0.5, low, high, rows=rows).std()) == pytest.approx(1, abs=0.03)


def test_exact_profile_interpolates_over_the_whole_tensor() -> None:
    low, high = (PhiloxGenerator(seed).randn(SHAPE) for seed in (1, 2))
    noise = ImageNoise((1,), SHAPE, subseeds=(2,), subseed_strength=0.25, profile=EXACT).initial()[0]
    angle = torch.acos((low * high).sum() / (low.norm() * high.norm()))
    expected = (torch.sin(0.75 * angle) * low + torch.sin(0.25 * angle) * high) / torch.sin(angle)
    torch.testing.assert_close(noise, expected)


def test_near_parallel_noise_is_interpolated_linearly_in_the_right_direction() -> None:
    low = PhiloxGenerator(1).randn(SHAPE)
    high = low * 1.001
    torch.testing.assert_close(slerp(0.25, low, high, rows=False), low * 1.00025)
    torch.testing.assert_close(slerp(0.25, low, high, rows=True), low * 1.00075)  # the reference's swapped weights


@pytest.mark.parametrize(("outer", "inner"), [((4, 6), (2, 4)), ((4, 6), (8, 6)), ((4, 6), (8, 2)), ((5, 5), (8, 8))])
def test_noise_is_pasted_in_the_middle(outer: tuple[int, int], inner: tuple[int, int]) -> None:
    ground, noise = torch.zeros(1, *outer), torch.arange(1.0, math.prod(inner) + 1).reshape(1, *inner)
    result = pasted(noise, ground)
    middle = noise[0, inner[0] // 2, inner[1] // 2]
    row, column = ((result[0] == middle).nonzero()[0]).tolist()
    assert (row, column) == (outer[0] // 2, outer[1] // 2)


def path(seed: int = 1, shape: tuple[int, ...] = (4, 32, 32)) -> BrownianPath:
    return BrownianPath(shape, 0.03, 14.6, seed, partial(first_normals, "NV"))


def test_increments_of_a_path_add_up() -> None:
    motion = path()
    pieces = [motion.increment(a, b) for a, b in ((0.03, 1.0), (1.0, 7.7), (7.7, 14.6))]
    torch.testing.assert_close(sum(pieces[1:], pieces[0]), motion.increment(0.03, 14.6))


def test_a_path_does_not_depend_on_the_order_of_questions() -> None:
    one, other = path(), path()
    asked = [one.increment(1.0, 2.0), one.increment(0.1, 1.0), one.increment(5.0, 9.0)]
    again = [other.increment(5.0, 9.0), other.increment(0.1, 1.0), other.increment(1.0, 2.0)]
    for a, b in zip(asked, reversed(again), strict=True):
        assert torch.equal(a, b)


def test_increments_are_independent_and_grow_with_time() -> None:
    motion = path()
    first, second = motion.increment(0.5, 3.0), motion.increment(3.0, 3.7)
    assert float(first.var()) == pytest.approx(2.5, rel=0.1)
    assert float(second.var()) == pytest.approx(0.7, rel=0.1)
    assert float((first * second).mean()) == pytest.approx(0, abs=0.1)


def test_times_beyond_the_ends_count_as_the_ends() -> None:
    motion = path()
    assert torch.equal(motion.increment(0.01, 20.0), motion.increment(0.03, 14.6))
    assert not motion.increment(15.0, 16.0).any()


def test_brownian_noise_of_a_step_has_deviation_1() -> None:
    noise = ImageNoise((1,), (4, 32, 32), brownian=(14.6, 3.0, 0.5, 0.03, 0.0))
    for sigma, sigma_next in ((14.6, 3.0), (3.0, 0.5), (0.5, 0.03)):
        assert float(noise(sigma, sigma_next).std()) == pytest.approx(1, abs=0.05)


def test_draws_made_ahead_are_those_of_the_call() -> None:
    """Whatever sizes come in what order, a call's numbers depend on the seed, its count and its size alone."""
    shapes = [SHAPE, SHAPE, SHAPE, (3,), SHAPE, (2, 5), (2, 5), (10,), SHAPE]
    generator = PhiloxGenerator(77)
    for call, shape in enumerate(shapes):
        expected = philox_normals([77], [call], math.prod(shape)).reshape(shape)
        assert torch.equal(generator.randn(shape), torch.from_numpy(expected))


def test_many_generators_draw_together_what_each_draws_alone() -> None:
    seeds = [0, 1, 2**32 + 5, 2**64 - 1]
    for source in ("NV", "CPU"):
        together = first_normals(source, seeds, SHAPE)
        for row, seed in zip(together, seeds, strict=True):
            assert torch.equal(row, generator(source, seed).randn(SHAPE))


def test_a_path_forgets_without_changing() -> None:
    """Far more times than are remembered, asked forwards and then backwards."""
    times = [0.03 + 14.57 * (i / 60) ** 2 for i in range(61)]
    steps = list(pairwise(times))
    forwards, backwards = path(shape=(2, 2)), path(shape=(2, 2))
    asked = [forwards.increment(*step) for step in steps]
    again = [backwards.increment(*step) for step in reversed(steps)][::-1]
    for one, other in zip(asked, again, strict=True):
        assert torch.equal(one, other)

"""Guidance: how often the network is asked, with what, and what becomes of the answers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from modules.diffusion.guidance import Guided, cfg, compose, keep, keep_input, rescaled, skip_early, skip_low
from modules.diffusion.types import Cond


@dataclass(frozen=True)
class ToyCond:
    """Each call has its own condition, the last one staying."""

    weight: float
    conds: tuple[Cond, ...]

    def at(self, call: int, step: int | None = None) -> Cond:
        return self.conds[min(call, len(self.conds) - 1)]


def part(*values: float, weight: float = 1.0, tokens: int = 2) -> ToyCond:
    return ToyCond(weight, tuple(Cond(torch.full((1, tokens, 3), value)) for value in values))


class Network:
    """Answers x plus the mean of its text; ``leaky`` adds a trace of the whole batch, as some kernels do."""

    def __init__(self, *, leaky: bool = False):
        self.calls: list[tuple[int, int]] = []
        self.leaky = leaky

    def __call__(self, x: Tensor, sigma: float, cond: Cond) -> Tensor:
        assert len(cond.context) in (1, len(x))
        self.calls.append((len(x), cond.context.shape[1]))
        answer = x + cond.context.mean((1, 2))[:, None, None, None]
        return answer + x.mean() * 1e-3 if self.leaky else answer


X = torch.arange(24.0).reshape(2, 3, 2, 2)


def test_guidance_goes_from_negative_through_positive() -> None:
    guided = Guided(Network(), cfg, [part(3.0)], part(1.0), 7.0)
    torch.testing.assert_close(guided(X, 1.0, 0), X + 1 + 7 * (3 - 1))


def test_both_texts_go_through_the_network_in_one_call() -> None:
    network = Network()
    Guided(network, cfg, [part(3.0), part(4.0)], part(1.0), 7.0)(X, 1.0, 0)
    assert network.calls == [(6, 2)]


def test_texts_of_other_length_go_by_themselves() -> None:
    network = Network()
    answer = Guided(network, cfg, [part(3.0, tokens=4)], part(1.0), 2.0)(X, 1.0, 0)
    assert sorted(network.calls) == [(2, 2), (2, 4)]
    torch.testing.assert_close(answer, X + 1 + 2 * (3 - 1))


def test_and_adds_directions_by_weight() -> None:
    parts = [part(3.0, weight=1.5), part(5.0, weight=-0.5)]
    answer = Guided(Network(), cfg, parts, part(1.0), 2.0)(X, 1.0, 0)
    torch.testing.assert_close(answer, X + 1 + 2 * (1.5 * (3 - 1) - 0.5 * (5 - 1)))


def test_a_single_part_of_another_weight_is_weighted_too() -> None:
    answer = Guided(Network(), cfg, [part(3.0, weight=0.5)], part(1.0), 2.0)(X, 1.0, 0)
    torch.testing.assert_close(answer, X + 1 + 2 * 0.5 * (3 - 1))


def test_texts_are_chosen_by_the_count_of_calls_and_not_by_the_step() -> None:
    guided = Guided(Network(), cfg, [part(3.0, 9.0)], part(1.0), 1.0)
    assert torch.equal(guided(X, 1.0, 0), X + 3)
    assert torch.equal(guided(X, 1.0, 0), X + 9)


def test_scale_1_does_not_ask_for_the_negative_prompt() -> None:
    network = Network()
    assert torch.equal(Guided(network, cfg, [part(3.0)], part(1.0), 1.0)(X, 1.0, 0), X + 3)
    assert network.calls == [(2, 2)]


def test_skipped_calls_go_by_the_positive_prompt_alone() -> None:
    network = Network()
    guided = Guided(network, cfg, [part(3.0)], part(1.0), 7.0, skips=[skip_low(0.5)])
    answers = [guided(X, sigma, 0) for sigma in (0.4, 0.4, 0.6)]
    torch.testing.assert_close(answers[0], X + 15)  # call 0 is even
    assert torch.equal(answers[1], X + 3)
    torch.testing.assert_close(answers[2], X + 15)


def test_which_calls_are_skipped() -> None:
    assert [skip_low(0.5, every=True)(call, 0.4) for call in range(3)] == [True] * 3
    assert not skip_low(0.0)(1, 0.4)
    assert skip_low(100, of=lambda sigma: 99)(1, 14.0)
    assert [skip_early(0.4, 5)(call, 1.0) for call in range(5)] == [True, True, True, False, False]
    assert not skip_early(0.0, 5)(0, 1.0)


def test_alone_the_network_sees_one_image_at_a_time() -> None:
    own = Cond(torch.tensor([3.0, 4.0])[:, None, None].expand(2, 2, 3))
    network = Network(leaky=True)
    together = Guided(network, cfg, [ToyCond(1.0, (own,))], part(1.0), 7.0, alone=True)
    answer = together(X, 1.0, 0)
    assert network.calls == [(2, 2), (2, 2)]
    for i, value in enumerate((3.0, 4.0)):
        single = Guided(Network(leaky=True), cfg, [part(value)], part(1.0), 7.0)
        assert torch.equal(answer[i : i + 1], single(X[i : i + 1], 1.0, 0))


def test_conditions_are_joined_once_and_then_found_again() -> None:
    seen = []

    def network(x: Tensor, sigma: float, cond: Cond) -> Tensor:
        seen.append(cond)
        return x

    guided = Guided(network, cfg, [part(3.0)], part(1.0), 7.0)
    guided(X, 1.0, 0)
    guided(X, 0.5, 1)
    assert seen[0] is seen[1]


def test_direction_is_that_of_the_negative_prompt() -> None:
    guided = Guided(Network(), cfg, [part(3.0)], part(1.0), 1.0, always_negative=True)
    guided(X, 2.0, 0)
    torch.testing.assert_close(guided.direction(), torch.full_like(X, -0.5))


def test_composition_of_one_full_weight_is_that_part() -> None:
    torch.testing.assert_close(compose([X], [1.0], X * 0.3), X)


def test_rescaling_gives_the_positive_answer_s_deviation() -> None:
    positive, negative = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    full = rescaled(cfg, 1.0)(positive, negative, 7.0)
    for guided, goal in zip(full, positive, strict=True):
        assert float(guided.std()) == pytest.approx(float(goal.std()), rel=1e-5)
    torch.testing.assert_close(rescaled(cfg, 0.0)(positive, negative, 7.0), cfg(positive, negative, 7.0))


MASK = torch.tensor([[1.0, 0.0], [0.5, 1.0]])


def doubled(x: Tensor, sigma: float, step: int) -> Tensor:
    return x * 2


def test_protected_places_answer_the_original() -> None:
    original = torch.ones(1, 3, 2, 2)
    answer = keep(doubled, original, MASK)(X, 1.0, 0)
    torch.testing.assert_close(answer[..., 0, 0], X[..., 0, 0] * 2)
    torch.testing.assert_close(answer[..., 0, 1], torch.ones(2, 3))
    torch.testing.assert_close(answer[..., 1, 0], X[..., 1, 0] + 0.5)


def test_protected_input_leaves_the_predicted_noise() -> None:
    original, sigma, seen = torch.ones(1, 3, 2, 2), 2.0, []

    def network(x: Tensor, sigma: float, step: int) -> Tensor:
        seen.append(x)
        return x * 0.5

    answer = keep_input(network, original, MASK)(X, sigma, 0)
    torch.testing.assert_close(seen[0][..., 0, 1], torch.full((2, 3), 5**0.5))
    torch.testing.assert_close((X - answer) / sigma, (seen[0] - seen[0] * 0.5) / sigma)

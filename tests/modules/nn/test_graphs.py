"""The pool of recorded UNet steps, with a recorder that plays a card's part: it does again what was done, into the
same tensor, with the inputs that lie where they lay.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from modules.nn.configs import UNetConfig
from modules.nn.graphs import GraphPool, Replay
from modules.nn.unet import TextKeys, UNet

SMALL = UNetConfig(model_channels=32, channel_mult=(1,), num_res_blocks=1, transformer_depth=(1,), context_dim=16)


class Recorder:
    """Counts recordings and replays; ``fails`` at the given recording."""

    def __init__(self, fails: int = 0):
        self.recorded = self.replayed = 0
        self._fails = fails

    def __call__(self, function: Replay) -> Replay:
        self.recorded += 1
        if self.recorded == self._fails:
            raise RuntimeError("CUDA error: out of memory")
        out = function()

        def replay() -> Tensor:
            self.replayed += 1
            return out.copy_(function())

        return replay


@pytest.fixture
def unet() -> UNet:
    torch.manual_seed(0)
    unet = UNet(SMALL).requires_grad_(False).eval()
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.1)
    return unet


def step(unet: UNet, n: int = 1, seed: int = 0, side: int = 4) -> tuple[Tensor, Tensor, TextKeys]:
    torch.manual_seed(seed)
    emb = unet.embed(torch.tensor([float(seed)])).expand(n, -1)
    return torch.randn(n, 4, side, side), emb, unet.text_keys(torch.randn(n, 5, 16))


@torch.inference_mode()
def test_a_shape_is_recorded_when_it_is_met_again_and_every_answer_is_right(unet: UNet) -> None:
    recorder = Recorder()
    pool = GraphPool(recorder)
    answers = []
    for seed in range(4):
        x, emb, text = step(unet, seed=seed)
        for _ in range(2):
            answers.append((pool.run(unet, x, emb, text), unet.run(x, emb, text)))
    assert (recorder.recorded, recorder.replayed) == (1, 7)
    # Compared at the end: a replay must not overwrite what an earlier one gave.
    assert all(torch.equal(found, expected) for found, expected in answers)


@torch.inference_mode()
def test_the_least_recently_used_make_room(unet: UNet) -> None:
    recorder = Recorder()
    pool = GraphPool(recorder, limit=2)

    def twice(n: int) -> None:
        for _ in range(2):
            pool.run(unet, *step(unet, n))

    twice(1)
    twice(2)
    twice(1)
    twice(3)  # in the place of 2
    assert (len(pool), recorder.recorded) == (2, 3)
    twice(1)
    assert recorder.recorded == 3
    twice(2)
    assert (len(pool), recorder.recorded) == (2, 4)


@torch.inference_mode()
def test_hooks_are_called_at_every_step(unet: UNet) -> None:
    pool, calls = GraphPool(Recorder()), list[int]()
    arguments = step(unet)
    pool.run(unet, *arguments)
    pool.run(unet, *arguments)
    with unet.middle_block[0].register_forward_hook(lambda *_: calls.append(1)):
        for _ in range(3):
            pool.run(unet, *arguments)
    assert len(calls) == 3
    pool.run(unet, *arguments)
    assert len(calls) == 3


@torch.inference_mode()
def test_other_weights_make_a_recording_of_their_own_and_changing_ones_none(unet: UNet) -> None:
    recorder = Recorder()
    pool = GraphPool(recorder)
    arguments = step(unet)
    layer = unet.out[2]
    assert isinstance(layer, nn.Conv2d)
    own, others = layer.weight, [nn.Parameter(torch.randn_like(layer.weight), False) for _ in range(4)]
    pool.run(unet, *arguments)
    pool.run(unet, *arguments)
    for other in others:  # a strength that changes at every step
        layer.weight = other
        assert torch.equal(pool.run(unet, *arguments), unet.run(*arguments))
    assert recorder.recorded == 1
    assert torch.equal(pool.run(unet, *arguments), unet.run(*arguments))  # one that stays
    assert recorder.recorded == 2
    layer.weight = own
    assert torch.equal(pool.run(unet, *arguments), unet.run(*arguments))
    assert (recorder.recorded, len(pool)) == (2, 2)


@torch.inference_mode()
def test_a_failed_recording_is_the_last_one_and_the_step_is_made(unet: UNet, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(fails=2)
    pool = GraphPool(recorder)
    for n in (1, 2, 3):
        arguments = step(unet, n)
        for _ in range(3):
            assert torch.equal(pool.run(unet, *arguments), unet.run(*arguments))
    assert recorder.recorded == 2
    assert len(pool) == 0
    assert "out of memory" in caplog.text


@torch.inference_mode()
def test_without_a_recorder_nothing_is_kept(unet: UNet) -> None:
    pool = GraphPool(None)
    arguments = step(unet)
    for _ in range(3):
        assert torch.equal(pool.run(unet, *arguments), unet.run(*arguments))
    assert len(pool) == 0


@torch.inference_mode()
@pytest.mark.parametrize("change", ["texts", "sides", "copies"])
def test_what_a_recording_cannot_serve_is_another_shape(unet: UNet, change: str) -> None:
    recorder = Recorder()
    pool = GraphPool(recorder)
    x, emb, text = step(unet, 2)
    longer = unet.text_keys(torch.randn(2, 7, 16))
    ways: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "texts": lambda: (pool.run(unet, x, emb, longer), unet.run(x, emb, longer)),
        "sides": lambda: (pool.run(unet, *step(unet, 2, side=6)), unet.run(*step(unet, 2, side=6))),
        "copies": lambda: (pool.run(unet, x[:1], emb, text, 2), unet.run(x[:1], emb, text, 2)),
    }
    for _ in range(2):
        pool.run(unet, x, emb, text)
    for _ in range(3):
        found, expected = ways[change]()
        assert torch.equal(found, expected)
    assert recorder.recorded == 2

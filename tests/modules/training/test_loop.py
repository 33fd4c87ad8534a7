from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from modules.training.config import Run
from modules.training.loop import Average, Trainer, learning_rate, load_average, source

RUN = Run(steps=12, batch=4, rate=0.05, warmup=3, ema=0.8, seed=1)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))


class SumLoss:
    """Learn the sum of three numbers."""

    def __init__(self, net: nn.Module):
        self.net = net

    def __call__(self, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
        x = torch.randn(4, 3, generator=generator)
        return {"loss": (self.net(x) - x.sum(dim=1, keepdim=True)).square().mean()}


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    whole = model()
    Trainer(whole, RUN, tmp_path / "whole.pt").train(SumLoss(whole))
    first = model()
    Trainer(first, RUN, tmp_path / "parts.pt").train(SumLoss(first), until=5)
    second = model()
    trainer = Trainer(second, RUN, tmp_path / "parts.pt")
    assert trainer.step == 5
    trainer.train(SumLoss(second))
    a = torch.load(tmp_path / "whole.pt", weights_only=True)
    b = torch.load(tmp_path / "parts.pt", weights_only=True)
    assert a["step"] == b["step"] == 12
    for x, y in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(x, y)
    for x, y in zip(a["average"], b["average"], strict=True):
        assert torch.equal(x, y)


def test_the_loss_falls(tmp_path: Path) -> None:
    net = model()
    loss = SumLoss(net)
    before = float(loss(source(9, 9), 0)["loss"].detach())
    Trainer(net, Run(steps=150, rate=0.03, warmup=5), tmp_path / "net.pt").train(loss)
    assert float(loss(source(9, 9), 0)["loss"].detach()) < 0.3 * before


def test_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    run = Run(steps=110, warmup=10, rate=1.0, final=0.1)
    assert learning_rate(run, 0) == pytest.approx(0.1)
    assert learning_rate(run, 10) == pytest.approx(1.0)
    assert learning_rate(run, 60) == pytest.approx(0.55)
    assert learning_rate(run, 110) == pytest.approx(0.1)


def test_until_the_decay_begins_the_length_of_a_run_does_not_matter() -> None:
    short, long = (Run(steps=steps, rate=1.0, warmup=10, final=0.0, decay=0.25) for steps in (80, 400))
    assert [learning_rate(short, step) for step in range(60)] == [learning_rate(long, step) for step in range(60)]
    assert learning_rate(short, 59) == 1.0
    assert learning_rate(short, 70) == pytest.approx(0.5)
    assert learning_rate(short, 80) == pytest.approx(0.0)


def test_the_average_is_a_geometric_sum() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    average = Average([parameter], decay=0.5)
    with torch.no_grad():
        parameter.fill_(1.0)
    for _ in range(3):
        average.update(step=1000)
    assert float(average.shadow[0]) == pytest.approx(1 - 0.5**3)


def test_averaged_weights_come_back_from_the_file(tmp_path: Path) -> None:
    net = model()
    trainer = Trainer(net, RUN, tmp_path / "net.pt")
    trainer.train(SumLoss(net))
    other = model()
    assert load_average(other, tmp_path / "net.pt") == 12
    for loaded, shadow in zip(other.parameters(), trainer.average.shadow, strict=True):
        assert torch.equal(loaded, shadow)


def test_a_missing_checkpoint_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m modules\.training"):
        load_average(model(), tmp_path / "none.pt")

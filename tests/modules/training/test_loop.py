from __future__ import annotations

import math
from collections.abc import Container, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from modules.training.config import Run
from modules.training.loop import (
    PATIENCE,
    Average,
    Clock,
    Trainer,
    compile_network,
    learning_rate,
    load_average,
    source,
)
from modules.training.progress import Progress

RUN = Run(steps=12, batch=4, rate=0.05, warmup=3, ema=0.8, seed=1)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))


class SumLoss:
    """Learn the sum of three numbers; in the steps of ``broken`` the loss is no number."""

    def __init__(self, network: nn.Module, broken: Container[int] = ()):
        self.network, self.broken = network, broken

    def __call__(self, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
        x = torch.randn(4, 3, generator=generator)
        loss = (self.network(x) - x.sum(dim=1, keepdim=True)).square().mean()
        return {"loss": loss * math.nan if step in self.broken else loss}


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


def test_steps_that_give_no_numbers_are_skipped_and_counted(tmp_path: Path) -> None:
    """The run with two broken steps is the run without them, with the same random numbers in all others."""
    net, other = model(), model()
    trainer = Trainer(net, RUN, tmp_path / "broken.pt")
    trainer.train(SumLoss(net, broken={3, 7}))
    assert (trainer.step, trainer.skipped) == (12, 2)
    by_hand = Trainer(other, RUN, tmp_path / "hand.pt")
    for step in (0, 1, 2, 4, 5, 6, 8, 9, 10, 11):
        by_hand.step = step
        by_hand.train(SumLoss(other), until=step + 1)
    for x, y in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(x, y)
    assert torch.load(tmp_path / "broken.pt", weights_only=True)["skipped"] == 2
    assert Trainer(model(), RUN, tmp_path / "broken.pt").skipped == 2


def test_the_last_good_weights_are_what_is_loaded(tmp_path: Path) -> None:
    net = model()
    trainer = Trainer(net, RUN, tmp_path / "net.pt")
    trainer.train(SumLoss(net), until=6)
    good = [shadow.clone() for shadow in trainer.average.shadow]
    with torch.no_grad():
        next(net.parameters()).fill_(math.inf)
    assert not trainer.save()
    kept = model()
    assert load_average(kept, tmp_path / "net.pt") == 6
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), good, strict=True))


def test_after_many_broken_steps_the_average_goes_on(tmp_path: Path) -> None:
    net = model()
    run = Run(steps=10 + PATIENCE, rate=0.05, warmup=3, ema=0.8, seed=1)
    trainer = Trainer(net, run, tmp_path / "net.pt")
    trainer.train(SumLoss(net, broken=range(10, 100)), until=9 + PATIENCE)
    assert not all(torch.equal(a, b) for a, b in zip(net.parameters(), trainer.average.shadow, strict=True))
    trainer.train(SumLoss(net, broken=range(10, 100)))
    assert trainer.skipped == PATIENCE
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), trainer.average.shadow, strict=True))


def test_the_clock_ends_a_run_and_lowers_its_rate() -> None:
    run, seconds = Run(steps=10, minutes=2, warmup=0, rate=1.0, final=0.0, decay=0.5), [0.0]
    clock = Clock(run, now=lambda: seconds[0])
    for second, part, rate in ((0, 0.0, 1.0), (60, 0.5, 1.0), (90, 0.75, 0.5), (120, 1.0, 0.0), (500, 1.0, 0.0)):
        seconds[0] = second
        assert clock.part(step=99) == pytest.approx(part)
        assert learning_rate(run, 99, clock.part(99)) == pytest.approx(rate)


def test_a_run_resumed_elsewhere_has_its_minutes_for_what_is_left() -> None:
    seconds = [1000.0]
    clock = Clock(Run(minutes=10), done=0.6, now=lambda: seconds[0])
    assert clock.part(0) == pytest.approx(0.6)
    seconds[0] += 300
    assert clock.part(0) == pytest.approx(0.8)
    seconds[0] += 300
    assert clock.part(0) == 1.0


def test_a_run_by_the_clock_stops_and_says_how_far_it_is(tmp_path: Path) -> None:
    net = model()
    trainer = Trainer(net, Run(minutes=0.002, batch=4), tmp_path / "net.pt")
    trainer.train(SumLoss(net))
    assert trainer.step > 0
    resumed = Trainer(model(), Run(minutes=0.002, batch=4), tmp_path / "net.pt")
    assert (resumed.step, resumed.part) == (trainer.step, 1.0)
    resumed.train(SumLoss(resumed.model))
    assert resumed.step == trainer.step  # nothing is left


def test_a_network_that_cannot_be_compiled_in_time_stays_as_it_is() -> None:
    net = model()
    loss = SumLoss(net)
    compile_network(loss, Run(compile_seconds=0))
    assert loss.network is net

    class Slow(SumLoss):
        def __call__(self, generator: torch.Generator, step: int) -> Mapping[str, Tensor]:
            while True:
                pass

    slow = Slow(net)
    compile_network(slow, Run(compile_seconds=0.05))
    assert slow.network is net


def test_compiling_is_on_the_runs_own_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(model(), Run(minutes=1), tmp_path / "net.pt")
    monkeypatch.setattr(trainer.clock, "now", lambda: trainer.clock.started + 90)
    trainer.train(SumLoss(trainer.model))
    assert (trainer.step, trainer.part) == (0, 1.0)


def test_progress_under_a_clock_knows_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    timed, counted = Progress("unet", None, every=0), Progress("vae", 10, every=0)
    timed.at(50, loss=0.5)
    counted.at(5, loss=0.5)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("unet 50 loss 0.5000") and first.endswith("/s")
    assert second.startswith("vae 5/10 loss 0.5000") and second.endswith("left")
    assert not Progress("unet", None, every=60).due(10**9) and Progress("vae", 10, every=60).due(10)

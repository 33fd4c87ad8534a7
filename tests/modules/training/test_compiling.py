from __future__ import annotations

import signal
import time

import pytest
import torch
from torch import nn

from modules.training.compiling import compiled, time_limit


def test_what_takes_too_long_is_interrupted_and_the_alarm_is_off_again() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeoutError, match=r"0\.05 seconds"), time_limit(0.05):
        while True:
            time.sleep(0.01)
    with time_limit(5):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_compiled_network_shares_its_weights_and_answers_the_same() -> None:
    net = nn.Linear(3, 2)
    faster = compiled(net, lambda network: network(torch.zeros(1, 3)).sum().backward(), 60, backend="eager")
    x = torch.randn(5, 3)
    assert faster is not net
    assert torch.equal(faster(x), net(x))
    with torch.no_grad():
        net.weight.fill_(2.0)
    assert torch.equal(faster(x), net(x))


def test_a_network_whose_compiling_fails_is_used_as_it_is() -> None:
    def fails(_network: nn.Module) -> None:
        raise RuntimeError("no compiler here")

    net = nn.Linear(3, 2)
    assert compiled(net, fails, 60) is net
    assert compiled(net, fails, 0) is net

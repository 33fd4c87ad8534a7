"""Compiling a network, if that does not take too long: of the ten minutes that a card is there, two may be too many."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch import nn

log = logging.getLogger(__name__)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises `TimeoutError` in the block when it takes longer. For the main thread of a process on POSIX."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def compiled(
    network: nn.Module, attempt: Callable[[nn.Module], object], seconds: float, backend: str = "inductor"
) -> nn.Module:
    """``network`` compiled, or as it is where that fails or its first use, ``attempt``, is not done in ``seconds``.

    The compiled one shares its weights with ``network``, which stays what is trained and saved.
    """
    if seconds <= 0:
        return network
    started = time.monotonic()
    try:
        with time_limit(seconds):
            faster: nn.Module = torch.compile(network, dynamic=False, backend=backend)  # type: ignore[assignment]
            attempt(faster)
    except (RuntimeError, OSError) as error:  # a compiler's errors are RuntimeErrors, the time limit's is an OSError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning("not compiled, which changes nothing but the speed: %s", reason)
        torch._dynamo.reset()
        return network
    log.info("compiled in %.0f s", time.monotonic() - started)
    return faster

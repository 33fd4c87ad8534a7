"""Progress of long runs: one line now and then, with speed and time left."""

from __future__ import annotations

import json
import time
from pathlib import Path


def clock(seconds: float) -> str:
    """
    >>> clock(3725)
    '1:02:05'
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class Progress:
    """``at(done)`` prints a line when ``every`` seconds have passed since the last one, and always at the end.

    Without a ``total`` something else, a clock, says when the end is.
    """

    def __init__(self, name: str, total: int | None, done: int = 0, every: float = 15.0, log: Path | None = None):
        self.name, self.total, self.every, self.log = name, total, every, log
        self.started = self.printed = time.monotonic()
        self.first = done

    def due(self, done: int) -> bool:
        """Whether `at` would print a line."""
        return time.monotonic() - self.printed >= self.every or (self.total is not None and done >= self.total)

    def at(self, done: int, unit: float = 1.0, **values: float) -> None:
        """``unit`` is how many samples one of ``done`` stands for; ``values`` are printed as they are."""
        if not self.due(done):
            return
        now = self.printed = time.monotonic()
        rate = (done - self.first) / max(now - self.started, 1e-9)
        of, left = ("", "") if self.total is None else (f"/{self.total}", self._left(done, rate))
        numbers = " ".join(f"{key} {value:.4f}" for key, value in values.items())
        print(f"{self.name} {done}{of} {numbers} {rate * unit:.1f}/s{left}", flush=True)
        if self.log is not None:
            record = {"time": time.time(), "step": done, "rate": rate * unit, **values}
            with self.log.open("a") as file:
                file.write(json.dumps(record) + "\n")

    def _left(self, done: int, rate: float) -> str:
        return f", {clock(((self.total or 0) - done) / max(rate, 1e-9))} left"

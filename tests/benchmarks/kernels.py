"""What exact kernels cost: beside fast ones, in turn, after the comparison that a new shape needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from modules.params.generation import GenerationParams
from tests.benchmarks.clock import interleaved
from tests.benchmarks.image import default_engine


def main() -> None:
    """128x128, 10 steps of Euler a, CFG 7, batches of 2, 4 and 8, interleaved."""
    engine = default_engine()
    print(engine.store.device.describe())
    for size in (2, 4, 8):
        params = GenerationParams(
            prompt="a red fox in the snow", steps=10, width=128, height=128, seed=1, subseed=0, batch_size=size
        )
        ways: dict[str, Callable[[], Any]] = {
            mode: partial(engine.run, params.changed(kernels=mode), lambda _: None) for mode in ("exact", "fast")
        }
        times = interleaved(ways, rounds=5)
        ratio = times["exact"] / times["fast"]
        print(f"batch of {size}: exact {times['exact']:.3f} s, fast {times['fast']:.3f} s, ratio {ratio:.3f}")

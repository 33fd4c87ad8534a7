"""What exact kernels cost: a batch whose images go through the network one by one, beside one that goes together."""

from __future__ import annotations

from modules.params import GenerationParams
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
        ways = {
            mode: lambda chosen=params.changed(kernels=mode): engine.run(chosen, on_result=lambda _: None)
            for mode in ("exact", "fast")
        }
        times = interleaved(ways, rounds=5)
        ratio = times["exact"] / times["fast"]
        print(f"batch of {size}: exact {times['exact']:.3f} s, fast {times['fast']:.3f} s, ratio {ratio:.3f}")

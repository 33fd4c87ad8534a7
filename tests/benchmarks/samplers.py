"""What each sampler costs beside the network: its arithmetic and its noise, as a share of an image's time."""

from __future__ import annotations

import statistics
import time

from modules import engine as engines
from modules.params.generation import GenerationParams
from modules.pipeline.cached_unet import CachedUNet
from tests.benchmarks.clock import Stopwatch
from tests.benchmarks.image import default_engine

STEPS = 20


def main() -> None:
    """128x128, 20 steps, CFG 7: medians of five images after one to warm up."""
    engine = default_engine()
    sampling, network = Stopwatch(), Stopwatch()
    sampling.wrap(engines, "generate")
    network.wrap(CachedUNet, "__call__")
    print(f"{engine.store.device.describe()}, seconds an image, share outside the network, milliseconds a step")
    for name in engine.host.samplers.names():
        params = GenerationParams(prompt="a red fox in the snow", sampler=name, steps=STEPS, width=128, height=128)
        totals, outside = [], []
        for seed in range(6):
            sampling.seconds = network.seconds = 0.0
            begin = time.perf_counter()
            engine.run(params.changed(seed=seed, subseed=0), on_result=lambda _: None)
            if seed:
                totals.append(time.perf_counter() - begin)
                outside.append(sampling.seconds - network.seconds)
        total, beside = statistics.median(totals), statistics.median(outside)
        print(f"{name:20} {total:6.3f} {beside / total:7.1%} {1000 * beside / STEPS:7.2f}")

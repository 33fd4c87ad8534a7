"""The default model: seconds an image, and the share of them spent outside its networks."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from modules.builtin import register
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.devices import choose
from modules.engine import Engine
from modules.extension.host import Host
from modules.params.generation import GenerationParams
from tests.benchmarks.clock import Stopwatch

ROOT = Path(__file__).parents[2]


def default_engine() -> Engine:
    """An engine with the default model on this machine's best device."""
    host = Host()
    register(host)
    store = ModelStore(ROOT / "models" / "Stable-diffusion", choose(), Hashes())
    return Engine(store, host, version="benchmark")


def main() -> None:
    """128x128, 20 steps of Euler a, CFG 7, previews off; medians after a warm-up."""
    engine = default_engine()
    params = GenerationParams(prompt="a red fox in the snow", sampler="Euler a", width=128, height=128, seed=1)
    model = engine.store.load()
    inside = Stopwatch()
    for name in ("run", "embed", "text_keys"):
        inside.wrap(model.unet, name)
    inside.wrap(model.vae, "decode")
    inside.wrap(model.text[0], "forward")
    totals, shares = [], []
    for run in range(10):
        inside.seconds = 0.0
        begin = time.perf_counter()
        engine.run(params.changed(seed=run), on_result=lambda _: None)
        total = time.perf_counter() - begin
        if run:
            totals.append(total)
            shares.append(1 - inside.seconds / total)
    device = engine.store.device.describe()
    print(f"{device}: {statistics.median(totals):.3f} s an image ({min(totals):.3f} to {max(totals):.3f})")
    print(f"outside the networks: {statistics.median(shares):.1%}")

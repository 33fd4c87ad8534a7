"""The promise, counted: pictures of mixed samplers, sizes and batches, made in one process and again in another."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from modules.builtin import SAMPLERS, register
from modules.checkpoints.files import Hashes
from modules.checkpoints.store import ModelStore
from modules.devices import choose
from modules.engine import Engine, Result
from modules.extension.host import Host
from modules.metadata.image_text import Encoding, encode
from modules.params.generation import GenerationParams
from modules.replay import replay

ROOT = Path(__file__).parents[2]
PICTURES = 100
SIDES = (64, 64, 96, 128)
SCHEDULES = ("Automatic", "Karras", "Exponential", "SGM Uniform")
FORMATS = ("png", "png", "jpg", "webp")


def main(pictures: int = PICTURES) -> None:
    """Prints how many of ``pictures`` are identical, and each one that is not."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        count = make(Path(folder), pictures)
        made = time.perf_counter()
        print(f"{count} pictures of {len(SAMPLERS)} samplers made in {made - begin:.0f} s", flush=True)
        # Another process, so that nothing is left over from the making.
        subprocess.run([sys.executable, "-m", "tests.benchmarks.replay", folder], cwd=ROOT, check=True)
        print(f"made again in {time.perf_counter() - made:.0f} s")


def engine() -> Engine:
    host = Host()
    register(host)
    return Engine(ModelStore(ROOT / "models" / "Stable-diffusion", choose(), Hashes()), host, version="benchmark")


def requests(seed: int = 0) -> list[GenerationParams]:
    """More than enough requests, the samplers in turn, all else by chance."""
    dice = random.Random(seed)
    return [
        GenerationParams(
            prompt=dice.choice(
                ("a red fox in the snow", "[a boat:a castle:0.5] at (night:1.3)", "two trees AND a moon")
            ),
            negative_prompt=dice.choice(("", "blurry")),
            sampler=SAMPLERS[i % len(SAMPLERS)].name,
            scheduler=dice.choice(SCHEDULES),
            steps=dice.randint(2, 4),
            cfg_scale=dice.choice((1.0, 4.5, 7.0)),
            width=dice.choice(SIDES),
            height=dice.choice(SIDES),
            seed=dice.randrange(2**32),
            subseed=dice.randrange(2**32),
            subseed_strength=dice.choice((0.0, 0.0, 0.3)),
            batch_size=dice.choice((1, 1, 1, 3)),
            batch_count=dice.choice((1, 1, 1, 2)),
            clip_skip=dice.choice((1, 2)),
            rng=dice.choice(("NV", "CPU")),
        )
        for i in range(10 * len(SAMPLERS))
    ]


def make(folder: Path, pictures: int) -> int:
    """Save one picture of each request, chosen by chance among its batches, until there are enough."""
    maker, dice = engine(), random.Random(1)
    for number, params in enumerate(requests()[:pictures]):
        results: list[Result] = []
        maker.run(params, results.append)
        result = dice.choice(results)
        kind = FORMATS[number % len(FORMATS)]
        path = folder / f"{number:03} {params.sampler.replace('/', ' ')} {params.width}x{params.height}.{kind}"
        path.write_bytes(encode(result.image, result.infotext, str(result.recipe), Encoding(kind))[0])
    return len(list(folder.iterdir()))


def again(folder: Path) -> None:
    maker = engine()
    verdicts = {path.name: replay(maker, path).verdict for path in sorted(folder.iterdir())}
    for name, verdict in verdicts.items():
        if verdict.kind != "identical":
            print(f"{name}: {verdict}")
    print(f"{sum(v.kind == 'identical' for v in verdicts.values())} of {len(verdicts)} identical", flush=True)


if __name__ == "__main__":
    again(Path(sys.argv[1]))

"""Memory: loading, switching between models, and what the autoencoder needs as a whole and in bands.

``REPRISE_FULL_SIZE=1`` in the environment loads an SDXL checkpoint of random weights at full size too, a file of 7 GB
that is written and deleted again.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import multiprocessing
import os
import struct
import sys
import tempfile
import time
from pathlib import Path

import torch

from modules.checkpoints.families.base import UNET
from modules.checkpoints.families.base import VAE as AUTOENCODER
from modules.checkpoints.families.sdxl import SDXL
from modules.checkpoints.files import Hashes
from modules.checkpoints.memory import find_budget
from modules.checkpoints.model import load, new_text
from modules.checkpoints.store import ModelStore
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import choose, peak_memory
from modules.nn.banded_vae import Banded
from modules.nn.configs import CLIP, OPEN_CLIP, TextConfig, VAEConfig
from modules.nn.unet import UNet
from modules.nn.vae import VAE
from tests.benchmarks import card
from tests.byte_limit import ByteLimit

SWITCHES = 50


def main() -> None:
    device = choose()
    print(f"{device.describe()}: {find_budget(device)}")
    switches()
    autoencoder()
    if os.environ.get("REPRISE_FULL_SIZE"):
        full_size()


def resident() -> int:
    """Resident bytes of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def switches() -> None:
    """Prints the time of a switch between two models that are kept, and how memory grows with the number of switches
    where only one is.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, model in enumerate("ab"):
            write_tiny_checkpoint(folder / f"{model}.safetensors", "sdxl", seed)
        for budget, what in ((None, "both kept"), (1, "one kept")):
            store = ModelStore(folder, choose("cpu"), Hashes(), default="a", budget=budget)
            for model in "abab":
                store.load(model)
            before, times = resident(), list[float]()
            for i in range(SWITCHES):
                begin = time.perf_counter()
                store.load("ab"[i % 2])
                times.append(time.perf_counter() - begin)
            gc.collect()
            slope = (resident() - before) / SWITCHES / 1e6
            longest = f"median {sorted(times)[SWITCHES // 2] * 1000:.1f} ms, longest {max(times) * 1000:.1f} ms"
            print(f"{SWITCHES} switches, {what}: {longest}, resident memory grew by {slope:.2f} MB a switch")


def autoencoder() -> None:
    """Prints the peak of SD's autoencoder at a quarter of its width, in units of one of its widest maps."""
    config = VAEConfig(channels=32, norm_groups=8)
    vae = VAE(config).eval()
    z = torch.randn(1, 4, 32, 32)
    unit = config.channels * (32 * config.factor) ** 2 * 4
    with torch.inference_mode():
        x = vae.decode(z)
        for name, coder in (("whole", vae), ("in bands", Banded(vae, torch.device("cpu"), 2**18))):
            with ByteLimit() as decoding:
                coder.decode(z)
            with ByteLimit() as encoding:
                coder.encode(x)
            print(f"VAE {name}: decoding {decoding.peak / unit:.1f} units, encoding {encoding.peak / unit:.1f} units")


def full_size() -> None:
    """Prints the peak of resident memory while SDXL is loaded in half precision, against the size of its file."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        path = Path(name) / "sdxl.safetensors"
        context = multiprocessing.get_context("spawn")
        for step in (_write, _load):
            process = context.Process(target=step, args=(str(path),))
            process.start()
            process.join()


def _write(path: str) -> None:
    texts = (
        TextConfig(layout=CLIP),
        TextConfig(1280, 32, 20, 5120, activation="gelu", layout=OPEN_CLIP, projection=1280),
    )
    with torch.device("meta"):
        parts = {UNET: UNet(card.SDXL), AUTOENCODER: VAE(VAEConfig())}
        for spec, config in zip(SDXL.encoders, texts, strict=True):
            parts[spec.prefixes[0]] = new_text(config)
    shapes = {prefix + key: tuple(t.shape) for prefix, part in parts.items() for key, t in part.state_dict().items()}
    header, end = dict[str, object](), 0
    for key, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    noise = torch.randn(2**22).mul(0.02).half().numpy().tobytes()
    with Path(path).open("wb") as file:  # piece by piece: the file is larger than what many machines have free
        file.write(struct.pack("<Q", len(raw)) + raw)
        for left in range(end, 0, -len(noise)):
            file.write(noise[: min(left, len(noise))])


def _load(path: str) -> None:
    # As in the worker: freed blocks are kept and used again.
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).mallopt(-1, 1 << 30)
    torch.zeros(1)
    before, size = resident(), Path(path).stat().st_size
    begin = time.perf_counter()
    model = load(Path(path), choose("cpu", "float16"))
    seconds, peak = time.perf_counter() - begin, peak_memory()
    print(
        f"SDXL, {size / 1e9:.2f} GB, loaded in {seconds:.1f} s: {model.nbytes / 1e9:.2f} GB of weights, "
        f"peak {peak / 1e9:.2f} GB = {peak / size:.3f} times the file, {(peak - before) / size:.3f} without the program"
    )

"""SD1.5 and SDXL at full size on a card, random weights: UNet steps and decoding, ours in every way beside diffusers'.

The most important rows come first, every row is guarded, and the clock is the script's own: what does not fit is left
out with a word. torch.compile works in processes of their own meanwhile; a lock keeps two from timing at once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from modules.devices import Device, choose
from modules.nn import fused
from modules.nn.configs import VAEConfig
from modules.nn.unet import UNet
from modules.nn.vae import VAE
from tests.benchmarks.card import (
    DIFFUSERS_SD15,
    DIFFUSERS_SDXL,
    ROOT,
    SD15,
    SDXL,
    Report,
    Step,
    alone,
    backend,
    diffusers_call,
    diffusers_unet,
    milliseconds,
    new,
    without_fusing,
)
from tests.benchmarks.compiled import collect, end, start_compiling

SECONDS = 150


MATMUL = "matmul 8192, {}"


def machine(report: Report, device: Device) -> None:
    """TFLOP/s of square matrix products, the measure of all shares."""
    compiled = fused.has_kernels(torch.empty(0, device=device.device))
    report.put("device", f"{device.describe()}, torch {torch.__version__}, kernels {compiled}")
    report.put("triton", "there" if importlib.util.find_spec("triton") else "missing")
    for dtype in (torch.float16, torch.bfloat16):
        a, b = (torch.randn(8192, 8192, device=device.device, dtype=dtype) for _ in range(2))
        taken = milliseconds({"": partial(torch.matmul, a, b)}, 20)[""]
        report.put(MATMUL.format(dtype), 2 * 8192**3 / taken / 1e9, "TFLOP/s")


def kernels(report: Report, device: Device) -> None:
    """Triton's forms against torch's in float32: the largest error, and the time beside the plain forms."""

    def put(name: str, error: Tensor, kernel: Callable[[], Any], plain: Callable[[], Any]) -> None:
        times = milliseconds({"kernel": kernel, "torch": plain}, 20)
        told = f"{times['kernel'] * 1e3:.0f} us (torch {times['torch'] * 1e3:.0f})"
        report.put(name, f"{told}, error={error.abs().max().item():.4f}")

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=device.device, dtype=device.dtype)

    def put_norm(b: int, c: int, side: int) -> None:
        x = device.place(torch.randn(b, c, side, side) * 2 + 1)
        norm = device.prepare(torch.nn.GroupNorm(32, c).to(device.device))
        exact = F.silu(F.group_norm(x.float(), 32, norm.weight.float(), norm.bias.float(), norm.eps))
        way = partial(fused.group_norm, norm, x, silu=True)
        put(f"GroupNorm+SiLU {b}x{c}x{side}x{side}", way().float() - exact, way, lambda: F.silu(norm(x)))

    for shape in ((2, 320, 64), (8, 320, 64), (16, 640, 32), (16, 1920, 16), (8, 1280, 8)):
        put_norm(*shape)
    x = random(8, 4096, 2560)
    value, gate = x.float().chunk(2, dim=-1)
    error = fused.geglu(x).float() - value * F.gelu(gate)
    put("GEGLU 8x4096x1280", error, lambda: fused.geglu(x), lambda: x.chunk(2, -1)[0] * F.gelu(x.chunk(2, -1)[1]))
    y, delta = random(8, 4096, 320), random(8, 4096, 320)
    layer = device.prepare(torch.nn.LayerNorm(320).to(device.device))
    error = fused.add_layer_norm(layer, y, delta)[1].float() - layer(y + delta).float()
    put("add+LayerNorm 8x4096x320", error, lambda: fused.add_layer_norm(layer, y, delta), lambda: layer(y + delta))


def flops(step: Step) -> float:
    """Floating-point operations of the plain way: of matrix products, convolutions and attention."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        step.plain()
    return float(counter.get_total_flops())


def unet_steps(report: Report, device: Device, unet: UNet, batch: int, side: int, rate: float, folder: Path) -> None:
    """One step in all our ways."""
    step = Step(unet, device, batch, side)
    work = flops(step)
    expected = step.plain()
    graph, plain_graph = step.recorded(), step.recorded_plain()
    ways = {
        "plain": step.plain,
        "fused": step.fused,
        "fused, shared": step.shared,
        "fused, shared, graph": graph,
        "plain, graph": plain_graph,
    }
    for name, way in ways.items():
        way(), way()
        error = ((way().float() - expected.float()).norm() / expected.float().norm()).item()
        if error:
            report.put(f"  {side * 8} batch {batch}, {name}: distance to plain", error)
    with alone(folder):
        times = milliseconds(ways)
    for name, taken in times.items():
        share = work / taken / 1e9 / rate
        report.put(f"UNet {side * 8} batch {batch}, {name}", taken, f"ms, {share:.0%} of the matmul rate")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step.shared()
    report.put(
        f"  {side * 8} batch {batch}: peak above the weights",
        (torch.cuda.max_memory_allocated() - before) / 2**20,
        "MiB",
    )


def variants(report: Report, device: Device, unet: UNet, batch: int, side: int, folder: Path) -> None:
    """Attention kernels, and convolutions chosen by trial, each as a graph."""
    step = Step(unet, device, batch, side)
    ways: dict[str, Callable[[], Tensor]] = {}
    for kind in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        ways[f"graph, {kind.name}"] = way = backend(kind, step.recorded())
        way(), way(), way()
    torch.backends.cudnn.benchmark = True
    step.shared()
    ways["graph, convolutions by trial"] = way = step.recorded()
    way(), way(), way()
    torch.backends.cudnn.benchmark = False
    with alone(folder):
        for name, taken in milliseconds(ways).items():
            report.put(f"UNet {side * 8} batch {batch}, {name}", taken, "ms")


def launches(report: Report, device: Device, unet: UNet, batch: int) -> None:
    """Kernels of a step, the share of the time that the card is busy, and what takes longest."""
    from torch.profiler import ProfilerActivity, profile

    step = Step(unet, device, batch, 64)
    for name, way in {"plain": step.plain, "fused, shared": step.shared, "graph": step.recorded()}.items():
        for _ in range(4):
            way()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
            for _ in range(3):
                way()
            torch.cuda.synchronize()
        events = [e for e in profiled.events() if "CUDA" in str(e.device_type)]
        busy = sum(e.time_range.elapsed_us() for e in events)
        span = max(e.time_range.end for e in events) - min(e.time_range.start for e in events)
        report.put(f"launches batch {batch}, {name}", f"{len(events) / 3:.0f} a step, busy {busy / span:.0%}")
        sums: dict[str, list[float]] = {}
        for e in events:
            sums.setdefault(e.name[:90], []).append(e.time_range.elapsed_us())
        for kernel, taken in sorted(sums.items(), key=lambda kv: -sum(kv[1]))[: 14 if name != "plain" else 8]:
            report.put(f"  {batch} {name}: {kernel}", f"{sum(taken) / busy:.1%} in {len(taken) / 3:.0f}")


def peers(
    report: Report, device: Device, config: Mapping[str, Any], side: int, batches: tuple[int, ...], folder: Path
) -> None:
    """diffusers as it stands, in the same format and layout."""
    peer = diffusers_unet(device, config)
    for batch in batches:
        call = diffusers_call(peer, device, batch, side)
        with alone(folder):
            report.put(f"UNet {side * 8} batch {batch}, diffusers", milliseconds({"": call})[""], "ms")


def decoding(report: Report, device: Device, folder: Path) -> None:
    """Four images of 512x512: one by one and together, ours and diffusers'."""
    ways = _decoders(device, device.place(torch.randn(4, 4, 64, 64)))
    expected = ways["plain, one by one"]().float()
    for name in list(ways)[1:4]:
        error = ((ways[name]().float() - expected).norm() / expected.norm()).item()
        report.put(f"  decode of 4, {name}: distance to plain", error)
    with alone(folder):
        times = milliseconds(ways, 5, 1)
    for name, taken in times.items():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ways[name]()
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20
        report.put(f"decode of 4, {name}", f"{taken:.1f} ms, {peak:.0f} MiB")


def _decoders(device: Device, z: Tensor) -> dict[str, Callable[[], Any]]:
    """What decodes the four latents ``z``: ours in four ways, and diffusers' where it is there."""
    vae = new(VAE, VAEConfig(), device)

    def one_by_one() -> Tensor:
        return torch.cat([vae.decode(z[i : i + 1]) for i in range(4)])

    def together() -> Tensor:
        out: Tensor = vae.decode(z)
        return out

    def plainly(way: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with without_fusing():
                return way()

        return run

    ways: dict[str, Callable[[], Any]] = {
        "plain, one by one": plainly(one_by_one),
        "plain, together": plainly(together),
        "fused, one by one": one_by_one,
        "fused, together": together,
    }
    with contextlib.suppress(ImportError):
        from diffusers import AutoencoderKL

        kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        sizes = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4}
        peer = new(AutoencoderKL, None, device, **kinds, **sizes)
        ways["diffusers, together"] = lambda: peer.decode(z, return_dict=False)[0]
    return ways


def attentions(report: Report, device: Device, folder: Path) -> None:
    """Attention kernels by shape, (batch, heads, queries, keys, width of a head)."""
    shapes = [
        (8, 8, 4096, 4096, 40),
        (8, 8, 1024, 1024, 80),
        (8, 8, 256, 256, 160),
        (8, 8, 4096, 77, 40),
        (8, 8, 1024, 77, 80),
        (2, 8, 4096, 4096, 40),
        (2, 10, 4096, 4096, 64),
        (2, 20, 1024, 1024, 64),
        (2, 20, 1024, 77, 64),
    ]
    kinds = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
    for b, heads, n, m, d in shapes:
        q, k, v = (
            torch.randn(b, rows, heads, d, device=device.device, dtype=device.dtype).transpose(1, 2)
            for rows in (n, m, m)
        )
        told = []
        for kind in kinds:

            def run(kind: SDPBackend = kind, q: Tensor = q, k: Tensor = k, v: Tensor = v) -> Tensor:
                with sdpa_kernel([kind]):
                    return F.scaled_dot_product_attention(q, k, v)

            try:
                told.append(f"{kind.name} {milliseconds({'': run}, 10)[''] * 1e3:.0f} us")
            except RuntimeError:
                told.append(f"{kind.name} cannot")
        report.put(f"attention {b}x{heads}x{n}x{m}x{d}", ", ".join(told))


def images(report: Report, device: Device, folder: Path) -> None:
    """Whole images through the engine, 20 steps of Euler a at 512x512, CFG 7: SD1.5's sizes, random weights."""
    from modules.builtin import register
    from modules.checkpoints.files import Hashes
    from modules.checkpoints.store import ModelStore
    from modules.engine import Engine
    from modules.extension.host import Host

    models, host, hashes = _random_model(device, folder / "models"), Host(), Hashes()
    register(host)
    pixels: dict[tuple[str, int], list[str]] = {}
    for name, on in (("graphs", device), ("no graphs", replace(device, graphs=False))):
        begin = time.perf_counter()
        engine = Engine(ModelStore(models, on, hashes, default="random"), host, version="benchmark")
        engine.store.load()
        report.put(f"load, {name}", time.perf_counter() - begin, "s")
        for batch in (1, 4, 8):
            pixels[name, batch], taken = _twice(engine, batch)
            told = f"s an image, first {taken[0]:.2f} s in all"
            report.put(f"image 512, batch {batch}, {name}", min(taken) / batch, told)
        engine.store.load().graphs.clear()
        del engine
        torch.cuda.empty_cache()
    for batch in (1, 4, 8):
        same = pixels["graphs", batch] == pixels["no graphs", batch]
        report.put(f"  same images with and without graphs, batch {batch}", same)
    report.put("  same image alone and in a batch", pixels["graphs", 1][0] == pixels["graphs", 4][0])


def _random_model(device: Device, models: Path) -> Path:
    """A models folder with a checkpoint of SD1.5's sizes."""
    from safetensors.torch import save_file

    from modules.nn.clip import CLIPText
    from modules.nn.configs import TextConfig

    prefixes = {
        "model.diffusion_model.": (UNet, SD15),
        "first_stage_model.": (VAE, VAEConfig()),
        "cond_stage_model.transformer.text_model.": (CLIPText, TextConfig()),
    }
    state: dict[str, Tensor] = {}
    for prefix, (network, config) in prefixes.items():
        made = new(network, config, replace(device, channels_last=False))
        state |= {prefix + key: tensor.cpu().contiguous() for key, tensor in made.state_dict().items()}
    models.mkdir()
    save_file(state, models / "random.safetensors")
    return models


def _twice(engine: Any, batch: int) -> tuple[list[str], list[float]]:
    """A batch made two times: hashes of its pixels, and the seconds of either."""
    from modules.params.generation import GenerationParams

    params = GenerationParams(prompt="a red fox in the snow", width=512, height=512, seed=1, subseed=0)
    taken, made = list[float](), list[Any]()
    for _ in range(2):
        made.clear()
        begin = time.perf_counter()
        engine.run(params.changed(sampler="Euler a", batch_size=batch), made.append)
        taken.append(time.perf_counter() - begin)
    return [result.recipe.pixels for result in made], taken


FIRST = """
import time
begin = time.perf_counter()
from tests.benchmarks.image import default_engine
engine = default_engine()
print(f"imported {time.perf_counter() - begin:.1f}", end=" ")
engine.warm_up()
print(f"warm {time.perf_counter() - begin:.1f}", end=" ")
from modules.params.generation import GenerationParams
params = GenerationParams(prompt="a red fox in the snow", sampler="Euler a", width=128, height=128, seed=1, subseed=0)
for _ in range(4):
    start = time.perf_counter()
    engine.run(params, lambda _: None)
    print(f"image {time.perf_counter() - start:.3f}", end=" ")
"""


def first_image(report: Report, device: Device) -> None:
    """The default model in a process of its own: import, warm-up, images."""
    done = subprocess.run([sys.executable, "-c", FIRST], cwd=ROOT, capture_output=True, text=True, timeout=report.left)
    report.put("default model, seconds", done.stdout.strip() or done.stderr[-300:])


def main(seconds: float = SECONDS, out: Path | None = None) -> None:
    """All parts, the most important ones first, within ``seconds``."""
    if not torch.cuda.is_available():
        print("there is no card that torch can use")
        return
    report, device = Report(seconds, out), choose("cuda", "float16")
    # A compiler that is ended may leave a file behind while its folder is being removed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, torch.inference_mode():
        folder = Path(name)
        children = start_compiling(folder)
        try:
            _parts(report, device, folder, children)
        finally:
            end(children)


def _parts(report: Report, device: Device, folder: Path, children: list[subprocess.Popen[bytes]]) -> None:
    report.part(machine, report, device)
    rate = report.rows.get(MATMUL.format(torch.float16), math.nan)
    report.part(kernels, report, device)
    unet = new(UNet, SD15, device)
    for batch in (4, 8, 1):
        report.part(unet_steps, report, device, unet, batch, 64, rate, folder)
    report.part(peers, report, device, DIFFUSERS_SD15, 64, (4, 8, 1), folder)
    report.part(decoding, report, device, folder)
    report.part(launches, report, device, unet, 4)
    report.part(launches, report, device, unet, 1)
    for batch in (4, 8, 1):
        report.part(variants, report, device, unet, batch, 64, folder)
    del unet
    report.part(images, report, device, folder, needs=25)
    report.part(attentions, report, device, folder)
    report.part(sdxl, report, device, rate, folder, needs=20)
    report.part(first_image, report, device, needs=20)
    report.part(collect, report, folder, children, needs=0)


def sdxl(report: Report, device: Device, rate: float, folder: Path) -> None:
    """SDXL at 1024x1024."""
    unet = new(UNet, SDXL, device)
    for batch in (1, 4):
        unet_steps(report, device, unet, batch, 128, rate, folder)
    del unet
    torch.cuda.empty_cache()
    peers(report, device, DIFFUSERS_SDXL, 128, (1, 4), folder)

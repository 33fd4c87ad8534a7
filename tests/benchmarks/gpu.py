"""SD1.5 and SDXL at full size on a card, random weights: UNet steps and decoding, ours in every way beside diffusers'.

The most important rows come first, every row is guarded, and the clock is the script's own: what does not fit is left
out with a word. torch.compile works in processes of their own meanwhile; a lock keeps two from timing at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from modules.devices import Device, choose
from modules.nn import fused
from modules.nn.configs import UNetConfig, VAEConfig
from modules.nn.graphs import GraphPool
from modules.nn.unet import UNet
from modules.nn.vae import VAE

ROOT = Path(__file__).parents[2]
SECONDS = 150
SD15 = UNetConfig()
SDXL = UNetConfig(
    channel_mult=(1, 2, 4),
    transformer_depth=(0, 2, 10),
    middle_depth=10,
    head_channels=64,
    context_dim=2048,
    linear_proj=True,
    vector_dim=2816,
)
DIFFUSERS_SD15: dict[str, Any] = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768}
DIFFUSERS_SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
COMPILED = (("diffusers", 4), ("diffusers", 8), ("diffusers", 1), ("ours", 4))


class Report:
    """Rows as they come: printed, and written as JSON after each, so that nothing is lost when time runs out."""

    def __init__(self, seconds: float, out: Path | None):
        self.rows: dict[str, Any] = {}
        self._end = time.monotonic() + seconds
        self._out = out

    @property
    def left(self) -> float:
        return self._end - time.monotonic()

    def put(self, name: str, value: Any, unit: str = "") -> None:
        shown = f"{value:.4g}" if isinstance(value, float) else value
        print(f"{name:<58} {shown} {unit}", flush=True)
        self.rows[name] = value
        if self._out:
            self._out.write_text(json.dumps(self.rows, indent=1))

    def part(self, function: Callable[..., None], *arguments: Any, needs: float = 5) -> None:
        """Run one part: a failure prints a line, and one that needs more seconds than are left is left out."""
        if self.left < needs:
            self.put(f"{function.__name__}", f"left out: {self.left:.0f} s left")
            return
        begin = time.monotonic()
        try:
            function(*arguments)
        except Exception as error:  # noqa: BLE001
            self.put(f"{function.__name__} FAILED", f"{type(error).__name__}: {str(error)[:300]}")
            print("".join(traceback.format_exception(error)[-4:]), flush=True)
        torch.cuda.empty_cache()
        print(f"-- {function.__name__} took {time.monotonic() - begin:.1f} s, {self.left:.0f} s left", flush=True)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """While this lasts, no other process of this run measures."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        torch.cuda.synchronize()
        yield


def milliseconds(ways: Mapping[str, Callable[[], Any]], rounds: int = 10, warm: int = 3) -> dict[str, float]:
    """Median milliseconds of each way by the card's clock, in turn."""
    for way in ways.values():
        for _ in range(warm):
            way()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            way()
            end.record()
            torch.cuda.synchronize()
            times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(taken) for name, taken in times.items()}


@contextlib.contextmanager
def without_fusing() -> Iterator[None]:
    """While this lasts, networks go through their layers one by one."""
    own, fused.suits = fused.suits, lambda x: False
    try:
        yield
    finally:
        fused.suits = own


class Step:
    """The conditional and unconditional evaluation of ``batch`` latents, in every way that we have."""

    def __init__(self, unet: UNet, device: Device, batch: int, side: int):
        self.unet, self.device = unet, device
        config = unet.config
        torch.manual_seed(0)
        self.x = device.place(torch.randn(batch, config.in_channels, side, side))
        self.both = self.x.repeat(2, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        rows = 2 * batch
        self.context = device.place(torch.randn(rows, 77, config.context_dim))
        y = device.place(torch.randn(rows, config.vector_dim)) if config.vector_dim else None
        emb = unet.embed(torch.full((1,), 500.0, device=device.device))
        self.emb = emb.expand(rows, -1) if y is None else emb + unet.label(y)
        self.text = unet.text_keys(self.context)
        self.shares = y is None

    def plain(self) -> Tensor:
        with without_fusing():
            return self.unet.run(self.both, self.emb, self.text)

    def fused(self) -> Tensor:
        return self.unet.run(self.both, self.emb, self.text)

    def shared(self) -> Tensor:
        if self.shares:
            return self.unet.run(self.x, self.emb, self.text, 2)
        return self.fused()

    def recorded(self, pool: GraphPool | None = None) -> Callable[[], Tensor]:
        """The shared way as a graph of its own."""
        pool = pool or GraphPool(self.device.recorder())
        copies = 2 if self.shares else 1
        x = self.x if self.shares else self.both
        return lambda: pool.run(self.unet, x, self.emb, self.text, copies)

    def recorded_plain(self) -> Callable[[], Tensor]:
        pool = GraphPool(self.device.recorder())

        def run() -> Tensor:
            with without_fusing():
                return pool.run(self.unet, self.both, self.emb, self.text)

        return run


def new(network: type[Any], config: Any, device: Device, **more: Any) -> Any:
    """A network with random weights, made on the card."""
    torch.manual_seed(0)
    with torch.device(device.device):
        made = network(config, **more) if config is not None else network(**more)
    return device.prepare(made.requires_grad_(False).eval())


def backend(kind: SDPBackend, way: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """``way`` with one kind of attention kernel, or another where that one cannot."""
    order = [kind, *(k for k in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION) if k != kind)]

    def run() -> Tensor:
        with sdpa_kernel([*order, SDPBackend.MATH], set_priority=True):
            return way()

    return run


def machine(report: Report, device: Device) -> float:
    """TFLOP/s of square matrix products, the measure of all shares."""
    import importlib.util

    triton = importlib.util.find_spec("triton")
    report.put("device", f"{device.describe()}, torch {torch.__version__}, kernels {fused.kernels is not None}")
    report.put("triton", "there" if triton else "missing")
    rates = {}
    for dtype in (torch.float16, torch.bfloat16):
        a, b = (torch.randn(8192, 8192, device=device.device, dtype=dtype) for _ in range(2))
        rates[dtype] = 2 * 8192**3 / milliseconds({"": lambda a=a, b=b: a @ b}, 20)[""] / 1e9
        report.put(f"matmul 8192, {dtype}", rates[dtype], "TFLOP/s")
    return rates[torch.float16]


def kernels(report: Report, device: Device) -> None:
    """Triton's forms against torch's in float32: the largest error, and the time beside the plain forms."""
    for b, c, side in ((2, 320, 64), (8, 320, 64), (16, 640, 32), (16, 1920, 16), (8, 1280, 8)):
        x = device.place(torch.randn(b, c, side, side) * 2 + 1)
        norm = device.prepare(torch.nn.GroupNorm(32, c).to(device.device))
        exact = F.silu(F.group_norm(x.float(), 32, norm.weight.float(), norm.bias.float(), norm.eps))
        error = (fused.group_norm(norm, x, silu=True).float() - exact).abs().max().item()
        ways: dict[str, Callable[[], Any]] = {
            "kernel": lambda norm=norm, x=x: fused.group_norm(norm, x, silu=True),
            "torch": lambda norm=norm, x=x: F.silu(norm(x)),
        }
        times = milliseconds(ways, 20)
        rate = 3 * x.nbytes / times["kernel"] / 1e6
        name = f"GroupNorm+SiLU {b}x{c}x{side}x{side}"
        report.put(
            name, f"{times['kernel'] * 1e3:.0f} us (torch {times['torch'] * 1e3:.0f}), {rate:.0f} GB/s, {error=:.4f}"
        )
    x = torch.randn(8, 4096, 2560, device=device.device, dtype=device.dtype)
    value, gate = x.float().chunk(2, dim=-1)
    error = (fused.geglu(x).float() - value * F.gelu(gate)).abs().max().item()
    ways = {"kernel": lambda: fused.geglu(x), "torch": lambda: x.chunk(2, -1)[0] * F.gelu(x.chunk(2, -1)[1])}
    times = milliseconds(ways, 20)
    report.put("GEGLU 8x4096x1280", f"{times['kernel'] * 1e3:.0f} us (torch {times['torch'] * 1e3:.0f}), {error=:.4f}")
    x, delta = (torch.randn(8, 4096, 320, device=device.device, dtype=device.dtype) for _ in range(2))
    layer = device.prepare(torch.nn.LayerNorm(320).to(device.device))
    ways = {"kernel": lambda: fused.add_layer_norm(layer, x, delta), "torch": lambda: layer(x + delta)}
    error = (fused.add_layer_norm(layer, x, delta)[1].float() - layer(x + delta).float()).abs().max().item()
    times = milliseconds(ways, 20)
    report.put(
        "add+LayerNorm 8x4096x320", f"{times['kernel'] * 1e3:.0f} us (torch {times['torch'] * 1e3:.0f}), {error=:.4f}"
    )


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
        events = [e for e in profiled.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        busy = sum(e.time_range.elapsed_us() for e in events)
        span = max(e.time_range.end for e in events) - min(e.time_range.start for e in events)
        report.put(f"launches batch {batch}, {name}", f"{len(events) / 3:.0f} a step, busy {busy / span:.0%}")
        sums: dict[str, list[float]] = {}
        for e in events:
            sums.setdefault(e.name[:90], []).append(e.time_range.elapsed_us())
        for kernel, taken in sorted(sums.items(), key=lambda kv: -sum(kv[1]))[: 14 if name != "plain" else 8]:
            report.put(f"  {batch} {name}: {kernel}", f"{sum(taken) / busy:.1%} in {len(taken) / 3:.0f}")


def diffusers_unet(device: Device, config: Mapping[str, Any]) -> Any:
    from diffusers import UNet2DConditionModel

    return new(UNet2DConditionModel, None, device, **config)


def diffusers_call(peer: Any, device: Device, batch: int, side: int) -> Callable[[], Any]:
    rows = 2 * batch
    x = device.place(torch.randn(rows, 4, side, side))
    context = device.place(torch.randn(rows, 77, peer.config.cross_attention_dim))
    t = torch.full((rows,), 500.0, device=device.device)
    more: dict[str, Any] = {}
    if peer.config.addition_embed_type:
        added = {
            "text_embeds": device.place(torch.randn(rows, 1280)),
            "time_ids": torch.ones(rows, 6, device=device.device),
        }
        more["added_cond_kwargs"] = added
    return lambda: peer(x, t, encoder_hidden_states=context, return_dict=False, **more)[0]


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
    vae = new(VAE, VAEConfig(), device)
    z = device.place(torch.randn(4, 4, 64, 64))

    def one_by_one() -> Tensor:
        return torch.cat([vae.decode(z[i : i + 1]) for i in range(4)])

    def plainly(way: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with without_fusing():
                return way()

        return run

    def together() -> Tensor:
        out: Tensor = vae.decode(z)
        return out

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
    expected = ways["plain, one by one"]()
    for name in list(ways)[1:4]:
        error = ((ways[name]().float() - expected.float()).norm() / expected.float().norm()).item()
        report.put(f"  decode of 4, {name}: distance to plain", error)
    with alone(folder):
        times = milliseconds(ways, 5, 1)
    for name, taken in times.items():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        ways[name]()
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20
        report.put(f"decode of 4, {name}", f"{taken:.1f} ms, {peak:.0f} MiB")


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
    from safetensors.torch import save_file

    from modules.builtin import register
    from modules.checkpoints.files import Hashes
    from modules.checkpoints.store import ModelStore
    from modules.engine import Engine
    from modules.extension.host import Host
    from modules.nn.clip import CLIPText
    from modules.nn.configs import TextConfig
    from modules.params.generation import GenerationParams

    prefixes = {
        "model.diffusion_model.": (UNet, SD15),
        "first_stage_model.": (VAE, VAEConfig()),
        "cond_stage_model.transformer.text_model.": (CLIPText, TextConfig()),
    }
    state = {}
    for prefix, (network, config) in prefixes.items():
        made = new(network, config, replace(device, channels_last=False))
        state |= {prefix + key: tensor.cpu().contiguous() for key, tensor in made.state_dict().items()}
    models = folder / "models"
    models.mkdir()
    save_file(state, models / "random.safetensors")
    del state, made
    host = Host()
    register(host)
    pixels, hashes = {}, Hashes()
    for name, on in (("graphs", device), ("no graphs", replace(device, graphs=False))):
        begin = time.perf_counter()
        engine = Engine(ModelStore(models, on, hashes, default="random"), host, version="benchmark")
        engine.store.load()
        report.put(f"load, {name}", time.perf_counter() - begin, "s")
        for batch in (1, 4, 8):
            params = GenerationParams(
                prompt="a red fox in the snow",
                sampler="Euler a",
                width=512,
                height=512,
                seed=1,
                subseed=0,
                batch_size=batch,
            )
            taken = []
            for _ in range(2):
                made_images: list[Any] = []
                begin = time.perf_counter()
                engine.run(params, made_images.append)
                taken.append(time.perf_counter() - begin)
            pixels[name, batch] = [result.recipe.pixels for result in made_images]
            report.put(
                f"image 512, batch {batch}, {name}", min(taken) / batch, f"s an image, first {taken[0]:.2f} s in all"
            )
        engine.store.load().graphs.clear()
        del engine
        torch.cuda.empty_cache()
    for batch in (1, 4, 8):
        same = pixels["graphs", batch] == pixels["no graphs", batch]
        report.put(f"  same images with and without graphs, batch {batch}", same)
    report.put("  same image alone and in a batch", pixels["graphs", 1][0] == pixels["graphs", 4][0])


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


def compiled(kind: str, batch: int, folder: Path) -> None:
    """One network through torch.compile, in this process: milliseconds, and those of its graph, into a file."""
    device = choose("cuda", "float16")
    begin = time.monotonic()
    with torch.no_grad():
        if kind == "diffusers":
            call = diffusers_call(torch.compile(diffusers_unet(device, DIFFUSERS_SD15)), device, batch, 64)
        else:
            unet = new(UNet, SD15, device)
            step = Step(unet, device, batch, 64)
            run = torch.compile(unet.run)
            call = lambda: run(step.x, step.emb, step.text, 2)  # noqa: E731
        call(), call()
        torch.cuda.synchronize()
        rows = {f"UNet 512 batch {batch}, {kind}, compiled: ready after": time.monotonic() - begin}
        with alone(folder):
            rows[f"UNet 512 batch {batch}, {kind}, compiled"] = milliseconds({"": call})[""]
            with contextlib.suppress(Exception):
                replay = device.recorder()(call)  # type: ignore[misc]
                rows[f"UNet 512 batch {batch}, {kind}, compiled, graph"] = milliseconds({"": replay})[""]
    (folder / f"{kind}-{batch}.json").write_text(json.dumps(rows))


def start_compiling(folder: Path) -> list[subprocess.Popen[bytes]]:
    threads = str(max((os.cpu_count() or 4) // len(COMPILED) - 1, 1))
    started = []
    for kind, batch in COMPILED:
        own = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": threads, "OMP_NUM_THREADS": "1"}
        own["TORCHINDUCTOR_CACHE_DIR"] = str(folder / f"inductor-{kind}-{batch}")
        command = [sys.executable, "-m", "tests.benchmarks.gpu", kind, str(batch), str(folder)]
        log = (folder / f"{kind}-{batch}.log").open("wb")
        started.append(subprocess.Popen(command, cwd=ROOT, env=own, stdout=log, stderr=log))
    return started


def collect(report: Report, folder: Path, children: list[subprocess.Popen[bytes]]) -> None:
    """Wait for what is being compiled while there is time."""
    while report.left > 3 and any(child.poll() is None for child in children):
        time.sleep(0.2)
    for (kind, batch), child in zip(COMPILED, children, strict=True):
        path = folder / f"{kind}-{batch}.json"
        if path.exists():
            for name, value in json.loads(path.read_text()).items():
                report.put(name, value, "s" if "ready" in name else "ms")
            continue
        if child.poll() is None:
            child.kill()
        last = (folder / f"{kind}-{batch}.log").read_text(errors="replace").strip()[-300:]
        report.put(f"UNet 512 batch {batch}, {kind}, compiled", f"not ready in time: {last}")


def main(seconds: float = SECONDS, out: Path | None = None) -> None:
    """All parts, the most important ones first, within ``seconds``."""
    if not torch.cuda.is_available():
        print("there is no card that torch can use")
        return
    report, device = Report(seconds, out), choose("cuda", "float16")
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        children = start_compiling(folder)
        try:
            _parts(report, device, folder, children)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                child.wait()


def _parts(report: Report, device: Device, folder: Path, children: list[subprocess.Popen[bytes]]) -> None:
    rates: list[float] = []
    report.part(lambda *_: rates.append(machine(report, device)), report)
    rate = rates[0] if rates else 800.0
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


if __name__ == "__main__":
    compiled(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))

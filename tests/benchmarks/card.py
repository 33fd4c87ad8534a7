"""What the parts of the `gpu` benchmark share: rows as they come, the card's clock, networks of full size."""

from __future__ import annotations

import contextlib
import fcntl
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from modules.devices import Device
from modules.nn import fused
from modules.nn.configs import UNetConfig
from modules.nn.graphs import GraphPool
from modules.nn.unet import UNet

ROOT = Path(__file__).parents[2]
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
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
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

"""Devices, number formats and memory: where networks run and how their weights are prepared. The only file that says
"cuda".
"""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from modules import machine
from modules.errors import UserError

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Device:
    """A compute device. ``dtype`` is that of the networks; latents, sigmas and guidance are float32 everywhere."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool = True

    @property
    def kind(self) -> str:
        return self.device.type

    @property
    def kernels(self) -> str:
        """What kernels "auto" means on this device: "exact" where that costs nothing.

        In bfloat16 on a CPU a batch of the default model is, byte for byte, its images one by one, so they go together
        either way. In float32 they have to go one by one, which takes 1.4 times as long in batches of 4 at 128x128.
        """
        return "exact" if self.kind == "cpu" and self.dtype == torch.bfloat16 else "fast"

    @property
    def is_card(self) -> bool:
        """Whether it has weights elsewhere than in main memory, or in a part of it that is its own."""
        return self.kind != "cpu"

    @property
    def name(self) -> str:
        if self.kind in ("cuda", "xpu"):
            return str(torch.get_device_module(self.device).get_device_name(self.device))
        return {"cpu": "CPU", "mps": "Apple GPU"}.get(self.kind, self.kind)

    def describe(self) -> str:
        return f"{self.name}, {str(self.dtype).removeprefix('torch.')}"

    def processor(self) -> str:
        """What an image may depend on besides torch: the GPU, or the CPU's instruction set and number of threads, and
        whether kernels are deterministic.
        """
        sure = ", deterministic kernels" if torch.are_deterministic_algorithms_enabled() else ""
        if self.is_card:
            return self.name + sure
        units = " with AMX" if torch.cpu.get_capabilities().get("amx_bf16") else ""
        threads = torch.get_num_threads()
        return f"{torch.backends.cpu.get_cpu_capability()}{units}, {threads} thread{'s' if threads > 1 else ''}{sure}"

    def memory(self) -> tuple[int, int]:
        """Bytes that are available to us now, and all; zeros where nobody tells. What torch holds and does not use
        counts as available.
        """
        if not self.is_card:
            found = machine.ram()
            return found.available, found.total
        if self.kind == "mps":
            total = int(torch.mps.recommended_max_memory())
            return max(total - int(torch.mps.current_allocated_memory()), 0), total
        free, total = torch.accelerator.get_memory_info(self.device)
        unused = torch.accelerator.memory_reserved(self.device) - torch.accelerator.memory_allocated(self.device)
        return int(free) + unused, int(total)

    def release(self) -> None:
        """Give back what torch holds of the card's memory and does not use."""
        gc.collect()
        if self.is_card:
            torch.accelerator.empty_cache()

    def place(self, x: Tensor) -> Tensor:
        """An activation (b, c, h, w) moved, cast and laid out for a network's input."""
        if x.dim() == 4 and self.channels_last:
            return x.to(self.device, self.dtype, memory_format=torch.channels_last)
        return x.to(self.device, self.dtype)

    def weight(self, tensor: Tensor, place: torch.device | None = None) -> Tensor:
        """A weight as the network stores it: always a copy, so that nothing refers to the file any more. ``place``:
        where, if not on this device.
        """
        layout = torch.channels_last if tensor.dim() == 4 and self.channels_last else torch.contiguous_format
        return tensor.to(place or self.device, self.dtype, copy=True, memory_format=layout)

    def prepare(self, module: M) -> M:
        """Convert the weights and buffers of ``module`` as `weight` does."""
        module = module.to(self.device, self.dtype)
        for parameter in module.parameters() if self.channels_last else ():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return module


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


KINDS = ("auto", "cpu", "cuda", "mps", "xpu")
"""What ``--device`` takes: NVIDIA's and AMD's cards are both "cuda" to torch, Apple's "mps", Intel's "xpu"."""


def choose(name: str = "auto", dtype: str = "auto", number: int | None = None) -> Device:
    """The device to run on: "auto" takes a card if there is one that torch can use. ``number``: which of several."""
    if name not in KINDS:
        raise UserError(f"no device named {name!r}", hint=f"there are {', '.join(KINDS)}", field="device")
    if dtype not in ("auto", *DTYPES):
        raise UserError(f"no number type {dtype!r}", hint=f"there are auto, {', '.join(DTYPES)}", field="dtype")
    device = _device(name, number)
    chosen = DTYPES[dtype] if dtype != "auto" else _best_dtype(device)
    return Device(device, chosen, channels_last=device.type != "mps")


def _device(name: str, number: int | None) -> torch.device:
    found = torch.accelerator.current_accelerator(check_available=True)
    kind = found.type if found is not None and name == "auto" else name
    if kind in ("auto", "cpu") and number is None:
        return torch.device("cpu")
    if found is None or found.type != kind:
        what = {"cuda": "CUDA card", "xpu": "Intel card", "mps": "Apple GPU"}.get(kind, "card")
        raise UserError(
            f"this machine has no {what} that torch can use",
            hint="start with --device cpu; python3 app.py doctor says what was found",
            field="device",
        )
    count = torch.accelerator.device_count()
    if number is not None and not 0 <= number < count:
        there = "0" if count == 1 else f"0 to {count - 1}"
        raise UserError(f"there is no card number {number}", hint=f"there is {there}", field="device_id")
    return torch.device(kind, number or 0)


def make_deterministic() -> None:
    """Use kernels alone that give the same bits at every call, which can be slower. Before a card is first used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def _best_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type in ("mps", "xpu"):
        return torch.float16 if device.type == "mps" else torch.bfloat16
    able = torch.cpu.get_capabilities()
    # Without matrix units bfloat16 is emulated and slower than float32.
    return torch.bfloat16 if able.get("amx_bf16") or able.get("avx512_bf16") else torch.float32


def peak_memory() -> int:
    """Peak resident memory of this process in bytes; 0 where the system does not report it."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0

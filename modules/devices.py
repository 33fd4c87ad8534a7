"""Devices, number formats and memory: where networks run and how their weights are prepared. The only file that says
"cuda".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

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

    def describe(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.kind == "cuda" else "CPU"
        return f"{name}, {str(self.dtype).removeprefix('torch.')}"

    def processor(self) -> str:
        """What an image may depend on besides torch: the GPU, or the CPU's instruction set and number of threads."""
        if self.kind == "cuda":
            return str(torch.cuda.get_device_name(self.device))
        units = " with AMX" if torch.cpu.get_capabilities().get("amx_bf16") else ""
        threads = torch.get_num_threads()
        return f"{torch.backends.cpu.get_cpu_capability()}{units}, {threads} thread{'s' if threads > 1 else ''}"

    def place(self, x: Tensor) -> Tensor:
        """An activation (b, c, h, w) moved, cast and laid out for a network's input."""
        if x.dim() == 4 and self.channels_last:
            return x.to(self.device, self.dtype, memory_format=torch.channels_last)
        return x.to(self.device, self.dtype)

    def weight(self, tensor: Tensor) -> Tensor:
        """A weight as the network stores it: always a copy, so that nothing refers to the file any more."""
        layout = torch.channels_last if tensor.dim() == 4 and self.channels_last else torch.contiguous_format
        return tensor.to(self.device, self.dtype, copy=True, memory_format=layout)

    def prepare(self, module: M) -> M:
        """Convert the weights and buffers of ``module`` as `weight` does."""
        module = module.to(self.device, self.dtype)
        for parameter in module.parameters() if self.channels_last else ():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return module


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose(name: str = "auto", dtype: str = "auto") -> Device:
    """The device to run on: "auto" takes a CUDA GPU if there is one."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"no device named {name!r}", hint="there are auto, cpu and cuda", field="device")
    if dtype not in ("auto", *DTYPES):
        raise UserError(f"no number type {dtype!r}", hint=f"there are auto, {', '.join(DTYPES)}", field="dtype")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("this machine has no CUDA card that torch can use", hint="start with --device cpu")
    on_card = torch.cuda.is_available() if name == "auto" else name == "cuda"
    device = torch.device("cuda", 0) if on_card else torch.device("cpu")
    chosen = DTYPES[dtype] if dtype != "auto" else _best_dtype(device)
    return Device(device, chosen)


def _best_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
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

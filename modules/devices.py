"""Devices, number formats and memory: where networks run and how their weights are prepared. The only file that says
"cuda".
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from modules import machine
from modules.errors import UserError

M = TypeVar("M", bound=nn.Module)
_THREADS = re.compile(r", (\d+) threads?\b")


@contextlib.contextmanager
def threads_of(processor: str) -> Iterator[None]:
    """Within it a CPU computes with as many threads as a recipe's ``processor`` names, because the number of threads
    decides where sums are cut and rounded. Up to four for each core here; beyond, all would wait for each other.
    """
    named, now = _THREADS.search(processor), torch.get_num_threads()
    then = int(named[1]) if named else now
    if then == now or not 0 < then <= 4 * (os.cpu_count() or 1):
        yield
        return
    torch.set_num_threads(then)
    try:
        yield
    finally:
        torch.set_num_threads(now)


@dataclass(frozen=True)
class Device:
    """A compute device. ``dtype`` is that of the networks; latents, sigmas and guidance are float32 everywhere."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool = True
    graphs: bool = False
    """UNet steps are recorded and replayed. It changes no image."""
    shares_prefix: bool = False
    """What all prompts of a step have in common is computed once, in a batch of another size: equal up to rounding."""

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
            return in_main_memory()
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

    def recorder(self) -> Callable[[Callable[[], Tensor]], Callable[[], Tensor]] | None:
        """Makes a function on this device that repeats what another did there; None where that is impossible."""
        return CudaGraphs() if self.graphs else None

    @property
    def gains_by_company(self) -> bool:
        """Whether several images decoded together take less time than one by one. On a processor they do not."""
        return self.kind != "cpu"

    def fits(self, nbytes: int, most: int) -> int:
        """How many things of ``nbytes`` each, 1 to ``most``, the device has room for now."""
        if not self.is_card:
            return most
        return max(1, min(most, int(self.memory()[0] * 0.8) // nbytes))

    def snapshot(self, x: Tensor) -> Snapshot:
        """A copy of ``x`` on the processor, for which nothing on the card has to wait."""
        return Snapshot(x)

    def wider(self) -> Device | None:
        """This device with a number format that holds larger numbers; None: there is none to try."""
        if self.dtype != torch.float16:
            return None
        return replace(self, dtype=torch.bfloat16 if self.kind == "cpu" or _has_bfloat16() else torch.float32)

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


class Snapshot:
    """A tensor on its way to the processor, which goes on working meanwhile."""

    def __init__(self, x: Tensor):
        self._arrived: torch.cuda.Event | None = None
        if x.device.type != "cuda":
            self._copy = x
            return
        self._copy = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
        self._copy.copy_(x, non_blocking=True)
        self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._arrived.record()

    @property
    def arrived(self) -> bool:
        """Whether `get` would wait for nothing."""
        return self._arrived is None or bool(self._arrived.query())  # type: ignore[no-untyped-call]

    def get(self) -> Tensor:
        """The copy, once it has arrived; what was queued on the card before it is then finished too."""
        if self._arrived:
            self._arrived.synchronize()
        return self._copy


class CudaGraphs:
    """Records work on a card. All recordings share one pool of memory, since no two of them run at once."""

    def __init__(self) -> None:
        self._pool: object | None = None

    def __call__(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # once before, so that nothing is set up for the first time while recording
            function()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):  # type: ignore[arg-type, unused-ignore]
            out = function()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STORED_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "BOOL": torch.bool,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
"""What files hold, by safetensors' names."""


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor of any number format holds numbers alone: damage and training that diverged leave NaN behind."""
    if not tensor.is_floating_point():
        return True
    return bool(torch.isfinite(tensor if tensor.element_size() > 1 else tensor.float()).all())


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
    on_card = device.type == "cuda"
    return Device(device, chosen, channels_last=device.type != "mps", graphs=on_card, shares_prefix=on_card)


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


def in_main_memory() -> tuple[int, int]:
    """Bytes of main memory that are available now, and all that this process may use; zeros where nobody tells."""
    found = machine.ram()
    return found.available, found.total


def make_deterministic() -> None:
    """Use kernels alone that give the same bits at every call, which can be slower. Before a card is first used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def _best_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        # On an H100 as fast as bfloat16 and eight times nearer to float32: 0.06 against 0.49 levels a pixel. Models
        # whose numbers leave its range are loaded again in a wider format.
        return torch.float16
    if device.type in ("mps", "xpu"):
        return torch.float16 if device.type == "mps" else torch.bfloat16
    able = torch.cpu.get_capabilities()
    # Without matrix units bfloat16 is emulated and slower than float32.
    return torch.bfloat16 if able.get("amx_bf16") or able.get("avx512_bf16") else torch.float32


def _has_bfloat16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def held_memory() -> int:
    """Memory in bytes that this process holds now: resident, and on cards. 0 where the system does not report it."""
    held = 0
    with contextlib.suppress(OSError, ValueError):
        held = int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    initialized: Callable[[], bool] = torch.cuda.is_initialized
    return held + (torch.cuda.memory_allocated() if initialized() else 0)


def peak_memory() -> int:
    """Peak resident memory of this process in bytes; 0 where the system does not report it."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0

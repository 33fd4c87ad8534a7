"""The loop that every stage shares: AdamW, warm-up and cosine decay, EMA, checkpoints to the step, processes.

Everything random in step ``n`` comes from a generator seeded with (stage seed, n, process): a run by steps that is
stopped and resumed is the run that was never stopped, bit for bit. A run by the clock can go on on any machine: its
file says how much of it is done, and what is left gets the minutes that are there.

A step whose gradient is no number is skipped and counted, so that neither weights nor their average ever take part in
it; and a file with such weights is never written over a good one.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from modules.devices import choose
from modules.training.compiling import compiled
from modules.training.config import Run
from modules.training.progress import Progress

log = logging.getLogger(__name__)

PATIENCE = 25
"""So many skipped steps in a row are no accident."""
Loss = Callable[[torch.Generator, int], Mapping[str, Tensor]]
"""(random source, step) -> named scalars; ``loss`` is the one that is minimised."""


def device() -> torch.device:
    """A CUDA card where there is one."""
    return choose().device


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 for the block, unless this machine only emulates it, which is slower than float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=choose().dtype != torch.float32)


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def source(seed: int, step: int, rank: int = 0, device: torch.device | None = None) -> torch.Generator:
    """The random numbers of one step in one process, drawn on ``device``."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    return torch.Generator(device or "cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def learning_rate(run: Run, step: int, part: float | None = None) -> float:
    """Linear warm-up, then ``rate``; over the last ``decay`` of the run it falls to ``final * rate`` along a cosine.

    With ``decay`` 1 the schedule of Loshchilov & Hutter (2017), arXiv:1608.03983; below 1 that of Hagele et al. (2024),
    arXiv:2405.18392, under which the length of a run need not be known before the decay begins. ``part`` is how much of
    the run is done, 0..1, where the clock and not the number of steps decides.
    """
    if step < run.warmup:
        return run.rate * (step + 1) / run.warmup
    if part is None:
        start = max(run.warmup, run.steps * (1 - run.decay))
        t = (step - start) / max(1, run.steps - start)
    else:
        t = (part - (1 - run.decay)) / max(run.decay, 1e-9)
    return run.rate * (run.final + (1 - run.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, t)))))


class Average:
    """Exponential moving average of parameters; a short memory at first, then ``decay``."""

    def __init__(self, params: list[nn.Parameter], decay: float):
        self.params, self.decay = params, decay
        self.shadow = [p.detach().clone() for p in params]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, list(self.params), 1 - decay)


def _synchronise(params: list[nn.Parameter]) -> None:
    """Replace gradients by their mean over the processes."""
    if not dist.is_initialized():
        return
    grads = [p.grad for p in params if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = torch.split(flat, [g.numel() for g in grads])
    torch._foreach_copy_(grads, [part.view_as(g) for part, g in zip(parts, grads, strict=True)])


class Clock:
    """How much of a run is done, 0..1: by its steps, or by the minutes that what is left of it may take."""

    def __init__(self, run: Run, done: float = 0.0, now: Callable[[], float] = time.monotonic):
        self.run, self.done, self.now = run, done, now
        self.started = now()

    def part(self, step: int) -> float:
        if not self.run.minutes:
            return step / max(1, self.run.steps)
        left = (self.now() - self.started) / (60 * self.run.minutes)
        return min(1.0, self.done + (1 - self.done) * left)


class Trainer:
    """One stage: ``model`` learns under ``loss`` to the end of ``run``, with its state in ``path``.

    ``rates`` are factors of the learning rate, by the beginning of a parameter's name.
    """

    def __init__(self, model: nn.Module, run: Run, path: Path, rates: Mapping[str, float] | None = None):
        self.model, self.run, self.path = model, run, path
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.params = list(named.values())
        self.optimizer = torch.optim.AdamW(
            _groups(named, rates or {}), lr=run.rate, betas=run.betas, weight_decay=run.weight_decay, fused=True
        )
        self.average = Average(self.params, run.ema)
        self.step = self.skipped = self._missed = 0
        self.rank, self.world = rank_and_world()
        self.part = self._load() if path.is_file() else 0.0
        self.clock = Clock(run, self.part)  # runs from here on: compiling is on its time

    def train(self, loss: Loss, until: int | None = None) -> None:
        """To step ``until``, or to the end of the run."""
        end = self.run.steps if until is None else min(until, self.run.steps)
        total = None if self.run.minutes else end
        progress = Progress(self.path.stem, total, self.step, log=self.path.with_suffix(".jsonl"))
        saved = time.monotonic()
        while self._goes_on(until):
            values = self._advance(loss)
            if self.rank == 0:
                if progress.due(self.step):
                    shown = {key: float(value.detach()) for key, value in values.items()}
                    progress.at(self.step, self.run.batch * self.world, skipped=self.skipped, **shown)
                if time.monotonic() - saved > 60 * self.run.save_minutes:
                    self.save()
                    saved = time.monotonic()
        if self.rank == 0:
            self.save()
        if dist.is_initialized():
            dist.barrier()

    def _goes_on(self, until: int | None) -> bool:
        """Whether there is another step; all processes hear it from the first, for their clocks may differ."""
        self.part = self.clock.part(self.step)
        if dist.is_initialized() and self.run.minutes:
            told = torch.tensor([self.part], dtype=torch.float64)
            dist.broadcast(told, 0)
            self.part = float(told)
        return self.part < 1 and (until is None or self.step < until)

    def _advance(self, loss: Loss) -> Mapping[str, Tensor]:
        rate = learning_rate(self.run, self.step, self.part if self.run.minutes else None)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        values = loss(source(self.run.seed, self.step, self.rank, self.params[0].device), self.step)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(values["loss"])
        _synchronise(self.params)
        norm = torch.nn.utils.clip_grad_norm_(self.params, self.run.clip)
        if bool(torch.isfinite(norm)):
            self.optimizer.step()
            self.average.update(self.step)
            self._missed = 0
        else:
            self._skip()
        self.step += 1
        return values

    def _skip(self) -> None:
        """No step; after `PATIENCE` of them in a row the averaged weights and a fresh optimizer go on."""
        self.skipped += 1
        self._missed += 1
        if self._missed % PATIENCE == 0:
            with torch.no_grad():
                torch._foreach_copy_(list[Tensor](self.params), self.average.shadow)
            self.optimizer.state.clear()

    def save(self) -> bool:
        """Everything a resumed run needs, in one move; not if a weight is no number: what was good before stays."""
        if not all(bool(torch.isfinite(value).all()) for value in (*self.params, *self.average.shadow)):
            log.warning("%s keeps its last good weights: those of step %d are no numbers", self.path, self.step)
            return False
        state = {
            "step": self.step,
            "part": self.part,
            "skipped": self.skipped,
            "model": self.model.state_dict(),
            "average": self.average.shadow,
            "optimizer": self.optimizer.state_dict(),
        }
        unfinished = self.path.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.replace(self.path)
        return True

    def _load(self) -> float:
        """The state of an earlier run, from whatever device; gives how much of it was done."""
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        self.step, self.skipped = state["step"], state["skipped"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for shadow, kept in zip(self.average.shadow, state["average"], strict=True):
            shadow.copy_(kept)
        return float(state["part"])


def _groups(named: Mapping[str, nn.Parameter], rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """Parameters by the factor of their learning rate."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in named.items():
        factor = next((rate for beginning, rate in rates.items() if name.startswith(beginning)), 1.0)
        groups.setdefault(factor, []).append(parameter)
    return [{"params": params, "factor": factor} for factor, params in groups.items()]


def load_average(model: nn.Module, path: Path) -> int:
    """Put the averaged weights of a checkpoint into ``model``; gives the step it was written at."""
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; run that stage of python -m modules.training first")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    with torch.no_grad():
        trained = [p for p in model.parameters() if p.requires_grad]
        for param, shadow in zip(trained, state["average"], strict=True):
            param.copy_(shadow)
    return int(state["step"])


def _process(rank: int, world: int, port: int, work: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    if world > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    try:
        work(*args)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def in_processes(world: int, work: Callable[..., None], *args: Any) -> None:
    """Run ``work(*args)`` in ``world`` processes that average their gradients; on a GPU in this one."""
    if device().type != "cpu" or world == 1:
        _process(0, 1, 0, work, args)
        return
    spawn(_process, (world, _free_port(), work, args), nprocs=world)  # type: ignore[no-untyped-call]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NetworkLoss(Protocol):
    """A loss that calls one network, which may be exchanged for its compiled form."""

    network: nn.Module

    def __call__(self, generator: torch.Generator, step: int) -> Mapping[str, Tensor]: ...


def compile_network(loss: NetworkLoss, run: Run) -> None:
    """Compile the loss's network, with one step forward and backward, if that takes no longer than ``run`` allows."""
    network = loss.network

    def attempt(faster: nn.Module) -> None:
        loss.network = faster
        torch.autograd.backward(loss(source(run.seed, 0, device=device()), 0)["loss"])

    loss.network = compiled(network, attempt, run.compile_seconds)
    for parameter in network.parameters():
        parameter.grad = None


def norms_in_float32(module: nn.Module) -> nn.Module:
    """Group norms take float32 under autocast: their bfloat16 backward pass is several times slower on a CPU."""
    for norm in module.modules():
        if isinstance(norm, nn.GroupNorm):
            norm.register_forward_pre_hook(lambda _module, inputs: (inputs[0].float(),))
    return module

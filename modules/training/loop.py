"""The loop that every stage shares: AdamW, warm-up and cosine decay, EMA, checkpoints to the step, processes.

Everything random in step ``n`` comes from a generator seeded with (stage seed, n, process): a run that is stopped and
resumed is the run that was never stopped, bit for bit.
"""

from __future__ import annotations

import hashlib
import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from modules.devices import choose
from modules.training.config import Run
from modules.training.progress import Progress

Loss = Callable[[torch.Generator, int], Mapping[str, Tensor]]
"""(random source, step) -> named scalars; ``loss`` is the one that is minimised."""


def device() -> torch.device:
    """A CUDA card where there is one."""
    return choose().device


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def source(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """The random numbers of one step in one process."""
    digest = hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def learning_rate(run: Run, step: int) -> float:
    """Linear warm-up, then ``rate``; over the last ``decay`` of the steps it falls to ``final * rate`` along a cosine.

    With ``decay`` 1 the schedule of Loshchilov & Hutter (2017), arXiv:1608.03983; below 1 that of Hagele et al. (2024),
    arXiv:2405.18392, under which the length of a run need not be known before the decay begins.
    """
    if step < run.warmup:
        return run.rate * (step + 1) / run.warmup
    start = max(run.warmup, run.steps * (1 - run.decay))
    t = min(1.0, max(0.0, step - start) / max(1, run.steps - start))
    return run.rate * (run.final + (1 - run.final) * 0.5 * (1 + math.cos(math.pi * t)))


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


class Trainer:
    """One stage: ``model`` learns under ``loss`` for ``run.steps`` steps, with its state in ``path``."""

    def __init__(self, model: nn.Module, run: Run, path: Path):
        self.model, self.run, self.path = model, run, path
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.params, lr=run.rate, betas=run.betas, weight_decay=run.weight_decay, fused=True
        )
        self.average = Average(self.params, run.ema)
        self.step = 0
        self.rank, self.world = rank_and_world()
        if path.is_file():
            self._load()

    def train(self, loss: Loss, until: int | None = None) -> None:
        """To step ``until``, or to the end of the run."""
        end = self.run.steps if until is None else min(until, self.run.steps)
        name = self.path.stem
        progress = Progress(name, end, self.step, log=self.path.with_suffix(".jsonl"))
        saved = time.monotonic()
        while self.step < end:
            values = self._advance(loss)
            if self.rank == 0:
                progress.at(self.step, self.run.batch * self.world, **{k: float(v.detach()) for k, v in values.items()})
                if time.monotonic() - saved > 60 * self.run.save_minutes:
                    self.save()
                    saved = time.monotonic()
        if self.rank == 0:
            self.save()
        if dist.is_initialized():
            dist.barrier()

    def _advance(self, loss: Loss) -> Mapping[str, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.run, self.step)
        values = loss(source(self.run.seed, self.step, self.rank), self.step)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(values["loss"])
        _synchronise(self.params)
        torch.nn.utils.clip_grad_norm_(self.params, self.run.clip)
        self.optimizer.step()
        self.average.update(self.step)
        self.step += 1
        return values

    def save(self) -> None:
        """Everything a resumed run needs; the file is replaced in one move."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.shadow,
            "optimizer": self.optimizer.state_dict(),
        }
        unfinished = self.path.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.replace(self.path)

    def _load(self) -> None:
        state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for shadow, kept in zip(self.average.shadow, state["average"], strict=True):
            shadow.copy_(kept)


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


def norms_in_float32(module: nn.Module) -> nn.Module:
    """Group norms take float32 under autocast: their bfloat16 backward pass is several times slower on a CPU."""
    for norm in module.modules():
        if isinstance(norm, nn.GroupNorm):
            norm.register_forward_pre_hook(lambda _module, inputs: (inputs[0].float(),))
    return module

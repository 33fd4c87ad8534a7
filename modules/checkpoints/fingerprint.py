"""Fingerprints of a loaded model, to verify that an extension restored it: a fast sampled one and an exact one."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.checkpoints.model import LatentDiffusion

_SAMPLES = 64
"""Samples per tensor, evenly spread: adding and subtracting a value again leaves rounding errors in most of them."""


def fingerprint(model: LatentDiffusion) -> Hashable:
    """Fast fingerprint: identity, shape and a sample of the bits of each tensor; the modules, their hooks, plain
    attributes and overrides. It is the same wherever the weights lie, on the card or in main memory.
    """
    tensors = dict(_tensors(model))
    places = tuple((name, id(t), tuple(t.shape), t.dtype) for name, t in tensors.items())
    bits = b"".join(_on_cpu([_sample(t) for t in tensors.values()]))
    return places, hashlib.sha256(bits).digest(), tuple(_hangings(model))


def _on_cpu(samples: Sequence[Tensor]) -> list[bytes]:
    """The bytes of each of the ``samples``, with one transfer from each device."""
    found: dict[int, bytes] = {}
    for device in {sample.device for sample in samples}:
        there = [(i, sample) for i, sample in enumerate(samples) if sample.device == device]
        pieces = torch.split(torch.cat([sample for _, sample in there]).cpu(), [len(sample) for _, sample in there])
        found.update((i, piece.numpy().tobytes()) for (i, _), piece in zip(there, pieces, strict=True))
    return [found[i] for i in range(len(samples))]


def digest(model: LatentDiffusion) -> str:
    """Exact fingerprint: SHA-256 of every bit of every tensor, with names."""
    found = hashlib.sha256()
    for name, tensor in _tensors(model):
        found.update(name.encode())
        found.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _parts(model: LatentDiffusion) -> tuple[tuple[str, nn.Module], ...]:
    return tuple(model.parts().items())


def _tensors(model: LatentDiffusion) -> Iterator[tuple[str, Tensor]]:
    for part, module in _parts(model):
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            yield f"{part}.{name}", tensor


def _sample(tensor: Tensor) -> Tensor:
    step = max(tensor.numel() // _SAMPLES, 1)
    # Flat without a copy where that can be: a strided view of a channels_last tensor cannot.
    flat = tensor.detach().as_strided((tensor.numel(),), (1,), tensor.storage_offset()) if _dense(tensor) else tensor
    return flat.reshape(-1)[::step].contiguous().view(torch.uint8)


def _dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or (tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


_BOOKS = frozenset(vars(nn.Module()))
"""What torch keeps for every module: parameters, buffers, submodules and hooks."""
_COUNTS = frozenset(("changes", "sliced", "_layers"))
"""Attributes of the `UNet` and its layers that it sets itself while it is in use."""
_PLAIN = (bool, int, float, str, bytes, type(None))


def _hangings(model: LatentDiffusion) -> Iterator[tuple[str, Hashable]]:
    """Modules by class, with the number of their hooks, and with all attributes of their own: plain values, and
    methods overridden on the instance.
    """
    for part, whole in _parts(model):
        for name, module in whole.named_modules():
            hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
            own = vars(module).keys() - _BOOKS - _COUNTS
            values = tuple((key, _value(vars(module)[key])) for key in sorted(own))
            yield f"{part}.{name}", (id(module), type(module), *hooks, module.training, values)


def _value(value: object) -> Hashable:
    """A plain value as it is, with its type; of anything else, which object it is."""
    if isinstance(value, _PLAIN):
        return type(value).__name__, value
    if isinstance(value, (tuple, list)):
        return type(value).__name__, tuple(map(_value, value))
    return type(value).__name__, id(value)


class Functions:
    """The functions, classes and methods of `modules.nn` and of ``torch.nn.functional``, as they stand now."""

    def __init__(self) -> None:
        self._found = dict(_functions())

    def restore(self) -> list[str]:
        """Put back those that others took the place of, or that are gone; their names."""
        changed = [
            (place, name, value) for (place, name), value in self._found.items() if vars(place).get(name) is not value
        ]
        for place, name, value in changed:
            setattr(place, name, value)
        return [f"{place.__name__}.{name}" for place, name, _ in changed]


def _functions() -> Iterator[tuple[tuple[ModuleType | type, str], object]]:
    ours = [module for name, module in sorted(sys.modules.items()) if name.startswith("modules.nn.")]
    for module in (*ours, F):
        for name, value in vars(module).items():
            if callable(value):
                yield (module, name), value
            if isinstance(value, type) and value.__module__ == module.__name__ and module is not F:
                for method, function in vars(value).items():
                    if callable(function) or isinstance(function, (staticmethod, classmethod, property)):
                        yield (value, method), function


@dataclass
class PatchChecks:
    """How patched models are compared with what they were: fast nearly always, and exactly now and then."""

    every: int = 50
    """Of so many batches that extensions patch, one is compared to the last bit."""
    batches: int = 0

    def next(self) -> Callable[[LatentDiffusion], Hashable]:
        """What to compare by in the batch that comes next."""
        self.batches += 1
        return exact if self.batches % self.every == 0 else fingerprint


def exact(model: LatentDiffusion) -> Hashable:
    """`fingerprint`, and every bit of every tensor."""
    return fingerprint(model), digest(model)

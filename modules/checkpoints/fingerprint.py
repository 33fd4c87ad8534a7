"""Fingerprints of a loaded model, to verify that an extension restored it: a fast sampled one and an exact one."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator

import torch
from torch import Tensor, nn

from modules.checkpoints.model import LatentDiffusion

_SAMPLES = 64
"""Samples per tensor, evenly spread: adding and subtracting a value again leaves rounding errors in most of them."""


def fingerprint(model: LatentDiffusion) -> Hashable:
    """Fast fingerprint: address, shape and a sample of the bits of each tensor; the modules, their hooks and
    overrides.
    """
    tensors = dict(_tensors(model))
    places = tuple((name, t.data_ptr(), tuple(t.shape), t.dtype) for name, t in tensors.items())
    bits = torch.cat([_sample(t) for t in tensors.values()]).cpu().numpy().tobytes()
    return places, hashlib.sha256(bits).digest(), tuple(_hangings(model))


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


def _hangings(model: LatentDiffusion) -> Iterator[tuple[str, Hashable]]:
    """Modules by class, with the number of their hooks and with methods overridden on the instance."""
    for part, whole in _parts(model):
        for name, module in whole.named_modules():
            hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
            methods = tuple(sorted(key for key, value in vars(module).items() if callable(value) and key[0] != "_"))
            yield f"{part}.{name}", (id(module), *hooks, methods)

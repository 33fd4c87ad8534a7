"""Weights that come to the device, or to the type that is computed in, for as long as their layer needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from modules.nn.unet import CrossAttention, ResBlock, TransformerBlock, UNet

STORED = torch.float8_e4m3fn
"""In which weights are kept in 8 bits: 3 bits of mantissa, up to 448."""


class Streamed:
    """Gives a UNet's layers their weights on ``device`` in ``dtype`` while they run, wherever and however they are kept.

    A weight is the same parameter all along; only its data changes for the time of the call, so patches and
    fingerprints see the one that is kept.
    """

    def __init__(self, unet: UNet, device: torch.device, dtype: torch.dtype):
        self._device, self._dtype = device, dtype
        self._kept: dict[nn.Module, list[tuple[nn.Parameter, Tensor]]] = {}
        self._hooks: list[RemovableHandle] = []
        own = [layer for module in unet.modules() for layer in _key_value(module)]  # are called by themselves too
        for unit in (*units(unet), *own):
            self._hooks.append(unit.register_forward_pre_hook(self._bring))
            self._hooks.append(unit.register_forward_hook(self._let_go, always_call=True))

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _bring(self, module: nn.Module, _: Any) -> None:
        away = [p for p in module.parameters() if p.device != self._device or p.dtype == STORED]
        self._kept[module] = [(p, p.data) for p in away]
        for parameter in away:
            dtype = self._dtype if parameter.dtype == STORED else parameter.dtype
            # To the device first, in the few bytes that it is kept in.
            parameter.data = parameter.data.to(self._device, non_blocking=True).to(dtype)

    def _let_go(self, module: nn.Module, *_: Any) -> None:
        for parameter, data in self._kept.pop(module, ()):
            parameter.data = data


def units(unet: UNet) -> Iterator[nn.Module]:
    """What gets its weights together: blocks, and the layers that are in none."""

    def within(module: nn.Module) -> Iterator[nn.Module]:
        if isinstance(module, (ResBlock, TransformerBlock)) or next(module.parameters(recurse=False), None) is not None:
            yield module
        else:
            for child in module.children():
                yield from within(child)

    return within(unet)


def _key_value(module: nn.Module) -> Sequence[nn.Module]:
    return (module.to_k, module.to_v) if isinstance(module, CrossAttention) else ()


def in_8_bits(name: str, weight: Tensor) -> Tensor:
    """A weight of a UNet as `STORED`, a half or a quarter of its bytes, if it is one of a linear layer or convolution.

    The small networks of time and size, norms and biases stay as they are: they are little, and every layer depends on
    them.
    """
    if weight.dim() < 2 or name.startswith(("time_embed.", "label_emb.")):
        return weight
    most = torch.finfo(STORED).max
    return weight.clamp(-most, most).to(STORED)

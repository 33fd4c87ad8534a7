"""Weights that come to the device, or to the type that is computed in, for as long as their layer needs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from modules.nn.unet import ResBlock, TransformerBlock, UNet

STORED = torch.float8_e4m3fn
"""In which weights are kept in 8 bits: 3 bits of mantissa, up to 448."""


class Streamed:
    """Lends a UNet's layers their weights on ``device`` in ``dtype`` while they run, however they are kept.

    A weight is the same parameter all along; only its data changes for the time of the call, so patches and
    fingerprints see the one that is kept.
    """

    def __init__(self, unet: UNet, device: torch.device, dtype: torch.dtype):
        self._unet, self._device, self._dtype = unet, device, dtype
        unet.lend_by(self._lend)

    def remove(self) -> None:
        self._unet.lend_by(None)

    @contextmanager
    def _lend(self, *layers: nn.Module) -> Iterator[None]:
        every = (parameter for layer in layers for parameter in layer.parameters())
        kept = [(p, p.data) for p in every if p.device != self._device or p.dtype == STORED]
        try:
            for parameter, data in kept:
                dtype = self._dtype if data.dtype == STORED else data.dtype
                # To the device first, in the few bytes that it is kept in.
                parameter.data = data.to(self._device, non_blocking=True).to(dtype)
            yield
        finally:
            for parameter, data in kept:
                parameter.data = data


def units(unet: UNet) -> Iterator[nn.Module]:
    """What is lent together: blocks, and the layers that are in none."""

    def within(module: nn.Module) -> Iterator[nn.Module]:
        if isinstance(module, (ResBlock, TransformerBlock)) or next(module.parameters(recurse=False), None) is not None:
            yield module
        else:
            for child in module.children():
                yield from within(child)

    return within(unet)


def in_8_bits(name: str, weight: Tensor) -> Tensor:
    """A weight of a UNet as `STORED`, a half or a quarter of its bytes, if it is one of a linear layer or convolution.

    The small networks of time and size, norms and biases stay as they are: they are little, and every layer depends on
    them.
    """
    if weight.dim() < 2 or name.startswith(("time_embed.", "label_emb.")):
        return weight
    most = torch.finfo(STORED).max
    return weight.clamp(-most, most).to(STORED)

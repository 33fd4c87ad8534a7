"""Several layers in one pass over memory, for half-precision inference on a card.

Each function has a plain form, made of torch's own operators, and a form in one Triton kernel or three. Both agree up
to rounding, and `tests/modules/nn/test_fused.py` compares them. Networks ask `suits` once per evaluation and otherwise
go through their layers one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

try:
    from modules.nn import triton_kernels as kernels
except ImportError:  # torch for CPUs, and torch for Windows, come without Triton
    kernels = None  # type: ignore[assignment, unused-ignore]

HALVES = (torch.float16, torch.bfloat16)


def suits(x: Tensor) -> bool:
    """Whether an evaluation with input ``x`` may take the fused forms: a card, half precision, no gradients."""
    on_card = x.device.type != "cpu" and x.dtype in HALVES
    return on_card and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def has_kernels(x: Tensor) -> bool:
    """Whether Triton computes on ``x``; otherwise the plain forms do."""
    return kernels is not None and x.device.type != "cpu"


PLAIN = (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm)


def untouched(*layers: nn.Module) -> bool:
    """Whether each layer is what torch makes of its weights: no hooks, no other class, no other `forward`.

    The fused forms read weights and call no modules, so they stand in only for such layers.
    """
    return all(
        type(m) in PLAIN and not m._forward_hooks and not m._forward_pre_hooks and "forward" not in m.__dict__
        for m in layers
    )


class Layers:
    """The modules of a network, watched for what only a module's call would run; a quick `untouched` for all."""

    def __init__(self, network: nn.Module):
        modules = list(network.modules())
        self._parameters = [m._parameters for m in modules if m._parameters]
        self._hooks = [table for m in modules for table in (m._forward_hooks, m._forward_pre_hooks)]
        self._own = [m.__dict__ for m in modules]
        # Subclasses, as of layers that keep their weights in another format, compute in a way of their own.
        layers = [m for m in modules if isinstance(m, PLAIN)]
        self._plain = all(type(m) in PLAIN and getattr(m, "padding_mode", "zeros") == "zeros" for m in layers)
        self._network = network

    def untouched(self) -> bool:
        """Whether every layer is what its class makes of its weights."""
        extended = getattr(self._network, "extended", False)
        plain = self._plain and not extended and not any(self._hooks)
        return plain and not any("forward" in own for own in self._own)

    def addresses(self) -> Sequence[Any]:
        """Where the weights lie, and their formats: what a recorded graph depends on."""
        found = [p for table in self._parameters for p in table.values() if p is not None]
        return tuple((p.data_ptr(), p.dtype) for p in found)


def conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution without its bias, which the next pass over its output adds."""
    return F.conv2d(x, layer.weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)  # type: ignore[arg-type, unused-ignore]


def pointwise(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer or 1x1 convolution over tokens (b, n, c): one matrix product either way."""
    weight, bias = layer.weight, layer.bias
    return F.linear(x, weight.reshape(len(weight), -1), bias)  # type: ignore[arg-type, operator]


def tokens(x: Tensor) -> Tensor:
    """A feature map (b, c, h, w) as tokens (b, h * w, c): a view in channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def feature_map(x: Tensor, like: Tensor) -> Tensor:
    """Tokens (b, h * w, c) as a feature map with the sides of ``like``: a view, in channels_last."""
    return x.view(len(x), *like.shape[-2:], x.shape[-1]).permute(0, 3, 1, 2)


def group_norm(
    norm: nn.GroupNorm, x: Tensor, *, silu: bool, shift: Tensor | None = None, conv_bias: Tensor | None = None
) -> Tensor:
    """``norm(x + shift + conv_bias)``, then SiLU where asked; ``shift`` (b, c), ``conv_bias`` (c,)."""
    # Small maps too: launched one by one, the three kernels take 133 us at 2x320x64x64 on an H100 and torch's 87, but
    # steps of one image are launched or replayed depending on what was made before, and must give the same bits.
    if has_kernels(x):
        x = x.contiguous(memory_format=torch.channels_last)
        return kernels.group_norm(
            x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu=silu, shift=shift, conv_bias=conv_bias
        )
    if shift is not None:
        x = x + shift[:, :, None, None]
    if conv_bias is not None:
        x = x + conv_bias[:, None, None]
    y = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    return F.silu(y) if silu else y


def geglu(x: Tensor) -> Tensor:
    """Shazeer (2020), arXiv:2002.05202: (..., 2 * inner) -> (..., inner)."""
    if has_kernels(x):
        return kernels.geglu(x.contiguous())
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


def add_layer_norm(norm: nn.LayerNorm, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """``x + delta`` and its layer norm, both (b, n, c)."""
    if has_kernels(x):
        return kernels.add_layer_norm(x.contiguous(), delta.contiguous(), norm.weight, norm.bias, norm.eps)
    total = x + delta
    return total, F.layer_norm(total, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def add_bias(x: Tensor, y: Tensor, bias: Tensor | None) -> Tensor:
    """``x + y + bias`` of feature maps, bias by channel (c,)."""
    if bias is None:
        return x + y
    if has_kernels(x):
        x, y = (t.contiguous(memory_format=torch.channels_last) for t in (x, y))
        return kernels.add_bias(x, y, bias)
    return x + (y + bias[:, None, None])

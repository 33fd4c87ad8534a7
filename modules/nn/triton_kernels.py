"""Triton kernels for half-precision inference on a card; imported only where torch brings Triton.

Activations are channels_last, so a feature map (b, c, h, w) lies in memory as (b, rows, c) with rows = h * w. All sums
are made in float32 and in a fixed order: the same input gives the same bits, and an image does not depend on its batch.
Triton compiles annotations with the code and knows no Python type, so kernels annotate nothing but `tl.constexpr`.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-not-found, unused-ignore]
from torch import Tensor

ROWS, CHANNELS = 64, 64
"""The tile of a feature map that one program holds in registers."""


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _tile_moments(x, means, squares, rows, channels, R: tl.constexpr, C: tl.constexpr):  # type: ignore[no-untyped-def]
    """Mean and sum of squared deviations of every channel of one tile. Grid: (row tiles, channel tiles, images)."""
    tile, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    r = tile * R + tl.arange(0, R)
    c = tl.program_id(1) * C + tl.arange(0, C)
    inside = (r < rows)[:, None] & (c < channels)[None, :]
    v = tl.load(x + (image * rows + r)[:, None] * channels + c[None, :], mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(v, 0) / tl.minimum(rows - tile * R, R)
    d = tl.where(inside, v - mean[None, :], 0.0)
    place = (image * tl.num_programs(0) + tile) * channels + c
    tl.store(means + place, mean, mask=c < channels)
    tl.store(squares + place, tl.sum(d * d, 0), mask=c < channels)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _scale_and_offset(  # type: ignore[no-untyped-def]
    means,
    squares,
    weight,
    bias,
    shift,
    shift_stride,
    conv_bias,
    scales,
    offsets,
    rows,
    channels,
    tiles,
    eps,
    SHIFT: tl.constexpr,
    CONV: tl.constexpr,
    R: tl.constexpr,
    PER_GROUP: tl.constexpr,
    C: tl.constexpr,
    T: tl.constexpr,
):
    """The moments of one group, joined (Chan et al. 1979), as a scale and an offset of each channel. Grid: (groups,
    images). What a convolution adds to a whole channel moves its mean and nothing else, so it is added here.
    """
    group, image = tl.program_id(0), tl.program_id(1)
    lane = tl.arange(0, C)
    real = lane < PER_GROUP
    c = group * PER_GROUP + lane
    added = tl.zeros((C,), tl.float32)
    if SHIFT:
        added += tl.load(shift + image * shift_stride + c, mask=real, other=0.0).to(tl.float32)
    if CONV:
        added += tl.load(conv_bias + c, mask=real, other=0.0).to(tl.float32)
    total = tl.zeros((C,), tl.float32)
    for start in range(0, tiles, T):
        t = start + tl.arange(0, T)
        count = tl.maximum(tl.minimum(rows - t * R, R), 0).to(tl.float32)
        place = (image * tiles + t)[:, None] * channels + c[None, :]
        m = tl.load(means + place, mask=(t < tiles)[:, None] & real[None, :], other=0.0)
        total += tl.sum(m * count[:, None], 0)
    mean = tl.sum(tl.where(real, total / rows + added, 0.0), 0) / PER_GROUP
    deviation = tl.zeros((C,), tl.float32)
    for start in range(0, tiles, T):
        t = start + tl.arange(0, T)
        count = tl.maximum(tl.minimum(rows - t * R, R), 0).to(tl.float32)
        place = (image * tiles + t)[:, None] * channels + c[None, :]
        inside = (t < tiles)[:, None] & real[None, :]
        m = tl.load(means + place, mask=inside, other=0.0)
        s = tl.load(squares + place, mask=inside, other=0.0)
        d = tl.where(inside, m + added[None, :] - mean, 0.0)
        deviation += tl.sum(s + d * d * count[:, None], 0)
    variance = tl.sum(deviation, 0) / (PER_GROUP * rows)
    scale = tl.load(weight + c, mask=real, other=0.0).to(tl.float32) / tl.sqrt(variance + eps)
    offset = tl.load(bias + c, mask=real, other=0.0).to(tl.float32) + (added - mean) * scale
    tl.store(scales + image * channels + c, scale, mask=real)
    tl.store(offsets + image * channels + c, offset, mask=real)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _affine(  # type: ignore[no-untyped-def]
    x,
    out,
    scales,
    offsets,
    rows,
    channels,
    SILU: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
):
    """``x * scale + offset`` by image and channel, then SiLU. Grid: (row tiles, channel tiles, images)."""
    image = tl.program_id(2).to(tl.int64)
    r = tl.program_id(0) * R + tl.arange(0, R)
    c = tl.program_id(1) * C + tl.arange(0, C)
    scale = tl.load(scales + image * channels + c, mask=c < channels, other=0.0)
    offset = tl.load(offsets + image * channels + c, mask=c < channels, other=0.0)
    inside = (r < rows)[:, None] & (c < channels)[None, :]
    place = (image * rows + r)[:, None] * channels + c[None, :]
    y = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) * scale[None, :] + offset[None, :]
    if SILU:
        y = y * tl.sigmoid(y)
    tl.store(out + place, y.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _geglu(x, out, inner, B: tl.constexpr):  # type: ignore[no-untyped-def]
    """``x[:, :inner] * gelu(x[:, inner:])``, with the error function. Grid: (tokens, column blocks)."""
    token = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * B + tl.arange(0, B)
    value = tl.load(x + token * 2 * inner + c, mask=c < inner, other=0.0).to(tl.float32)
    gate = tl.load(x + token * 2 * inner + inner + c, mask=c < inner, other=0.0).to(tl.float32)
    y = value * gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(out + token * inner + c, y.to(out.dtype.element_ty), mask=c < inner)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _add_layer_norm(  # type: ignore[no-untyped-def]
    x, delta, weight, bias, total, out, channels, eps, B: tl.constexpr
):
    """``total = x + delta`` and its layer norm. Grid: (tokens,); a program holds a whole token."""
    token = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, B)
    inside = c < channels
    place = token * channels + c
    v = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    v += tl.load(delta + place, mask=inside, other=0.0).to(tl.float32)
    rounded = v.to(total.dtype.element_ty)
    tl.store(total + place, rounded, mask=inside)
    v = rounded.to(tl.float32)
    mean = tl.sum(v, 0) / channels
    d = tl.where(inside, v - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(d * d, 0) / channels + eps)
    w = tl.load(weight + c, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + c, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, (d * scale * w + b).to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _add_bias(x, y, bias, out, size, channels, B: tl.constexpr):  # type: ignore[no-untyped-def]
    """``x + y + bias``, bias by channel, over ``size`` numbers in channels_last order. Grid: (blocks,)."""
    i = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    inside = i < size
    v = tl.load(x + i, mask=inside, other=0.0).to(tl.float32) + tl.load(y + i, mask=inside, other=0.0).to(tl.float32)
    v += tl.load(bias + i % channels, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + i, v.to(out.dtype.element_ty), mask=inside)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    silu: bool,
    shift: Tensor | None = None,
    conv_bias: Tensor | None = None,
) -> Tensor:
    """GroupNorm of ``x + shift + conv_bias``, then SiLU where asked. ``x`` (b, c, h, w) channels_last, ``shift``
    (b, c), the others (c,) -> (b, c, h, w) channels_last."""
    b, c, h, w = x.shape
    rows = h * w
    row_tiles, channel_tiles = triton.cdiv(rows, ROWS), triton.cdiv(c, CHANNELS)
    means, squares = x.new_empty((2, b, row_tiles, c), dtype=torch.float32)
    scales, offsets = x.new_empty((2, b, c), dtype=torch.float32)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    grid = (row_tiles, channel_tiles, b)
    _tile_moments[grid](x, means, squares, rows, c, R=ROWS, C=CHANNELS)
    _scale_and_offset[(groups, b)](
        means,
        squares,
        weight,
        bias,
        weight if shift is None else shift,
        0 if shift is None else shift.stride(0),
        weight if conv_bias is None else conv_bias,
        scales,
        offsets,
        rows,
        c,
        row_tiles,
        eps,
        SHIFT=shift is not None,
        CONV=conv_bias is not None,
        R=ROWS,
        PER_GROUP=c // groups,
        C=triton.next_power_of_2(c // groups),
        T=64,
    )
    _affine[grid](x, out, scales, offsets, rows, c, SILU=silu, R=ROWS, C=CHANNELS)
    return out


def geglu(x: Tensor) -> Tensor:
    """(..., 2 * inner), contiguous -> (..., inner)."""
    inner = x.shape[-1] // 2
    out = x.new_empty((*x.shape[:-1], inner))
    block = min(1024, triton.next_power_of_2(inner))
    _geglu[(out.numel() // inner, triton.cdiv(inner, block))](x, out, inner, B=block)
    return out


def add_layer_norm(x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``x + delta`` and its layer norm over the last axis; both (..., c), contiguous."""
    c = x.shape[-1]
    total, out = torch.empty_like(x), torch.empty_like(x)
    block = triton.next_power_of_2(c)
    _add_layer_norm[(x.numel() // c,)](x, delta, weight, bias, total, out, c, eps, B=block)
    return total, out


def add_bias(x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
    """``x + y + bias`` of feature maps (b, c, h, w), both channels_last; ``bias`` (c,)."""
    out = torch.empty_like(x, memory_format=torch.channels_last)
    _add_bias[(triton.cdiv(x.numel(), 1024),)](x, y, bias, out, x.numel(), x.shape[1], B=1024)
    return out

"""HAT: SwinIR's attention with channel attention beside it, and windows that look beyond their edges.

Chen et al. (2022), arXiv:2205.04437. Layers are named after the files' keys. Pictures inside are (n, h, w, width).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nn.swinir import (
    MEAN,
    Mlp,
    PatchEmbed,
    WindowAttention,
    from_windows,
    mirrored,
    shift_mask,
    shuffles,
    to_windows,
)

BESIDE = 0.01
"""How much of the channel attention is added: a constant of the paper that no file tells."""


@dataclass(frozen=True)
class HATConfig:
    width: int = 180
    depths: tuple[int, ...] = (6,) * 6
    heads: tuple[int, ...] = (6,) * 6
    window: int = 16
    overlapping: int = 24
    """Side of the windows that keys and values come from, of which each has a smaller one in its middle."""
    mlp: int = 360
    compressed: int = 60
    """Channels between the two convolutions of the channel attention."""
    squeezed: int = 6
    """Channels of its narrowest place."""
    scale: int = 4
    channels: int = 3
    between: int = 64


class ChannelAttention(nn.Module):
    """Each channel times what the means of all channels say of it."""

    def __init__(self, width: int, squeezed: int):
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        gates: Tensor = self.attention(x)
        return x * gates


class ConvBlock(nn.Module):
    def __init__(self, config: HATConfig):
        super().__init__()
        self.cab = nn.Sequential(
            nn.Conv2d(config.width, config.compressed, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(config.compressed, config.width, 3, padding=1),
            ChannelAttention(config.width, config.squeezed),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cab(x.permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1)


class Block(nn.Module):
    """Hybrid attention block: among the pixels of a window, and among channels."""

    def __init__(self, config: HATConfig, heads: int, shift: int):
        super().__init__()
        self.window, self.shift = config.window, shift
        self.norm1 = nn.LayerNorm(config.width)
        self.attn = WindowAttention(config.width, config.window, heads)
        self.conv_block = ConvBlock(config)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config.width, config.mlp)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        normed = self.norm1(x)
        y = torch.roll(normed, (-self.shift, -self.shift), (1, 2))
        y = self.attn(to_windows(y, self.window), mask if self.shift else None)
        y = torch.roll(from_windows(y, self.window, height, width), (self.shift, self.shift), (1, 2))
        x = x + y + BESIDE * self.conv_block(normed)
        z: Tensor = self.mlp(self.norm2(x))
        return x + z


class OverlappingAttention(nn.Module):
    """Each window asks a larger one around it. Beyond the picture's edge keys and values are zero."""

    def __init__(self, config: HATConfig, heads: int):
        super().__init__()
        self.window, self.around, self.heads = config.window, config.overlapping, heads
        self.norm1 = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        ways = (config.window + config.overlapping - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(ways, heads))
        self.proj = nn.Linear(config.width, config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config.width, config.mlp)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        index = ways_out(self.window, self.around).to(x.device)
        bias = self.relative_position_bias_table[index].permute(2, 0, 1)[None]
        queries = self._by_head(to_windows(q, self.window))
        y = F.scaled_dot_product_attention(
            queries, self._wide(k), self._wide(v), attn_mask=bias.expand(len(queries), -1, -1, -1)
        )
        y = y.transpose(1, 2).flatten(2)  # (windows, pixels, width)
        x = x + self.proj(from_windows(y, self.window, height, width))
        z: Tensor = self.mlp(self.norm2(x))
        return x + z

    def _wide(self, x: Tensor) -> Tensor:
        """(n, h, w, width) -> (windows, heads, pixels of the large windows, dim)"""
        n, _, _, channels = x.shape
        edge = (self.around - self.window) // 2
        x = F.unfold(x.permute(0, 3, 1, 2), self.around, padding=edge, stride=self.window)
        return self._by_head(x.view(n, channels, self.around**2, -1).permute(0, 3, 2, 1).flatten(0, 1))

    def _by_head(self, x: Tensor) -> Tensor:
        """(windows, pixels, width) -> (windows, heads, pixels, dim)"""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Blocks(nn.Module):
    def __init__(self, config: HATConfig, depth: int, heads: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, heads, n % 2 * (config.window // 2)) for n in range(depth))
        self.overlap_attn = OverlappingAttention(config, heads)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, mask)
        y: Tensor = self.overlap_attn(x)
        return y


class Group(nn.Module):
    """Residual hybrid attention group: blocks, then a convolution."""

    def __init__(self, config: HATConfig, depth: int, heads: int):
        super().__init__()
        self.residual_group = Blocks(config, depth, heads)
        self.conv = nn.Conv2d(config.width, config.width, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.conv(self.residual_group(x, mask).permute(0, 3, 1, 2))
        return x + y.permute(0, 2, 3, 1)


class HAT(nn.Module):
    """(n, 3, h, w) in [0, 1] -> (n, 3, h * scale, w * scale)."""

    def __init__(self, config: HATConfig):
        super().__init__()
        self.config = config
        self.scale = config.scale
        width, between = config.width, config.between
        self.conv_first = nn.Conv2d(config.channels, width, 3, padding=1)
        self.patch_embed = PatchEmbed(width)
        self.layers = nn.ModuleList(Group(config, *both) for both in zip(config.depths, config.heads, strict=True))
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_before_upsample = nn.Sequential(nn.Conv2d(width, between, 3, padding=1), nn.LeakyReLU())
        self.upsample = shuffles(between, config.scale)
        self.conv_last = nn.Conv2d(between, config.channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        mean = torch.tensor(MEAN if self.config.channels == 3 else (0.0,)).to(x).view(-1, 1, 1)
        first = self.conv_first(mirrored(x, self.config.window) - mean)
        mask = shift_mask(first.shape[-2], first.shape[-1], self.config.window).to(first)
        y: Tensor = self.patch_embed.norm(first.permute(0, 2, 3, 1))
        for layer in self.layers:
            y = layer(y, mask)
        y = first + self.conv_after_body(self.norm(y).permute(0, 3, 1, 2))
        y = self.conv_last(self.upsample(self.conv_before_upsample(y))) + mean
        return y[..., : height * self.scale, : width * self.scale]


def ways_out(window: int, around: int) -> Tensor:
    """(window**2, around**2): the row of the bias table for the way from a window's pixel to one of the large window.

    The trainer's index begins below 0 and so wraps around: its first rows are the table's last.
    """
    inside, outside = (torch.cartesian_prod(torch.arange(n), torch.arange(n)) for n in (window, around))
    way = outside[None] - inside[:, None] + window - around + 1
    index = way[..., 0] * (window + around - 1) + way[..., 1]
    return index % (window + around - 1) ** 2


# --------------------------------------------------------------------------------------------------- from a file's keys

_GROUP = "layers.0.residual_group."
_BLOCK = f"{_GROUP}blocks.0."
_TABLE = "relative_position_bias_table"


def is_hat(state: Mapping[str, Tensor]) -> bool:
    wanted = {"conv_first.weight", f"{_BLOCK}conv_block.cab.0.weight", f"{_GROUP}overlap_attn.{_TABLE}"}
    return wanted <= state.keys()


def without_buffers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks and indices follow from the sizes of the windows; they are not kept."""
    kept = ("attn_mask", "relative_position_index_SA", "relative_position_index_OCA")
    return {key: tensor for key, tensor in state.items() if not key.endswith(kept)}


def config_of(state: Mapping[str, Tensor]) -> HATConfig:
    """Sizes from the shapes."""
    groups = 1 + max(int(match[1]) for key in state if (match := re.match(r"layers\.(\d+)\.", key)))
    depths = tuple(
        sum(1 for key in state if re.fullmatch(rf"layers\.{n}\.residual_group\.blocks\.\d+\.norm1\.weight", key))
        for n in range(groups)
    )
    width, channels = state["conv_first.weight"].shape[:2]
    window = (math.isqrt(state[f"{_BLOCK}attn.{_TABLE}"].shape[0]) + 1) // 2
    steps = [t.shape[0] // t.shape[1] for key, t in state.items() if re.fullmatch(r"upsample\.\d+\.weight", key)]
    return HATConfig(
        width=width,
        depths=depths,
        heads=tuple(state[f"layers.{n}.residual_group.overlap_attn.{_TABLE}"].shape[1] for n in range(groups)),
        window=window,
        overlapping=math.isqrt(state[f"{_GROUP}overlap_attn.{_TABLE}"].shape[0]) + 1 - window,
        mlp=state[f"{_BLOCK}mlp.fc1.weight"].shape[0],
        compressed=state[f"{_BLOCK}conv_block.cab.0.weight"].shape[0],
        squeezed=state[f"{_BLOCK}conv_block.cab.3.attention.1.weight"].shape[0],
        scale=math.isqrt(math.prod(steps)),
        channels=channels,
        between=state["conv_last.weight"].shape[1],
    )

"""DAT: attention among pixels and attention among channels by turns, each beside a convolution.

Chen et al. (2023), arXiv:2308.03364. Layers are named after the files' keys. Pictures inside are (n, h, w, width).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nn.swinir import MEAN, closing, shuffles

Window = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class DATConfig:
    width: int = 180
    depths: tuple[int, ...] = (6,) * 6
    heads: tuple[int, ...] = (6,) * 6
    window: Window = (8, 32)
    """Of the first half of the channels; the second half has it lying on its side."""
    hidden: int = 720
    bias: bool = True
    scale: int = 4
    end: str = "pixelshuffle"
    """Or "pixelshuffledirect", the lightweight network's."""
    three_convs: bool = False
    channels: int = 3
    between: int = 64

    @property
    def windows(self) -> tuple[Window, Window]:
        return self.window, (self.window[1], self.window[0])


class PositionBias(nn.Module):
    """A bias for each displacement and head, computed by a small perceptron. (ways, 2) -> (ways, heads)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.pos_proj = nn.Linear(2, width)
        self.pos1 = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width))
        self.pos2 = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, width))
        self.pos3 = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, heads))

    def forward(self, ways: Tensor) -> Tensor:
        y: Tensor = self.pos3(self.pos2(self.pos1(self.pos_proj(ways))))
        return y


class WindowAttention(nn.Module):
    """Attention among the pixels of one window, on half of the channels."""

    def __init__(self, width: int, heads: int, window: Window):
        super().__init__()
        self.heads, self.window = heads, window
        self.pos = PositionBias(width // 16, heads)

    def forward(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """``qkv`` (n, h, w, 3, width) of whole windows; ``mask`` (windows of one picture, pixels, pixels), added."""
        n, height, width, _, channels = qkv.shape
        q, k, v = (self._in_windows(part) for part in qkv.unbind(3))
        bias = self.pos(ways(self.window).to(qkv))[displacements(self.window).to(qkv.device)].permute(2, 0, 1)[None]
        if mask is not None:
            bias = bias + mask.repeat(n, 1, 1)[:, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(len(q), -1, -1, -1))
        down, right = self.window
        y = y.transpose(1, 2).reshape(n, height // down, width // right, down, right, channels)
        return y.transpose(2, 3).reshape(n, height, width, channels)

    def _in_windows(self, x: Tensor) -> Tensor:
        """(n, h, w, width) -> (n * windows, heads, pixels, dim)"""
        n, height, width, channels = x.shape
        down, right = self.window
        x = x.reshape(n, height // down, down, width // right, right, channels).transpose(2, 3)
        return x.reshape(-1, down * right, self.heads, channels // self.heads).transpose(1, 2)


class Aggregation(nn.Module):
    """What both kinds of attention share: a convolution beside them, and gates by which each hears of the other."""

    def __init__(self, config: DATConfig):
        super().__init__()
        width = config.width
        self.qkv = nn.Linear(width, 3 * width, bias=config.bias)
        self.proj = nn.Linear(width, width)
        self.dwconv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width), nn.BatchNorm2d(width), nn.GELU()
        )
        self.channel_interaction = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, width // 8, 1),
            nn.BatchNorm2d(width // 8),
            nn.GELU(),
            nn.Conv2d(width // 8, width, 1),
        )
        self.spatial_interaction = nn.Sequential(
            nn.Conv2d(width, width // 16, 1), nn.BatchNorm2d(width // 16), nn.GELU(), nn.Conv2d(width // 16, 1, 1)
        )

    def joined(self, places: Tensor, channels: Tensor) -> Tensor:
        """Both (n, width, h, w): the first tells the second where to look, the second the first at which channels."""
        of_channels = torch.sigmoid(self.channel_interaction(channels))
        of_places = torch.sigmoid(self.spatial_interaction(places))
        y: Tensor = self.proj((places * of_channels + channels * of_places).permute(0, 2, 3, 1))
        return y


class SpatialAttention(Aggregation):
    """Attention within windows, upright for half of the channels and lying for the others."""

    def __init__(self, config: DATConfig, heads: int, shifted: bool):
        super().__init__(config)
        self.windows, self.shifted = config.windows, shifted
        self.attns = nn.ModuleList(WindowAttention(config.width // 2, heads // 2, window) for window in config.windows)

    def forward(self, x: Tensor, masks: tuple[Tensor, Tensor]) -> Tensor:
        n, height, width, channels = x.shape
        qkv = self.qkv(x).view(n, height, width, 3, channels)
        local = self.dwconv(qkv[..., 2, :].permute(0, 3, 1, 2))
        side = max(self.windows[0])  # pixels beyond the edge are zeros, and are seen
        halves = F.pad(qkv, (0, 0, 0, 0, 0, -width % side, 0, -height % side)).chunk(2, -1)
        seen = [self._seen(half, qkv, masks[half])[:, :height, :width] for half, qkv in enumerate(halves)]
        return self.joined(torch.cat(seen, -1).permute(0, 3, 1, 2), local)

    def _seen(self, half: int, qkv: Tensor, mask: Tensor) -> Tensor:
        down, right = (side // 2 if self.shifted else 0 for side in self.windows[half])
        y = self.attns[half](torch.roll(qkv, (-down, -right), (1, 2)), mask if self.shifted else None)
        return torch.roll(y, (down, right), (1, 2))


class ChannelAttention(Aggregation):
    """Attention among the channels of a head, each of which is a whole picture of length 1."""

    def __init__(self, config: DATConfig, heads: int):
        super().__init__(config)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, x: Tensor, masks: tuple[Tensor, Tensor]) -> Tensor:
        n, height, width, channels = x.shape
        heads = len(self.temperature)
        qkv = self.qkv(x).view(n, height * width, 3, heads, channels // heads)
        q, k, v = qkv.permute(2, 0, 3, 4, 1)  # (n, heads, dim, pixels)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        seen = torch.softmax(scores * self.temperature, -1) @ v
        local = self.dwconv(v.reshape(n, channels, height, width))
        return self.joined(local, seen.reshape(n, channels, height, width))


class SpatialGate(nn.Module):
    """One half of the channels times the other, which a convolution has spread."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        kept, gate = x.chunk(2, -1)
        spread: Tensor = self.conv(self.norm(gate).permute(0, 3, 1, 2))
        return kept * spread.permute(0, 2, 3, 1)


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.sg = SpatialGate(hidden // 2)
        self.fc2 = nn.Linear(hidden // 2, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.sg(F.gelu(self.fc1(x))))
        return y


class Block(nn.Module):
    def __init__(self, config: DATConfig, heads: int, group: int, place: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attn: Aggregation = (
            ChannelAttention(config, heads)
            if place % 2
            else SpatialAttention(config, heads, shifted=place % 4 == (0 if group % 2 else 2))
        )
        self.norm2 = nn.LayerNorm(config.width)
        self.ffn = FeedForward(config.width, config.hidden)

    def forward(self, x: Tensor, masks: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attn(self.norm1(x), masks)
        y: Tensor = self.ffn(self.norm2(x))
        return x + y


class Group(nn.Module):
    """Blocks, then a convolution, added to what came in."""

    def __init__(self, config: DATConfig, number: int):
        super().__init__()
        heads = config.heads[number]
        self.blocks = nn.ModuleList(Block(config, heads, number, place) for place in range(config.depths[number]))
        self.conv = closing(config.width, config.three_convs)

    def forward(self, x: Tensor, masks: tuple[Tensor, Tensor]) -> Tensor:
        y = x
        for block in self.blocks:
            y = block(y, masks)
        z: Tensor = self.conv(y.permute(0, 3, 1, 2))
        return x + z.permute(0, 2, 3, 1)


class DAT(nn.Module):
    """(n, 3, h, w) in [0, 1] -> (n, 3, h * scale, w * scale)."""

    def __init__(self, config: DATConfig):
        super().__init__()
        self.config = config
        self.scale = config.scale
        width, between = config.width, config.between
        self.conv_first = nn.Conv2d(config.channels, width, 3, padding=1)
        self.before_RG = nn.Sequential(nn.Identity(), nn.LayerNorm(width))
        self.layers = nn.ModuleList(Group(config, number) for number in range(len(config.depths)))
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = closing(width, config.three_convs)
        if config.end == "pixelshuffle":
            self.conv_before_upsample = nn.Sequential(nn.Conv2d(width, between, 3, padding=1), nn.LeakyReLU())
            self.upsample = shuffles(between, config.scale)
            self.conv_last = nn.Conv2d(between, config.channels, 3, padding=1)
        else:
            self.upsample = nn.Sequential(
                nn.Conv2d(width, config.channels * config.scale**2, 3, padding=1), nn.PixelShuffle(config.scale)
            )

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.tensor(MEAN if self.config.channels == 3 else (0.0,)).to(x).view(-1, 1, 1)
        first = self.conv_first(x - mean)
        masks = self._masks(first)
        y: Tensor = self.before_RG(first.permute(0, 2, 3, 1))
        for layer in self.layers:
            y = layer(y, masks)
        y = first + self.conv_after_body(self.norm(y).permute(0, 3, 1, 2))
        if self.config.end == "pixelshuffle":
            y = self.conv_last(self.upsample(self.conv_before_upsample(y)))
        else:
            y = self.upsample(y)
        return y + mean

    def _masks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """For both kinds of windows, over the picture filled up to whole ones."""
        side = max(self.config.window)
        height, width = (length + -length % side for length in x.shape[-2:])
        upright, lying = (shift_mask(height, width, window).to(x) for window in self.config.windows)
        return upright, lying


def ways(window: Window) -> Tensor:
    """(ways, 2): all displacements between two pixels of a window, down and right."""
    down, right = (torch.arange(1 - length, length) for length in window)
    return torch.cartesian_prod(down, right)


def displacements(window: Window) -> Tensor:
    """(pixels, pixels): which of the `ways` leads from one pixel of a window to another."""
    place = torch.cartesian_prod(*(torch.arange(length) for length in window))
    way = place[:, None] - place[None] + torch.tensor(window) - 1
    return way[..., 0] * (2 * window[1] - 1) + way[..., 1]


def shift_mask(height: int, width: int, window: Window) -> Tensor:
    """(windows, pixels, pixels): -100 where rolling by half a window brought pixels together that are no neighbours."""
    down, right = window
    rows, columns = (
        (torch.arange(length) >= length - side).long() + (torch.arange(length) >= length - side // 2).long()
        for length, side in ((height, down), (width, right))
    )
    region = 3 * rows[:, None] + columns[None]
    region = region.view(height // down, down, width // right, right).transpose(1, 2).reshape(-1, down * right)
    return (region[:, None] != region[:, :, None]).float() * -100.0


# --------------------------------------------------------------------------------------------------- from a file's keys

_WAYS = "layers.0.blocks.0.attn.attns.0.rpe_biases"
"""The displacements in a window are kept in the file; the last is its size less 1, which no other tensor tells."""


def is_dat(state: Mapping[str, Tensor]) -> bool:
    wanted = {"conv_first.weight", "before_RG.1.weight", "layers.0.blocks.0.ffn.sg.norm.weight", _WAYS}
    return wanted <= state.keys()


def without_buffers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks, displacements and indices follow from the window's size; they are not kept."""
    kept = ("attn_mask_0", "attn_mask_1", "rpe_biases", "relative_position_index")
    return {key: tensor for key, tensor in state.items() if not key.endswith(kept)}


def config_of(state: Mapping[str, Tensor]) -> DATConfig:
    """Sizes from the shapes."""
    groups = 1 + max(int(match[1]) for key in state if (match := re.match(r"layers\.(\d+)\.", key)))
    depths = tuple(
        sum(1 for key in state if re.fullmatch(rf"layers\.{n}\.blocks\.\d+\.norm1\.weight", key)) for n in range(groups)
    )
    width, channels = state["conv_first.weight"].shape[:2]
    down, right = (int(most) + 1 for most in state[_WAYS][-1].tolist())
    if len(state[_WAYS]) != (2 * down - 1) * (2 * right - 1):
        raise ValueError(f"{len(state[_WAYS])} displacements do not make a window")
    end = "pixelshuffle" if "conv_last.weight" in state else "pixelshuffledirect"
    steps = [t.shape[0] // t.shape[1] for key, t in state.items() if re.fullmatch(r"upsample\.\d+\.weight", key)]
    enlarged = math.prod(steps) if end == "pixelshuffle" else state["upsample.0.weight"].shape[0] // channels
    return DATConfig(
        width=width,
        depths=depths,
        heads=tuple(_heads(state, n) for n in range(groups)),
        window=(down, right),
        hidden=state["layers.0.blocks.0.ffn.fc1.weight"].shape[0],
        bias="layers.0.blocks.0.attn.qkv.bias" in state,
        scale=math.isqrt(enlarged),
        end=end,
        three_convs="conv_after_body.0.weight" in state,
        channels=channels,
        between=state["conv_last.weight"].shape[1] if end == "pixelshuffle" else 64,
    )


def _heads(state: Mapping[str, Tensor], group: int) -> int:
    """Each of the two kinds of windows has half of the heads."""
    return 2 * state[f"layers.{group}.blocks.0.attn.attns.0.pos.pos3.2.weight"].shape[0]

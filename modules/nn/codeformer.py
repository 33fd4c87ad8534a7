"""CodeFormer: a transformer reads a poor face and names, place by place, the codebook's entries that draw a good one.

Zhou et al. (2022), arXiv:2206.11253; the codebook's autoencoder: Esser et al. (2021), arXiv:2012.09841. Layers are
named after the file's keys, which number the blocks of encoder and generator through.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 8
"""Of the transformer's attention: no tensor tells."""


@dataclass(frozen=True)
class CodeFormerConfig:
    widths: tuple[int, ...] = (64, 128, 128, 256, 256, 512)
    """Channels at the full size, at half of it, ..."""
    side: int = 16
    """Places of the smallest size, along each side."""
    codes: int = 1024
    code_width: int = 256
    width: int = 512
    """The transformer's."""
    layers: int = 9
    fused: tuple[int, ...] = (32, 64, 128, 256)
    """Sides at which the generator hears of the encoder."""

    @property
    def size(self) -> int:
        """Side in pixels."""
        return int(self.side * 2 ** (len(self.widths) - 1))


class ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1 = _norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = _norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.conv_out = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return y + (self.conv_out(x) if hasattr(self, "conv_out") else x)


class AttnBlock(nn.Module):
    """Attention among all places, with one head."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = _norm(width)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = (part(normed).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))  # (n, places, width)
        seen = F.scaled_dot_product_attention(q, k, v)
        y: Tensor = self.proj_out(seen.transpose(1, 2).view_as(x))
        return x + y


class Downsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return y


class Upsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y


class Encoder(nn.Module):
    """Two blocks at each size, with attention at the smallest, and then a middle."""

    def __init__(self, config: CodeFormerConfig):
        super().__init__()
        blocks: list[nn.Module] = [nn.Conv2d(3, config.widths[0], 3, padding=1)]
        inputs = config.widths[0]
        self.last: dict[int, int] = {}
        """Side -> number of the last block before the size is halved."""
        for level, width in enumerate(config.widths):
            smallest = level == len(config.widths) - 1
            blocks += _level(inputs, width, attention=smallest)
            self.last[config.size // 2**level] = len(blocks) - 1
            blocks += [] if smallest else [Downsample(width)]
            inputs = width
        blocks += [ResBlock(inputs, inputs), AttnBlock(inputs), ResBlock(inputs, inputs)]
        blocks += [_norm(inputs), nn.Conv2d(inputs, config.code_width, 3, padding=1)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """The smallest picture, and the last of each size by its side."""
        seen = {}
        for number, block in enumerate(self.blocks):
            x = block(x)
            if self.last.get(x.shape[-1]) == number:
                seen[x.shape[-1]] = x
        return x, seen


class Generator(nn.Module):
    def __init__(self, config: CodeFormerConfig):
        super().__init__()
        inputs = config.widths[-1]
        blocks: list[nn.Module] = [nn.Conv2d(config.code_width, inputs, 3, padding=1)]
        blocks += [ResBlock(inputs, inputs), AttnBlock(inputs), ResBlock(inputs, inputs)]
        self.first: dict[int, int] = {}
        """Number -> side: the first block after the size was doubled."""
        for level, width in reversed(list(enumerate(config.widths))):
            smallest = level == len(config.widths) - 1
            if not smallest:
                self.first[len(blocks)] = config.size // 2**level
            blocks += _level(inputs, width, attention=smallest)
            blocks += [Upsample(width)] if level else []
            inputs = width
        self.blocks = nn.ModuleList([*blocks, _norm(inputs), nn.Conv2d(inputs, 3, 3, padding=1)])


class Quantize(nn.Module):
    def __init__(self, codes: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(codes, width)


class TransformerLayer(nn.Module):
    """Sequences (places, n, width)."""

    def __init__(self, width: int):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, HEADS)
        self.linear1 = nn.Linear(width, 2 * width)
        self.linear2 = nn.Linear(2 * width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.self_attn(normed + places, normed + places, normed, need_weights=False)[0]
        y: Tensor = self.linear2(F.gelu(self.linear1(self.norm2(x))))
        return x + y


class Fuse(nn.Module):
    """What the generator drew, scaled and shifted by what the encoder saw."""

    def __init__(self, width: int):
        super().__init__()
        self.encode_enc = ResBlock(2 * width, width)
        self.scale = _gate(width)
        self.shift = _gate(width)

    def forward(self, seen: Tensor, drawn: Tensor, weight: float) -> Tensor:
        both = self.encode_enc(torch.cat((seen, drawn), 1))
        change: Tensor = drawn * self.scale(both) + self.shift(both)
        return drawn + weight * change


class CodeFormer(nn.Module):
    """Faces (n, 3, size, size) in [-1, 1], aligned, -> restored. Weight 0: the best face, 1: the most alike."""

    def __init__(self, config: CodeFormerConfig):
        super().__init__()
        self.config = config
        self.size = config.size
        self.encoder = Encoder(config)
        self.quantize = Quantize(config.codes, config.code_width)
        self.generator = Generator(config)
        self.position_emb = nn.Parameter(torch.zeros(config.side**2, config.width))
        self.feat_emb = nn.Linear(config.code_width, config.width)
        self.ft_layers = nn.ModuleList(TransformerLayer(config.width) for _ in range(config.layers))
        self.idx_pred_layer = nn.Sequential(
            nn.LayerNorm(config.width), nn.Linear(config.width, config.codes, bias=False)
        )
        by_side = {config.size // 2**level: width for level, width in enumerate(config.widths)}
        self.fuse_convs_dict = nn.ModuleDict({str(side): Fuse(by_side[side]) for side in config.fused})

    def forward(self, x: Tensor, weight: float) -> Tensor:
        found, seen = self.encoder(x)
        places = self.position_emb[:, None]
        y: Tensor = self.feat_emb(found.flatten(2).permute(2, 0, 1))  # (places, n, width)
        for layer in self.ft_layers:
            y = layer(y, places)
        codes = self.quantize.embedding(self.idx_pred_layer(y).argmax(-1))  # (places, n, code_width)
        y = in_the_colours_of(codes.permute(1, 2, 0).reshape(found.shape), found)
        for number, block in enumerate(self.generator.blocks):
            y = block(y)
            side = self.generator.first.get(number)
            if weight > 0 and side in self.config.fused:
                y = self.fuse_convs_dict[str(side)](seen[side], y, weight)
        return y


def in_the_colours_of(x: Tensor, other: Tensor) -> Tensor:
    """``x`` with each channel's mean and deviation those of ``other``: Huang and Belongie (2017), arXiv:1703.06868."""
    (mean, deviation), (wanted_mean, wanted) = (
        (t.mean((2, 3), keepdim=True), (t.var((2, 3), keepdim=True) + 1e-5).sqrt()) for t in (x, other)
    )
    return (x - mean) / deviation * wanted + wanted_mean


def _level(inputs: int, width: int, *, attention: bool) -> list[nn.Module]:
    blocks: list[nn.Module] = []
    for before in (inputs, width):
        blocks += [ResBlock(before, width), AttnBlock(width)] if attention else [ResBlock(before, width)]
    return blocks


def _gate(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(width, width, 3, padding=1)
    )


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


# --------------------------------------------------------------------------------------------------- from a file's keys


def is_codeformer(state: Mapping[str, Tensor]) -> bool:
    wanted = {"position_emb", "idx_pred_layer.1.weight", "quantize.embedding.weight", "encoder.blocks.0.weight"}
    return wanted <= state.keys()


def config_of(state: Mapping[str, Tensor]) -> CodeFormerConfig:
    """Sizes from the shapes."""
    halvings = sum(1 for key in state if re.fullmatch(r"encoder\.blocks\.\d+\.conv\.weight", key))
    pattern = re.compile(r"encoder\.blocks\.(\d+)\.conv1\.weight")
    blocks = sorted(int(match[1]) for key in state if (match := pattern.fullmatch(key)))
    seconds = blocks[1 : 2 * (halvings + 1) : 2]  # two for each size, then the middle's
    codes, code_width = state["quantize.embedding.weight"].shape
    places, width = state["position_emb"].shape
    fused = {int(match[1]) for key in state if (match := re.match(r"fuse_convs_dict\.(\d+)\.", key))}
    return CodeFormerConfig(
        widths=tuple(state[f"encoder.blocks.{number}.conv1.weight"].shape[0] for number in seconds),
        side=math.isqrt(places),
        codes=codes,
        code_width=code_width,
        width=width,
        layers=len({key.split(".")[1] for key in state if key.startswith("ft_layers.")}),
        fused=tuple(sorted(fused)),
    )

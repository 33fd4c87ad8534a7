"""The KL autoencoder of latent diffusion models, with the layer names of ldm checkpoints.

Kingma & Welling (2014), arXiv:1312.6114, in the convolutional form of Esser et al. (2021), arXiv:2012.09841, with a KL
term instead of a codebook (Rombach et al. 2022, arXiv:2112.10752, sec. 3.1). One latent pixel stands for 8x8 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nn.attention import attention


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of an autoencoder; ``channel_mult`` has one entry per level, each but the last halves the sides."""

    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 4
    norm_groups: int = 32


def norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int, groups: int):
        super().__init__()
        self.norm1 = norm(channels, groups)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = norm(out_channels, groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut: nn.Module | None = (
            None if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))  # type: ignore[no-any-return]


class AttnBlock(nn.Module):
    """Attention of every pixel to every other, one head."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        y = self.norm(x)
        q, k, v = (f(y).flatten(2).transpose(1, 2).unsqueeze(1) for f in (self.q, self.k, self.v))  # (b, 1, h*w, c)
        y = attention(q, k, v).squeeze(1).transpose(1, 2).reshape(b, c, h, w)
        return x + self.proj_out(y)  # type: ignore[no-any-return]


class Middle(nn.Module):
    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups)
        self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))  # ldm pads right and bottom only
        return out


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """The residual blocks of one resolution, and the change to the next."""

    downsample: Downsample
    upsample: Upsample

    def __init__(self, blocks: list[ResnetBlock]):
        super().__init__()
        self.block = nn.ModuleList(blocks)


class Encoder(nn.Module):
    def __init__(self, config: VAEConfig):
        super().__init__()
        ch, groups = config.channels, config.norm_groups
        self.conv_in = nn.Conv2d(3, ch, 3, padding=1)
        self.down = nn.ModuleList()
        for level, mult in enumerate(config.channel_mult):
            blocks = []
            for _ in range(config.num_res_blocks):
                blocks.append(ResnetBlock(ch, config.channels * mult, groups))
                ch = config.channels * mult
            down = Level(blocks)
            if level < len(config.channel_mult) - 1:
                down.downsample = Downsample(ch)
            self.down.append(down)
        self.mid = Middle(ch, groups)
        self.norm_out = norm(ch, groups)
        self.conv_out = nn.Conv2d(ch, 2 * config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            for block in level.block:
                h = block(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        out: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(h))))
        return out


class Decoder(nn.Module):
    def __init__(self, config: VAEConfig):
        super().__init__()
        groups = config.norm_groups
        ch = config.channels * config.channel_mult[-1]
        self.conv_in = nn.Conv2d(config.z_channels, ch, 3, padding=1)
        self.mid = Middle(ch, groups)
        levels: list[Level] = []
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            blocks = []
            for _ in range(config.num_res_blocks + 1):
                blocks.append(ResnetBlock(ch, config.channels * mult, groups))
                ch = config.channels * mult
            up = Level(blocks)
            if level:
                up.upsample = Upsample(ch)
            levels.insert(0, up)  # up.0 is the finest level, though it comes last
        self.up = nn.ModuleList(levels)
        self.norm_out = norm(ch, groups)
        self.conv_out = nn.Conv2d(ch, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for level in reversed(list(self.up)):
            for block in level.block:  # type: ignore[union-attr]
                h = block(h)
            if hasattr(level, "upsample"):
                h = level.upsample(h)  # type: ignore[operator]
        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out


class VAE(nn.Module):
    """Pictures (b, 3, h, w) in [-1, 1] to latents (b, z_channels, h / 8, w / 8) and back, without scale factor."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        z = config.z_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * z, 2 * z, 1)
        self.post_quant_conv = nn.Conv2d(z, z, 1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior's mean and log variance, the latter clamped to -30..20."""
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def decode(self, z: Tensor) -> Tensor:
        x: Tensor = self.decoder(self.post_quant_conv(z))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Encode, sample the posterior, decode: what training does."""
        mean, logvar = self.encode(x)
        return self.decode(mean + torch.exp(0.5 * logvar) * torch.randn_like(mean))

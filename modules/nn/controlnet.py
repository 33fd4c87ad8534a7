"""ControlNet: a copy of a UNet's encoder that sees a picture, and whose outputs are added to the UNet's.

Zhang et al. (2023), "Adding Conditional Control to Text-to-Image Diffusion Models", arXiv:2302.05543. Layers have the
names of its author's checkpoints; `ControlNetUnion` is one network for several kinds of pictures (xinsir's
ControlNetPlus), with the names of its file.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nn import fused
from modules.nn.configs import UNetConfig
from modules.nn.unet import TextKeys, UNetEncoder, timestep_embedding

HINT_CHANNELS = (16, 16, 32, 32, 96, 96, 256)
"""Of the layers that the picture goes through on its way to the size of latents; every other one halves its sides."""
_SINUSOIDS = 256
"""For each kind of picture of `ControlNetUnion`."""


class ControlNet(UNetEncoder):
    """``(x, t, context, picture) -> residuals``: one for each input block of the UNet, then that of the middle."""

    def __init__(self, config: UNetConfig):
        super().__init__(config)
        layers: list[nn.Module] = [nn.Conv2d(3, HINT_CHANNELS[0], 3, padding=1)]
        for i, (channels, out) in enumerate(pairwise(HINT_CHANNELS)):
            layers += [nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1, stride=1 + i % 2)]
        layers += [nn.SiLU(), nn.Conv2d(HINT_CHANNELS[-1], config.model_channels, 3, padding=1)]
        self.input_hint_block = nn.Sequential(*layers)
        self.zero_convs = nn.ModuleList(nn.Sequential(nn.Conv2d(ch, ch, 1)) for ch in self.skip_channels)
        last = self.skip_channels[-1]
        self.middle_block_out = nn.Sequential(nn.Conv2d(last, last, 1))

    def hint(self, picture: Tensor) -> Tensor:
        """A picture (n, 3, 8 h, 8 w) in [0, 1] as it is added to the first feature map: (n, model_channels, h, w)."""
        out: Tensor = self.input_hint_block(picture)
        return out

    def residuals(self, x: Tensor, emb: Tensor, text: TextKeys, hint: Tensor, kind: int = 0) -> list[Tensor]:
        """At scaled latents ``x`` (b, 4, h, w), with what `embed`, `text_keys` and `hint` gave; ``hint`` has b rows or
        one. ``kind`` of picture counts in `ControlNetUnion`."""
        fuse = fused.suits(x) and self.layers().untouched()
        emb = self._told(emb, kind)
        emb = F.silu(emb) if fuse else emb
        found, h = [], x
        for i, (block, out) in enumerate(zip(self.input_blocks, self.zero_convs, strict=True)):
            h = self.through(block, h, emb, text, fuse)
            h = self._guided(h, hint, kind) if i == 0 else h
            found.append(out(h))
        h = self.through(self.middle_block, h, emb, text, fuse)
        return [*found, self.middle_block_out(h)]

    def _told(self, emb: Tensor, kind: int) -> Tensor:
        """The embedding, which may tell of what kind the picture is."""
        return emb

    def _guided(self, h: Tensor, hint: Tensor, kind: int) -> Tensor:
        """The first feature map with the picture in it."""
        return h + hint

    def forward(self, x: Tensor, t: Tensor, context: Tensor, picture: Tensor, y: Tensor | None = None) -> list[Tensor]:
        return self.residuals(x, self.embed(t, y), self.text_keys(context), self.hint(picture))


class _UnionLayer(nn.Module):
    """A transformer layer over means of feature maps (b, 2, channels).

    Its author's attention runs over the images of a batch, in the place of the two means of one image: of an image
    alone, and of equal ones, each mean sees itself and no other. That is what is computed here, for all images.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(channels, 1)
        self.ln_1 = nn.LayerNorm(channels)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(channels, channels * 4), "c_proj": nn.Linear(channels * 4, channels)}
        )
        self.ln_2 = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[-1]
        value = slice(2 * channels, None)  # behind those of queries and keys
        assert self.attn.in_proj_weight is not None and self.attn.in_proj_bias is not None
        v = F.linear(self.ln_1(x), self.attn.in_proj_weight[value], self.attn.in_proj_bias[value])
        x = x + self.attn.out_proj(v)
        y = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](y * torch.sigmoid(1.702 * y))  # type: ignore[no-any-return]


class _ControlEmbedding(nn.Module):
    def __init__(self, inputs: int, out: int):
        super().__init__()
        self.linear_1 = nn.Linear(inputs, out)
        self.linear_2 = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return out


class ControlNetUnion(ControlNet):
    """A ControlNet for ``types`` kinds of pictures, one of which is chosen."""

    def __init__(self, config: UNetConfig, types: int):
        super().__init__(config)
        base = config.model_channels
        self.task_embedding = nn.Parameter(torch.zeros(types, base))
        self.transformer_layes = nn.ModuleList([_UnionLayer(base)])  # the file's own spelling
        self.spatial_ch_projs = nn.Linear(base, base)
        self.control_add_embedding = _ControlEmbedding(_SINUSOIDS * types, base * 4)

    def _told(self, emb: Tensor, kind: int) -> Tensor:
        chosen = torch.zeros(len(self.task_embedding), device=emb.device)
        chosen[kind] = 1
        angles = timestep_embedding(chosen, _SINUSOIDS).reshape(1, -1)
        return emb + self.control_add_embedding(angles.to(emb.dtype))  # type: ignore[no-any-return]

    def _guided(self, h: Tensor, hint: Tensor, kind: int) -> Tensor:
        hint = hint.expand(len(h), -1, -1, -1)
        means = torch.stack([hint.mean((2, 3)) + self.task_embedding[kind], h.mean((2, 3))], dim=1)
        for layer in self.transformer_layes:
            means = layer(means)
        return h + hint + self.spatial_ch_projs(means[:, 0])[:, :, None, None]  # type: ignore[no-any-return]

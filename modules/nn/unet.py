"""The denoising UNet of latent diffusion models, with the layer names of ldm checkpoints.

Rombach et al. (2022), "High-Resolution Image Synthesis with Latent Diffusion Models", arXiv:2112.10752, over the
residual UNet of Dhariwal & Nichol (2021), arXiv:2105.05233. One class serves every size of the SD1, SD2 and SDXL
families, inpainting and pruned ones too: `modules.checkpoints.families` reads the configuration off the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nn.attention import KeyValue, attention, join_heads, split_heads
from modules.nn.configs import NO_MIDDLE, ONE_BLOCK, UNetConfig


class CrossAttention(nn.Module):
    """Attention of image tokens to themselves, or to the text when keys and values are given."""

    def __init__(self, channels: int, context_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_dim, channels, bias=False)
        self.to_v = nn.Linear(context_dim, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels), nn.Identity())

    def key_value(self, context: Tensor) -> KeyValue:
        return split_heads(self.to_k(context), self.heads), split_heads(self.to_v(context), self.heads)

    def forward(self, x: Tensor, key_value: KeyValue | None = None) -> Tensor:
        q = split_heads(self.to_q(x), self.heads)
        k, v = key_value or self.key_value(x)
        out: Tensor = self.to_out(join_heads(attention(q, k, v)))
        return out


TextKeys = Mapping[nn.Module, KeyValue]
"""Keys and values of the text for each cross-attention layer: constant over the steps of a batch."""


class GEGLU(nn.Module):
    """Shazeer (2020), "GLU Variants Improve Transformer", arXiv:2002.05202."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(channels, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(channels, channels * 4), nn.Identity(), nn.Linear(channels * 4, channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class TransformerBlock(nn.Module):
    def __init__(self, channels: int, context_dim: int, heads: int):
        super().__init__()
        self.attn1 = CrossAttention(channels, channels, heads)
        self.ff = FeedForward(channels)
        self.attn2 = CrossAttention(channels, context_dim, heads)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.norm3 = nn.LayerNorm(channels)

    def forward(self, x: Tensor, text: TextKeys) -> Tensor:  # (b, tokens, channels)
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), text[self.attn2])
        return x + self.ff(self.norm3(x))  # type: ignore[no-any-return]


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map (b, c, h, w)."""

    def __init__(self, channels: int, depth: int, config: UNetConfig):
        super().__init__()
        self.linear = config.linear_proj
        self.norm = nn.GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.proj_in = self._projection(channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, config.context_dim, config.heads(channels)) for _ in range(depth)
        )
        self.proj_out = self._projection(channels)

    def _projection(self, channels: int) -> nn.Module:
        return nn.Linear(channels, channels) if self.linear else nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, text: TextKeys) -> Tensor:
        b, c, h, w = x.shape
        y: Tensor = self.norm(x)
        if not self.linear:
            y = self.proj_in(y)
        y = y.permute(0, 2, 3, 1).reshape(b, h * w, c)  # (b, tokens, channels): a view in channels_last
        if self.linear:
            y = self.proj_in(y)
        for block in self.transformer_blocks:
            y = block(y, text)
        if self.linear:
            y = self.proj_out(y)
        y = y.reshape(b, h, w, c).permute(0, 3, 1, 2)
        if not self.linear:
            y = self.proj_out(y)
        return x + y


class ResBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int, emb_channels: int, groups: int):
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, out_channels),
            nn.SiLU(),
            nn.Identity(),  # the place of dropout: keeps the checkpoint's numbering
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        out: Tensor = self.skip_connection(x) + self.out_layers(h)
        return out


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """To ``size`` (h, w): that of the skip, which for sides not divisible by 8 latents is not twice x's."""
        out: Tensor = self.conv(F.interpolate(x, size=tuple(size), mode="nearest"))
        return out


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoids of ``t`` (b,), cosines first -> (b, dim) float32. Ho et al. (2020), arXiv:2006.11239, app. B."""
    half = dim // 2
    freqs = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    args = t.float()[:, None] * freqs[None]  # float32: bfloat16 keeps only 507 of the 1000 timesteps apart
    return torch.cat([args.cos(), args.sin()], dim=-1)


class UNet(nn.Module):
    """Predicts noise (or v) in latents: ``(x, t, context) -> (b, out_channels, h, w)``.

    ``forward`` is the plain way. A sampler calls the three parts instead: `embed` for all its steps and `text_keys`
    for its texts once per batch, then `run` at every step.
    """

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        self.changes = 0
        """How often its weights changed while it was in use: what was computed from them before no longer holds."""
        base, groups = config.model_channels, config.norm_groups
        emb = base * 4
        self.time_embed = nn.Sequential(nn.Linear(base, emb), nn.SiLU(), nn.Linear(emb, emb))
        if config.vector_dim:
            vector = nn.Sequential(nn.Linear(config.vector_dim, emb), nn.SiLU(), nn.Linear(emb, emb))
            self.label_emb = nn.Sequential(vector)

        def stage(channels: int, out: int, depth: int) -> list[nn.Module]:
            block: list[nn.Module] = [ResBlock(channels, out, emb, groups)]
            return block + ([SpatialTransformer(out, depth, config)] if depth else [])

        levels, blocks = config.channel_mult, config.num_res_blocks
        down, up = iter(config.depths_down), iter(config.depths_up)
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(config.in_channels, base, 3, padding=1)])])
        skips, ch = [base], base
        for level, mult in enumerate(levels):
            for _ in range(blocks):
                self.input_blocks.append(nn.ModuleList(stage(ch, base * mult, next(down))))
                ch = base * mult
                skips.append(ch)
            if level < len(levels) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(ch)]))
                skips.append(ch)

        middle = stage(ch, ch, max(config.middle_depth, 0)) if config.middle_depth != NO_MIDDLE else []
        if config.middle_depth > ONE_BLOCK:
            middle.append(ResBlock(ch, ch, emb, groups))
        self.middle_block = nn.ModuleList(middle)

        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(levels))):
            for i in range(blocks + 1):
                block = stage(ch + skips.pop(), base * mult, next(up))
                ch = base * mult
                if level and i == blocks:
                    block.append(Upsample(ch))
                self.output_blocks.append(nn.ModuleList(block))
        self.out = nn.Sequential(nn.GroupNorm(groups, ch), nn.SiLU(), nn.Conv2d(ch, config.out_channels, 3, padding=1))

    def embed(self, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Timesteps (b,), which may be fractional, and SDXL's vector (b, vector_dim) -> (b, 4 * model_channels)."""
        dtype = next(self.time_embed.parameters()).dtype
        emb: Tensor = self.time_embed(timestep_embedding(t, self.config.model_channels).to(dtype))
        return emb if y is None else emb + self.label(y)

    def label(self, y: Tensor) -> Tensor:
        """A vector (b, vector_dim) as it is added to the embedding of time: (b, 4 * model_channels)."""
        out: Tensor = self.label_emb(y.to(next(self.label_emb.parameters()).dtype))
        return out

    def text_keys(self, context: Tensor) -> TextKeys:
        """Text states (b, tokens, context_dim) -> keys and values of every cross-attention layer."""
        return {block.attn2: block.attn2.key_value(context) for block in self._transformer_blocks()}

    def _transformer_blocks(self) -> Iterator[TransformerBlock]:
        return (module for module in self.modules() if isinstance(module, TransformerBlock))

    def run(self, x: Tensor, emb: Tensor, text: TextKeys) -> Tensor:
        """One evaluation at latents ``x`` (b, in_channels, h, w) with what `embed` and `text_keys` gave."""

        def through(block: nn.Module, h: Tensor, size: Sequence[int] = ()) -> Tensor:
            for layer in block.children():
                if isinstance(layer, ResBlock):
                    h = layer(h, emb)
                elif isinstance(layer, SpatialTransformer):
                    h = layer(h, text)
                elif isinstance(layer, Upsample):
                    h = layer(h, size)
                else:
                    h = layer(h)
            return h

        skips, h = [], x
        for block in self.input_blocks:
            h = through(block, h)
            skips.append(h)
        h = through(self.middle_block, h)
        for block in self.output_blocks:
            h = torch.cat([h, skips.pop()], dim=1)
            h = through(block, h, skips[-1].shape[-2:] if skips else ())
        out: Tensor = self.out(h)
        return out

    def forward(self, x: Tensor, t: Tensor, context: Tensor, y: Tensor | None = None) -> Tensor:
        return self.run(x, self.embed(t, y), self.text_keys(context))

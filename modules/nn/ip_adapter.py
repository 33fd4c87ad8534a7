"""IP-Adapter: a picture as tokens beside those of the text, with keys and values of their own in each cross-attention.

Ye et al. (2023), arXiv:2308.06721. Layers have the names of its authors' files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nn.attention import KeyValue, attention, join_heads, split_heads

PLAIN, PLUS, FULL = "plain", "plus", "full"
_HEAD = 64


@dataclass(frozen=True)
class IPAdapterConfig:
    kind: str
    """PLAIN takes what CLIP makes of a whole picture, PLUS and FULL the states of its patches."""
    image_width: int
    context_dim: int
    widths: tuple[int, ...]
    """Channels of each cross-attention, in the file's order."""
    tokens: int = 4
    inner: int = 0
    """Width within the resampler of PLUS, and its depth and attention's width."""
    depth: int = 4
    attention_width: int = 0

    @property
    def takes_states(self) -> bool:
        return self.kind != PLAIN


class _Projection(nn.Module):
    def __init__(self, config: IPAdapterConfig):
        super().__init__()
        self.tokens = config.tokens
        self.proj = nn.Linear(config.image_width, config.tokens * config.context_dim)
        self.norm = nn.LayerNorm(config.context_dim)

    def forward(self, picture: Tensor) -> Tensor:
        out: Tensor = self.norm(self.proj(picture).reshape(len(picture), self.tokens, -1))
        return out


class _Full(nn.Module):
    def __init__(self, config: IPAdapterConfig):
        super().__init__()
        width = config.image_width
        norm = nn.LayerNorm(config.context_dim)
        self.proj = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, config.context_dim), norm)

    def forward(self, states: Tensor) -> Tensor:
        out: Tensor = self.proj(states)
        return out


class _Perceiver(nn.Module):
    """Attention of the tokens to the picture's states and to each other (Jaegle et al. 2021, arXiv:2103.03206)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.heads = inner // _HEAD if inner >= _HEAD else 1
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        x, latents = self.norm1(x), self.norm2(latents)
        k, v = self.to_kv(torch.cat([x, latents], dim=1)).chunk(2, dim=-1)
        q, k, v = (split_heads(part, self.heads) for part in (self.to_q(latents), k, v))
        out: Tensor = self.to_out(join_heads(attention(q, k, v)))
        return out


class _Resampler(nn.Module):
    def __init__(self, config: IPAdapterConfig):
        super().__init__()
        width = config.inner

        def feed_forward() -> nn.Module:
            first, last = nn.Linear(width, width * 4, bias=False), nn.Linear(width * 4, width, bias=False)
            return nn.Sequential(nn.LayerNorm(width), first, nn.GELU(), last)

        self.latents = nn.Parameter(torch.zeros(1, config.tokens, width))
        self.proj_in = nn.Linear(config.image_width, width)
        self.layers = nn.ModuleList(
            nn.ModuleList([_Perceiver(width, config.attention_width), feed_forward()]) for _ in range(config.depth)
        )
        self.proj_out = nn.Linear(width, config.context_dim)
        self.norm_out = nn.LayerNorm(config.context_dim)

    def forward(self, states: Tensor) -> Tensor:
        latents, x = self.latents.expand(len(states), -1, -1), self.proj_in(states)
        for layer in self.layers:
            attend, feed_forward = layer.children()
            latents = attend(x, latents) + latents
            latents = feed_forward(latents) + latents
        out: Tensor = self.norm_out(self.proj_out(latents))
        return out


class _Keys(nn.Module):
    def __init__(self, context_dim: int, width: int):
        super().__init__()
        self.to_k_ip = nn.Linear(context_dim, width, bias=False)
        self.to_v_ip = nn.Linear(context_dim, width, bias=False)


class IPAdapter(nn.Module):
    """What `modules.nn.clip_vision.CLIPVision` gives -> tokens (n, tokens, context_dim), and their keys and values."""

    def __init__(self, config: IPAdapterConfig):
        super().__init__()
        self.config = config
        kinds = {PLAIN: _Projection, FULL: _Full, PLUS: _Resampler}
        self.image_proj = kinds[config.kind](config)
        self.ip_adapter = nn.ModuleDict(
            {str(2 * i + 1): _Keys(config.context_dim, width) for i, width in enumerate(config.widths)}
        )

    def forward(self, picture: Tensor) -> Tensor:
        out: Tensor = self.image_proj(picture)
        return out

    def key_values(self, tokens: Tensor, heads: Sequence[int]) -> list[KeyValue]:
        """For each cross-attention in the file's order, which has so many ``heads``."""
        found = []
        for keys, count in zip(self.ip_adapter.values(), heads, strict=True):
            assert isinstance(keys, _Keys)
            found.append((split_heads(keys.to_k_ip(tokens), count), split_heads(keys.to_v_ip(tokens), count)))
        return found


def beside(out: Tensor, q: Tensor, key_value: KeyValue, weight: float) -> Tensor:
    """An attention's answer ``out`` (rows, heads, n, d) with that to a picture's tokens."""
    return out + weight * F.scaled_dot_product_attention(q, *key_value)

"""OpenCLIP's text transformer with the layer names of ldm checkpoints, which are open_clip's.

Ilharco et al. (2021), "OpenCLIP", doi:10.5281/zenodo.5143773. ViT-H is the text encoder of Stable Diffusion 2, ViT-bigG
the second of SDXL and the only one of its refiner.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from modules.nn.attention import attention, join_heads, split_heads
from modules.nn.configs import TextConfig
from modules.nn.text import ACTIVATIONS, TextEncoder


class Attention(nn.Module):
    """Each token looks at itself and at those before it. Queries, keys and values come out of one matrix."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = nn.functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = (split_heads(part, self.heads) for part in qkv.chunk(3, dim=-1))
        out: Tensor = self.out_proj(join_heads(attention(q, k, v, causal=True)))
        return out


class MLP(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.c_fc = nn.Linear(config.width, config.inner)
        self.c_proj = nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(self.activation(self.c_fc(x)))
        return out


class ResidualBlock(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width)
        self.attn = Attention(config.width, config.heads)
        self.ln_2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:  # (b, tokens, width)
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.resblocks = nn.ModuleList(ResidualBlock(config) for _ in range(config.layers))


class OpenCLIPText(TextEncoder):
    """Token ids (b, n), 0 behind the first end token, to states (b, n, width) and pooled ones (b, projection)."""

    def __init__(self, config: TextConfig):
        super().__init__(config)
        self.positional_embedding = nn.Parameter(torch.empty(config.positions, config.width))
        if config.projection:
            self.text_projection = nn.Parameter(torch.empty(config.width, config.projection))
        self.transformer = Transformer(config)
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.ln_final = nn.LayerNorm(config.width)
        self._initialise()

    def embed(self, ids: Tensor) -> Tensor:
        out: Tensor = self.token_embedding(ids)
        return out

    def positions(self) -> Tensor:
        return self.positional_embedding

    def blocks(self) -> Iterable[nn.Module]:
        return self.transformer.resblocks

    def norm(self, x: Tensor) -> Tensor:
        out: Tensor = self.ln_final(x)
        return out

    def project(self, x: Tensor) -> Tensor:
        return x @ self.text_projection

    def _initialise(self) -> None:
        """Fresh weights as CLIP's authors draw them."""
        width = self.config.width
        into, out = width**-0.5, width**-0.5 * (2 * self.config.layers) ** -0.5
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        if self.config.projection:
            nn.init.normal_(self.text_projection, std=into)
        for name, parameter in self.transformer.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                kind = name.split(".")[-2]
                std = {"c_fc": (2 * width) ** -0.5, "c_proj": out, "out_proj": out}.get(kind, into)
                nn.init.normal_(parameter, std=std)

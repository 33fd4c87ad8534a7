"""CLIP's vision transformer with the layer names of transformers' ``CLIPVisionModelWithProjection``.

Radford et al. (2021), arXiv:2103.00020. IP-Adapters see pictures through it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modules.nn.clip import Layer

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of pictures in [0, 1], as CLIP was trained."""


@dataclass(frozen=True)
class VisionConfig:
    """Sizes, all but heads and activation of which the tensors tell. Heads have 64 channels, of ViT-H and larger 80
    and 104, whose activation is "gelu"."""

    width: int
    layers: int
    heads: int
    inner: int
    patch: int
    size: int
    """Of the pictures, in pixels."""
    projection: int
    activation: str = "gelu"


class _Embeddings(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(config.width))
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch, stride=config.patch, bias=False)
        self.position_embedding = nn.Embedding((config.size // config.patch) ** 2 + 1, config.width)

    def forward(self, pictures: Tensor) -> Tensor:
        patches = self.patch_embedding(pictures).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class _Encoder(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config, causal=False) for _ in range(config.layers))


class _Transformer(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.width)  # CLIP's own spelling
        self.encoder = _Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.width)


class CLIPVision(nn.Module):
    """Pictures (n, 3, size, size), normalised -> (n, projection), and the states before the last layer (n, tokens,
    width)."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.vision_model = _Transformer(config)
        self.visual_projection = nn.Linear(config.width, config.projection, bias=False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        network = self.vision_model
        x = network.pre_layrnorm(network.embeddings(pictures))
        *layers, last = network.encoder.layers
        for layer in layers:
            x = layer(x)
        pooled: Tensor = self.visual_projection(network.post_layernorm(last(x)[:, 0]))
        return pooled, x

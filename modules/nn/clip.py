"""CLIP's text transformer with the layer names of transformers' ``CLIPTextModel``, which checkpoints carry.

Radford et al. (2021), arXiv:2103.00020, sec. 2.4; the text encoder of Stable Diffusion 1.x and the first of SDXL's two.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor, nn

from modules.nn.attention import attention, join_heads, split_heads
from modules.nn.configs import TextConfig
from modules.nn.text import ACTIVATIONS, TextEncoder


class LayerConfig(Protocol):
    """Sizes of a layer."""

    @property
    def width(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def inner(self) -> int: ...
    @property
    def activation(self) -> str: ...


class Attention(nn.Module):
    """Each token looks at all or, where it is ``causal``, at itself and those before it."""

    def __init__(self, width: int, heads: int, *, causal: bool):
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (split_heads(f(x), self.heads) for f in (self.q_proj, self.k_proj, self.v_proj))
        out: Tensor = self.out_proj(join_heads(attention(q, k, v, causal=self.causal)))
        return out


class MLP(nn.Module):
    def __init__(self, config: LayerConfig):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.fc1 = nn.Linear(config.width, config.inner)
        self.fc2 = nn.Linear(config.inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.activation(self.fc1(x)))
        return out


class Layer(nn.Module):
    """One of a text encoder, or not ``causal`` of a vision transformer."""

    def __init__(self, config: LayerConfig, *, causal: bool = True):
        super().__init__()
        self.self_attn = Attention(config.width, config.heads, causal=causal)
        self.layer_norm1 = nn.LayerNorm(config.width)
        self.mlp = MLP(config)
        self.layer_norm2 = nn.LayerNorm(config.width)

    def forward(self, x: Tensor) -> Tensor:  # (b, tokens, width)
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))  # type: ignore[no-any-return]


class Embeddings(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.position_embedding = nn.Embedding(config.positions, config.width)


class Encoder(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))


class CLIPText(TextEncoder):
    """Token ids (b, n) -> states (b, n, width). It has no projection."""

    def __init__(self, config: TextConfig):
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.width)
        self._initialise()

    def embed(self, ids: Tensor) -> Tensor:
        out: Tensor = self.embeddings.token_embedding(ids)
        return out

    def positions(self) -> Tensor:
        return self.embeddings.position_embedding.weight

    def blocks(self) -> Iterable[nn.Module]:
        return self.encoder.layers

    def norm(self, x: Tensor) -> Tensor:
        out: Tensor = self.final_layer_norm(x)
        return out

    def project(self, x: Tensor) -> Tensor:
        return x

    def _initialise(self) -> None:
        """Fresh weights as CLIP's authors draw them; the deeper the network, the less each layer adds."""
        width, layers = self.config.width, self.config.layers
        into, out = width**-0.5, width**-0.5 * (2 * layers) ** -0.5
        nn.init.normal_(self.embeddings.token_embedding.weight, std=0.02)
        nn.init.normal_(self.embeddings.position_embedding.weight, std=0.02)
        for name, parameter in self.encoder.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                kind = name.split(".")[-2]
                std = {"fc1": (2 * width) ** -0.5, "out_proj": into}.get(kind, out)
                nn.init.normal_(parameter, std=std)

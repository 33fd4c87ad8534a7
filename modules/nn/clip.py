"""The CLIP text transformer of latent diffusion models, around `transformers.CLIPTextModel`.

Radford et al. (2021), arXiv:2103.00020. The class adds what conditioning needs: clip skip, and textual-inversion
vectors in place of token embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a text transformer; the defaults are CLIP ViT-L/14's. Head count and activation are in no tensor."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    inner: int = 3072
    vocabulary: int = 49408
    positions: int = 77
    activation: str = "quick_gelu"


@dataclass(frozen=True)
class Inserted:
    """Textual-inversion vectors (n, width) that replace the token embeddings of row ``row`` from ``position`` on."""

    row: int
    position: int
    vectors: Tensor


class TextEncoder(nn.Module):
    """Token ids (b, 77) -> states (b, 77, width)."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.transformer = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=config.vocabulary,
                hidden_size=config.width,
                intermediate_size=config.inner,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                max_position_embeddings=config.positions,
                hidden_act=config.activation,
                bos_token_id=49406,
                eos_token_id=49407,
                attn_implementation="sdpa",
            )
        )

    def forward(self, ids: Tensor, clip_skip: int = 1, inserted: Sequence[Inserted] = ()) -> Tensor:
        """States after the final norm, of the last layer or of the ``clip_skip``-th from the end."""
        with self._inserting(inserted):
            out = self.transformer(input_ids=ids, output_hidden_states=clip_skip > 1)
        if clip_skip <= 1:
            return out.last_hidden_state  # type: ignore[no-any-return]
        states = out.hidden_states[-min(clip_skip, self.config.layers)]
        return self.transformer.final_layer_norm(states)  # type: ignore[no-any-return]

    def place_buffers(self, device: torch.device) -> None:
        """Give the position numbers, which no checkpoint holds, their storage after construction without one."""
        self.transformer.embeddings.position_ids = torch.arange(self.config.positions, device=device)[None]

    @contextmanager
    def _inserting(self, inserted: Sequence[Inserted]) -> Iterator[None]:
        if not inserted:
            yield
            return

        def replace(_module: nn.Module, _args: object, embedded: Tensor) -> Tensor:
            embedded = embedded.clone()
            for item in inserted:
                room = embedded.shape[1] - item.position
                vectors = item.vectors[:room].to(embedded)
                embedded[item.row, item.position : item.position + len(vectors)] = vectors
            return embedded

        handle = self.transformer.embeddings.token_embedding.register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()

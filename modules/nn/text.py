"""What the text transformers of CLIP and OpenCLIP have in common.

Radford et al. (2021), arXiv:2103.00020: a causal transformer with the norm before each part. Two classes differ in the
names and shapes of their layers alone; the caller picks which layer's states it wants, with the final norm or without.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nn.configs import TextConfig


@dataclass(frozen=True)
class Inserted:
    """Textual-inversion vectors (n, width) that replace the token embeddings of row ``row`` from ``position`` on."""

    row: int
    position: int
    vectors: Tensor


@dataclass(frozen=True)
class TextStates:
    """A state per token (b, tokens, width) and, from a network with a projection, one per text (b, projection)."""

    context: Tensor
    pooled: Tensor | None = None


def quick_gelu(x: Tensor) -> Tensor:
    """Hendrycks & Gimpel (2016), arXiv:1606.08415, sec. 2: x sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": F.gelu}


class TextEncoder(nn.Module):
    """Token ids (b, n), n at most ``config.positions``, to `TextStates`."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings (b, n, width), without positions."""

    @abstractmethod
    def positions(self) -> Tensor:
        """(positions, width)."""

    @abstractmethod
    def blocks(self) -> Iterable[nn.Module]:
        """From the first to the last."""

    @abstractmethod
    def norm(self, x: Tensor) -> Tensor:
        """The final norm."""

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """Pooled states (b, width) -> (b, projection)."""

    def forward(
        self, ids: Tensor, clip_skip: int = 1, inserted: Sequence[Inserted] = (), *, norm: bool = True
    ) -> TextStates:
        """States of the last layer, or of the ``clip_skip``-th from the end, after the final norm unless not ``norm``.

        The pooled state is always the last layer's, at the place of the highest id, which is the first end token.
        """
        x = self._inserted(self.embed(ids), inserted) + self.positions()[: ids.shape[1]]
        last = self.config.layers - min(max(clip_skip, 1), self.config.layers) + 1
        context = x
        for number, block in enumerate(self.blocks(), start=1):
            x = block(x)
            if number == last:
                context = x
                if not self.config.projection:
                    break
        context = self.norm(context) if norm else context
        if not self.config.projection:
            return TextStates(context)
        rows = torch.arange(len(ids), device=ids.device)
        return TextStates(context, self.project(self.norm(x)[rows, ids.argmax(dim=-1)]))

    @staticmethod
    def _inserted(embedded: Tensor, inserted: Sequence[Inserted]) -> Tensor:
        if inserted:
            embedded = embedded.clone()
        for item in inserted:
            vectors = item.vectors[: embedded.shape[1] - item.position].to(embedded)
            embedded[item.row, item.position : item.position + len(vectors)] = vectors
        return embedded

"""Captions as token ids, with CLIP's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.prompt.chunks import chunk
from modules.prompt.tokens import END, START, default_tokenizer

LENGTH = 77


def weighted_ids(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(b, 77) ids and (b, 77) weights of texts that may say ``(blue:1.4)``, read by the program's own parser."""
    rows = [chunk(text, default_tokenizer()).chunks[0] for text in texts]
    return torch.tensor([row.ids for row in rows]), torch.tensor([row.weights for row in rows])


def token_ids(texts: Sequence[str]) -> Tensor:
    """(b, 77) ids: start, words, end, and the end token again as padding; what is too long is cut."""
    tokenizer = default_tokenizer()
    rows = []
    for text in texts:
        words = tokenizer.ids(text)[: LENGTH - 2]
        rows.append([START, *words] + [END] * (LENGTH - 1 - len(words)))
    return torch.tensor(rows, dtype=torch.long)

"""Captions as token ids, with CLIP's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.prompt.tokens import END, START, default_tokenizer

LENGTH = 77


def token_ids(texts: Sequence[str]) -> Tensor:
    """(b, 77) ids: start, words, end, and the end token again as padding; what is too long is cut."""
    tokenizer = default_tokenizer()
    rows = []
    for text in texts:
        words = tokenizer.ids(text)[: LENGTH - 2]
        rows.append([START, *words] + [END] * (LENGTH - 1 - len(words)))
    return torch.tensor(rows, dtype=torch.long)

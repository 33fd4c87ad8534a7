"""Captions as token ids, with CLIP's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTokenizer

FOLDER = Path("models/clip")
LENGTH = 77


class Tokenizer:
    """``(texts) -> (b, 77)`` ids: start, words, end, and the end token again as padding."""

    def __init__(self, folder: Path = FOLDER):
        if not (folder / "vocab.json").is_file():
            raise FileNotFoundError(f"no CLIP vocabulary (vocab.json, merges.txt) in {folder}")
        self.tokenizer = CLIPTokenizer.from_pretrained(str(folder))

    def __call__(self, texts: Sequence[str]) -> Tensor:
        rows = self.tokenizer(list(texts), padding="max_length", max_length=LENGTH, truncation=True).input_ids
        return torch.tensor(rows, dtype=torch.long)

"""Captions as token ids, with CLIP's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modules.prompt.chunks import chunk
from modules.prompt.tokens import END, START, default_tokenizer
from modules.training.render.captions import caption, vocabulary
from modules.training.render.scenes import Scene

LENGTH = 77
SHORT = 48
"""Tokens that training reads of a caption: none is longer, and attention is causal."""
UNKNOWN = 49400
"""Stands in training for every word that no caption uses; the export gives its vector to all of them."""


@cache
def known() -> frozenset[int]:
    """The tokens of which captions are made; start and end are among them."""
    spelled = (default_tokenizer().ids(word) for word in vocabulary())
    return frozenset({START, END}.union(*spelled))


def weighted_ids(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(b, 77) ids and (b, 77) weights of texts that may say ``(blue:1.4)``, read by the program's own parser."""
    rows = [chunk(text, default_tokenizer()).chunks[0] for text in texts]
    return torch.tensor([row.ids for row in rows]), torch.tensor([row.weights for row in rows])


def token_ids(texts: Sequence[str]) -> Tensor:
    """(b, 77) ids: start, words, end, and the end token again as padding; what is too long is cut."""
    tokenizer = default_tokenizer()
    return torch.tensor([_row(tokenizer.ids(text), LENGTH) for text in texts], dtype=torch.long)


def _row(words: Sequence[int], length: int) -> list[int]:
    words = words[: length - 2]
    return [START, *words] + [END] * (length - 1 - len(words))


def nothing_known(count: int) -> Tensor:
    """(1, 77) ids of a caption of ``count`` words that nobody taught."""
    return torch.tensor([_row([UNKNOWN] * count, LENGTH)], dtype=torch.long)


def with_unknown(words: Sequence[int], weights: Sequence[float], rng: Random) -> tuple[list[int], list[float]]:
    """A caption of which runs of 1 to 8 unknown words interrupt the sense: one or, seldom, two."""
    ids, said = list(words), list(weights)
    for _ in range(rng.choice((1, 1, 2))):
        at, run = rng.choice((0, len(ids), rng.randint(0, len(ids)))), rng.choice((1, 1, 2, 3, 5, 8))
        ids[at:at] = [UNKNOWN] * run
        said[at:at] = [1.0] * run
    return ids, said


def tokenised(scene: Scene, rng: Random, unknown: float) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """One caption of ``scene`` as (`SHORT`,) ids and as many weights in tenths; a share ``unknown`` is interrupted."""
    ids, weights = _read(caption(scene, rng))
    if rng.random() < unknown:
        ids, weights = with_unknown(ids, weights, rng)
    weights = [1.0, *weights[: SHORT - 2]]
    tenths = [round(10 * weight) for weight in weights + [1.0] * (SHORT - len(weights))]
    return np.array(_row(ids, SHORT), np.uint16), np.array(tenths, np.uint8)


def _read(text: str) -> tuple[list[int], list[float]]:
    """The words of ``text`` and their weights. Where nothing is in brackets there is nothing to parse."""
    if not set(text) & set("()[]\\"):
        ids = default_tokenizer().ids(text)
        return ids, [1.0] * len(ids)
    said, weights = (part[0].tolist() for part in weighted_ids([text]))
    words = said.index(END) - 1
    return said[1 : words + 1], weights[1 : words + 1]

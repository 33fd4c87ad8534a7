"""How a request is computed where memory is short: what was split, moved, sliced or tiled. Recipes name it.

The first two keep every byte of an image with exact kernels, the others round differently. No torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from modules.errors import OutOfMemory, UserError, out_of_memory

T = TypeVar("T")


@dataclass(frozen=True)
class Way:
    """The measures taken against want of memory; none by default."""

    one_by_one: bool = False
    """Each image of a batch goes through the UNet by itself."""
    streamed: bool = False
    """The UNet's weights lie in main memory and come to the card block by block."""
    sliced: bool = False
    """Attention is computed for some of the queries at a time, and each prompt in a call of its own."""
    tiled_encode: int = 0
    """From this many latent pixels on images are encoded in bands; 0: none is."""
    tiled_decode: int = 0
    """The same of decoding."""

    def to_json(self) -> dict[str, Any]:
        """What was done alone, so that a request that needed nothing has an empty record."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Way:
        """Read a recipe's record; raises `UserError` for a measure that this version does not know."""
        known = {field.name: field.type for field in dataclasses.fields(cls)}
        for name, value in values.items():
            if str(type(value).__name__) != known.get(name):
                raise UserError(
                    f"this recipe was computed with {name[:40]}, which this version does not know",
                    hint="use the version that made the picture, or a newer one",
                    field="recipe",
                )
        return cls(**values)

    def __str__(self) -> str:
        """
        >>> print(Way(one_by_one=True, tiled_decode=16384))
        images one by one, decoded in bands
        """
        words = {
            "one_by_one": "images one by one",
            "streamed": "weights streamed from main memory",
            "sliced": "attention in slices",
            "tiled_encode": "encoded in bands",
            "tiled_decode": "decoded in bands",
        }
        return ", ".join(words[name] for name in self.to_json())


class SamplingRanOut(OutOfMemory):
    """Memory ran out while a batch was sampled: it can be tried in another way."""


class Memory:
    """The way of one run, which changes where memory runs out. What can be repaired in place is, by `attempt`."""

    def __init__(self, way: Way = Way(), *, relieve: Callable[[], bool] = lambda: False, can_stream: bool = False):
        """``relieve`` frees what others hold and says whether there was any; ``can_stream``: weights can lie
        elsewhere than where they are computed with.
        """
        self.way = way
        self._relieve = relieve
        self._can_stream = can_stream

    def attempt(self, compute: Callable[[], T]) -> T:
        """``compute()``; where memory runs out, once more after others' memory was freed."""
        try:
            return compute()
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            failure = out_of_memory(error)
        # Behind the except clause: the error's traceback held what was computed so far.
        if not self._relieve():
            assert failure
            raise failure
        return compute()

    def tiles(self, measure: str, area: int) -> bool:
        """Whether an image of ``area`` latent pixels is to be encoded or decoded in bands."""
        least: int = getattr(self.way, measure)
        return 0 < least <= area

    def coded(
        self, measure: str, area: int, whole: Callable[[], T], tiled: Callable[[], T], fits: Callable[[], bool]
    ) -> T:
        """What ``whole()`` gives or, if that does not fit, ``tiled()``. ``measure``: "tiled_encode" or
        "tiled_decode".
        """
        if not self.tiles(measure, area):
            if fits() or (self._relieve() and fits()):
                try:
                    return self.attempt(whole)
                except (OutOfMemory, MemoryError, RuntimeError) as error:
                    if not out_of_memory(error):
                        raise
            smaller: dict[str, Any] = {measure: area}
            self.way = replace(self.way, **smaller)
        return self.attempt(tiled)

    def climb(self, images: int) -> str:
        """Take the next measure for sampling a batch of so many ``images``; a sentence that says which, or "" if there
        is none left.
        """
        for name, sentence in self._measures(images):
            if not getattr(self.way, name):
                self.way = replace(self.way, **{name: True})
                return sentence
        return ""

    def _measures(self, images: int) -> Iterator[tuple[str, str]]:
        if images > 1:
            yield "one_by_one", "there was too little memory for all images together, so they are made one by one"
        if self._can_stream:
            yield "streamed", "the card has too little memory, so weights come from main memory block by block"
        yield "sliced", "there was too little memory, so attention is computed in slices"

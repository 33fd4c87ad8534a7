"""What a run hands out: progress while it goes on, and finished images with what made them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image

from modules.metadata.recipe import Recipe
from modules.params.generation import GenerationParams
from modules.pipeline.hooks import Hooks


@dataclass(frozen=True)
class Progress:
    """One step of one batch. ``preview()`` draws the first image of the batch as it looks now."""

    first_image: int
    """Number of the batch's first image within the request, from 0."""
    images: int
    """Of the whole request."""
    step: int
    """Steps done in this batch."""
    steps: int
    fraction: float
    """Of the whole request, above 0 and at most 1."""
    preview: Callable[[], Image.Image]


@dataclass(frozen=True)
class RunCallbacks:
    """Functions that are told of a run while it goes on, or asked whether it shall."""

    on_progress: Callable[[Progress], object] = lambda _: None
    on_note: Callable[[str], None] = lambda _: None
    """Sentences about what was changed in the request."""
    cancelled: Callable[[], bool] = lambda: False
    skips: Callable[[], int] = lambda: 0
    """How often it was asked to make the image at hand from what there is; looked at after each step was told."""

    def from_now(self) -> RunCallbacks:
        """The same for one batch: what was asked of an earlier one is done with."""
        before, skips = self.skips(), self.skips
        return replace(self, skips=lambda: skips() - before)

    def note_once(self) -> Callable[[str], None]:
        """``on_note`` for notes that come again with each batch and each try: equal ones are told once."""
        noted: set[str] = set()

        def note_once(note: str) -> None:
            if note not in noted:
                noted.add(note)
                self.on_note(note)

        return note_once


@dataclass(frozen=True)
class BatchImage:
    """An image of a batch, and how it came about."""

    number: int
    """In the batch, from 0."""
    image: Image.Image
    infotext_params: GenerationParams
    """The request as the infotext tells it."""
    hooks: Hooks
    """Of its last pass."""
    skipped: int = 0
    """Steps after which it was cut short; 0: it was not."""


@dataclass(frozen=True)
class Result:
    """A finished image and what made it."""

    image: Image.Image
    infotext: str
    recipe: Recipe

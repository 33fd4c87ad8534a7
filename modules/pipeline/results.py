"""The outputs of a run: progress, and finished images with their records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from modules.imaging.latent_preview import CHEAP
from modules.metadata.recipe import Recipe
from modules.params.generation import GenerationParams
from modules.pipeline.hooks import Hooks


@dataclass(frozen=True)
class Progress:
    """One step of one batch. ``preview()`` draws the first image of the batch as it looks now."""

    first_image: int
    """Number of the batch's first image within the request, from 0."""
    images: int
    """The number of images of the whole request."""
    step: int
    """Steps done in this batch."""
    steps: int
    fraction: float
    """Progress of the whole request, above 0 and at most 1."""
    preview: Callable[[], Image.Image]


@dataclass(frozen=True)
class RunCallbacks:
    """Callbacks of a run: progress, notes, and whether to cancel or skip."""

    on_progress: Callable[[Progress], object] = lambda _: None
    on_note: Callable[[str], None] = lambda _: None
    """Sentences about what was changed in the request."""
    cancelled: Callable[[], bool] = lambda: False
    skips: Callable[[], int] = lambda: 0
    """The number of skip requests (finish the current image early); polled after each step."""

    interrupted: Callable[[], bool] = lambda: False
    """Whether to finish the current batch early and then to raise `Cancelled`; polled after each step."""

    preview_type: str = CHEAP
    """What previews are made with."""

    def from_now(self) -> RunCallbacks:
        """The same callbacks for one batch: skips requested before are not counted again."""
        before, skips = self.skips(), self.skips
        return replace(self, skips=lambda: skips() - before)

    def note_once(self) -> Callable[[str], None]:
        """``on_note`` without repetitions: equal notes from several batches or attempts are reported once."""
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
    """The request as written to infotext."""
    hooks: Hooks
    """The hooks of its last pass."""
    skipped: int = 0
    """The step after which it was finished early; 0: it was not."""


@dataclass(frozen=True)
class Result:
    """A finished image with its infotext and recipe."""

    image: Image.Image
    infotext: str
    recipe: Recipe
    name: str = ""
    """What the file's name is to end with."""
    saved: Callable[[Path], None] = lambda path: None
    """To be told of the file that it was saved as."""

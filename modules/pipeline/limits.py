"""The largest request that an administrator allows, wherever it comes from. No torch at import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from modules.errors import UserError
from modules.params.generation import BY, ExtrasParams, GenerationParams
from modules.pipeline.hires import PIXEL, hires_size
from modules.restoration.upscale import target_size

Size = tuple[int, int]
SizeOf = Callable[[str], Size]
"""Width and height of a stored picture."""


@dataclass(frozen=True)
class Limits:
    """Requests are held against them where they are queued, so that they are refused at once, and once more by the
    engine: a script, an extension's tag, a generation within an image or a replay may ask for more than was queued."""

    max_pixels: int = 0
    """Of an image, in each pass; 0: what the form allows."""
    max_steps: int = 0

    def check(self, params: GenerationParams, size_of: SizeOf) -> None:
        """Raise `UserError` for a request that is larger. ``size_of`` is asked for the picture of SD upscale."""
        hires = params.hires
        self._check_size((params.width, params.height), "width")
        if hires:
            self._check_size(hires_size(params.width, params.height, hires).upscaled, "hires.scale")
        if self.max_pixels and params.init and params.init.tiled and params.init.tiled.upscaler != "None":
            tiled = params.init.tiled
            self._check_size(target_size(size_of(params.init.images[0]), tiled.by), "init.tiled.by")
        if 0 < self.max_steps < max(params.steps, hires.steps if hires else 0):
            field = "steps" if params.steps > self.max_steps else "hires.steps"
            raise UserError(f"this server takes at most {self.max_steps} steps", hint="take fewer", field=field)

    def check_extras(self, params: ExtrasParams, size: Size) -> None:
        """The same for a picture of ``size`` in Extras."""
        if params.upscaler == "None":
            return
        by = params.resize == BY
        sides = zip((params.width, params.height), size, strict=True)
        factor = params.by if by else max(side / before for side, before in sides)
        self._check_size((round(size[0] * factor), round(size[1] * factor)), "by" if by else "width")

    def side(self, native: int) -> int:
        """The side of the largest square that is allowed, up to ``native``."""
        return min(native, max(int(self.max_pixels**0.5) // (8 * PIXEL), 1) * 8 * PIXEL) if self.max_pixels else native

    def _check_size(self, size: Size, field: str) -> None:
        if 0 < self.max_pixels < size[0] * size[1]:
            most = f"{self.max_pixels / 1e6:g} megapixels"
            raise UserError(f"this server makes pictures of at most {most}", hint="make it smaller", field=field)


NO_LIMITS = Limits()

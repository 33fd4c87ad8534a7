"""Modules that change what the network answers: the hint's colours (tile_colorfix), what is not masked (inpaint_only).

Latents are (n, c, h, w); the hint's are those of the picture as the autoencoder has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modules import Step

if TYPE_CHECKING:
    from torch import Tensor

COLOURS = ("tile_colorfix", "tile_colorfix+sharp")
MODULES = (*COLOURS, "inpaint_only")


def blurred(x: Tensor, k: int) -> Tensor:
    """The mean of (2k + 1) x (2k + 1) neighbours; beyond the border its values go on."""
    from torch.nn import functional

    return functional.avg_pool2d(functional.pad(x, (k, k, k, k), mode="replicate"), 2 * k + 1, stride=1)


def latent_mask(mask: Tensor) -> Tensor:
    """A mask (n, 1, 8 h, 8 w), 1 = repaint, for latents: whatever comes near to the mask is repainted."""
    from torch.nn import functional

    return functional.max_pool2d(mask, kernel_size=10, stride=8, padding=1)


@dataclass
class Correction:
    """What a unit of one of the `MODULES` does in a pass."""

    module: str
    weight: float
    latents: Tensor
    """Of the hint: one for all images, or one each."""
    mask: Tensor | None
    radius: int
    """Of the blur, in latent pixels."""
    sharpness: float

    def of(self, step: Step, x0: Tensor) -> Tensor:
        """The answer of an evaluation, corrected."""
        rows = [row.image % len(self.latents) for row in step.rows]
        hint = self.latents[rows].to(x0)
        if self.module in COLOURS:
            new = x0 + blurred(hint, self.radius) - blurred(x0, self.radius)
            negative = step.masked("negative")
            if self.module.endswith("+sharp") and negative:
                d = self.sharpness / 100
                new[negative] = d * blurred(new[negative], self.radius) + (1 - d) * new[negative]
        else:
            assert self.mask is not None
            mask: Any = self.mask[[row.image % len(self.mask) for row in step.rows]].to(x0)
            new = mask * x0 + (1 - mask) * hint
        weight = min(max(self.weight, 0.0), 1.0)
        return weight * new + (1 - weight) * x0

"""CFG thresholding: guides at a high scale within the range of a low one.

Imagen's dynamic thresholding (Saharia et al. 2022, arXiv:2205.11487, section 2.3) applied to latents: each channel of
each image is clamped at a percentile of its distances from its mean, then scaled to the range that the mimicked scale
gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modules import Guidance, Host, Modifier, ModifierSpec, Step, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Options:
    """An image alone and in a batch are the same: nothing is computed over a batch."""

    mimic_scale: float = option(7.0, "Mimic scale", lo=1.0, hi=30.0, step=0.5, help="whose range of values is kept")
    percentile: float = option(1.0, "Percentile", lo=0.9, hi=1.0, step=0.001, help="1: nothing is clamped")


class Thresholding(Modifier):
    def __init__(self, options: Options):
        self.options = options

    def on_guidance(self, step: Step, positive: Tensor, negative: Tensor, scale: float, guidance: Guidance) -> Tensor:
        """Latents (n, c, h, w)."""
        guided = guidance(positive, negative, scale)
        if scale <= self.options.mimic_scale:
            return guided
        low = guidance(positive, negative, self.options.mimic_scale).flatten(2)  # (n, c, h * w)
        high = guided.flatten(2)
        mean, low_mean = high.mean(2, keepdim=True), low.mean(2, keepdim=True)
        target = (low - low_mean).abs().amax(2, keepdim=True)
        limit = (high - mean).abs().quantile(self.options.percentile, dim=2, keepdim=True).maximum(target)
        clamped = (high - mean).maximum(-limit).minimum(limit) / limit.clamp(min=1e-12) * target
        return (clamped + mean).view_as(guided)


def register(host: Host) -> None:
    spec = ModifierSpec("cfg_thresholding", "CFG thresholding", Options, Thresholding, help="Tame a high CFG scale")
    host.add_modifier(spec)

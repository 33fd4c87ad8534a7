"""What can be measured of pictures without a judge: objects before a plain background, their outlines and colours.

Pictures are uint8 (n, h, w, 3); levels are of 255.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

APART = 40.0
"""An object's pixels differ so many levels, in the channel that differs most, from what is at the picture's rim."""


def objects(pixels: Tensor) -> Tensor:
    """Where something stands before one plain colour: bool (n, h, w). The colour is the rim's median."""
    x = pixels.float()
    rim = torch.cat([x[:, :2].flatten(1, 2), x[:, -2:].flatten(1, 2), x[:, :, :2].flatten(1, 2)], dim=1)
    background = rim.median(dim=1).values[:, None, None]
    return (x - background).abs().amax(dim=-1) > APART


def outlines(there: Tensor) -> Tensor:
    """The pixels within four of the edge of what is ``there``: bool (n, h, w)."""
    inside = there.float()[:, None]
    grown, shrunk = F.max_pool2d(inside, 9, 1, 4), -F.max_pool2d(-inside, 9, 1, 4)
    return (grown - shrunk)[:, 0] > 0


def edge_energy(pixels: Tensor) -> float:
    """Mean over all outlines of the squared gradient, in levels per pixel: what a soft outline has less of.

    The gradient is that of central differences in the channel where it is largest. A step of height h over one pixel
    has h^2 / 4 on both its sides; spread over k pixels each has 1 / k^2 of that.
    """
    x = pixels.float().permute(0, 3, 1, 2)
    p = F.pad(x, (1, 1, 1, 1), mode="replicate")
    dx, dy = (p[..., 1:-1, 2:] - p[..., 1:-1, :-2]) / 2, (p[..., 2:, 1:-1] - p[..., :-2, 1:-1]) / 2
    squared = (dx.square() + dy.square()).amax(dim=1)
    return float(squared[outlines(objects(pixels))].mean())


def sharpness(made: Tensor, renders: Tensor) -> float:
    """Gradient at the outlines of generated objects as a part of that of renders of the same captions; 1 is as sharp.

    The root of the ratio of `edge_energy`: a factor of gradients, not of their squares.
    """
    return math.sqrt(edge_energy(made) / edge_energy(renders))


def mean_colours(pixels: Tensor, there: Tensor) -> Tensor:
    """The mean colour of what is ``there`` in each picture, (n, 3); nan where nothing is."""
    inside = there[..., None].float()
    count = inside.sum(dim=(1, 2))
    return (pixels.float() * inside).sum(dim=(1, 2)) / torch.where(count > 0, count, torch.nan)


def colours_apart(a: Tensor, b: Tensor, there: Tensor) -> Tensor:
    """How far the mean colours of what is ``there`` in ``a`` and ``b`` are apart: (n,) levels, mean of the channels."""
    return (mean_colours(a, there) - mean_colours(b, there)).abs().mean(dim=1)

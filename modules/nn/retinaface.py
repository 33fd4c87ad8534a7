"""RetinaFace: where in a picture faces are, and in each the eyes, the nose and the corners of the mouth.

Deng et al. (2019), arXiv:1905.00641, with a ResNet (He et al. 2015, arXiv:1512.03385) and a feature pyramid (Lin et al.
2016, arXiv:1612.03144) before the heads. Layers are named after the keys of the file detection_Resnet50_Final.pth.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEAN = (104.0, 117.0, 123.0)
"""Blue, green and red: what was subtracted in training."""
STRIDES = (8, 16, 32)
SIZES = ((16, 32), (64, 128), (256, 512))
"""Sides of the anchors at each stride, in pixels."""
VARIANCES = 0.1, 0.2
"""Of displacements and of logarithms of sizes."""


@dataclass(frozen=True)
class RetinaFaceConfig:
    stem: int = 64
    """Channels of the first convolution; a stage's last has 4, 8, 16 and 32 times as many."""
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    pyramid: int = 256


class Bottleneck(nn.Module):
    """Three convolutions with a narrow middle, added to what came in."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        if stride > 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride=stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class Body(nn.Module):
    """A ResNet without its last layer; gives the pictures at strides 8, 16 and 32."""

    def __init__(self, config: RetinaFaceConfig):
        super().__init__()
        self.conv1 = nn.Conv2d(3, config.stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.stem)
        inputs = config.stem
        for stage, depth in enumerate(config.depths):
            width, stride = config.stem * 2**stage, 1 if stage == 0 else 2
            blocks = [Bottleneck(inputs if n == 0 else 4 * width, width, stride if n == 0 else 1) for n in range(depth)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
            inputs = 4 * width

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        seen = []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            seen.append(x)
        return seen[1:]


class Pyramid(nn.Module):
    """What is seen at a coarse stride is added to the finer ones."""

    def __init__(self, inputs: tuple[int, int, int], width: int):
        super().__init__()
        for n, channels in enumerate(inputs, 1):
            self.add_module(f"output{n}", _conv(channels, width, 1, relu=True))
        self.merge1 = _conv(width, width, 3, relu=True)
        self.merge2 = _conv(width, width, 3, relu=True)

    def forward(self, seen: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = (self.get_submodule(f"output{n}")(x) for n, x in enumerate(seen, 1))
        middle = self.merge2(middle + F.interpolate(coarse, size=middle.shape[-2:], mode="nearest"))
        fine = self.merge1(fine + F.interpolate(middle, size=fine.shape[-2:], mode="nearest"))
        return [fine, middle, coarse]


class Context(nn.Module):
    """Three views of the surroundings side by side, 3, 5 and 7 wide. Najibi et al. (2017), arXiv:1708.03979."""

    def __init__(self, width: int):
        super().__init__()
        self.conv3X3 = _conv(width, width // 2, 3)
        self.conv5X5_1 = _conv(width, width // 4, 3, relu=True)
        self.conv5X5_2 = _conv(width // 4, width // 4, 3)
        self.conv7X7_2 = _conv(width // 4, width // 4, 3, relu=True)
        self.conv7x7_3 = _conv(width // 4, width // 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        near = self.conv5X5_1(x)
        wide = self.conv7x7_3(self.conv7X7_2(near))
        return F.relu(torch.cat((self.conv3X3(x), self.conv5X5_2(near), wide), 1))


class Head(nn.Module):
    """``count`` numbers for each anchor: (n, c, h, w) -> (n, h * w * anchors, count)."""

    def __init__(self, width: int, count: int):
        super().__init__()
        self.count = count
        self.conv1x1 = nn.Conv2d(width, len(SIZES[0]) * count, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv1x1(x)
        return y.permute(0, 2, 3, 1).reshape(len(x), -1, self.count)


class RetinaFace(nn.Module):
    """Pictures (n, 3, h, w) as `prepared` gives them -> scores (n, anchors), boxes (.., 4) and points (.., 5, 2).

    Both in pixels, as `anchors` and `decoded` make them of the heads' numbers.
    """

    def __init__(self, config: RetinaFaceConfig):
        super().__init__()
        self.config = config
        self.body = Body(config)
        self.fpn = Pyramid((8 * config.stem, 16 * config.stem, 32 * config.stem), config.pyramid)
        for n in range(1, 4):
            self.add_module(f"ssh{n}", Context(config.pyramid))
        self.ClassHead = nn.ModuleList(Head(config.pyramid, 2) for _ in STRIDES)
        self.BboxHead = nn.ModuleList(Head(config.pyramid, 4) for _ in STRIDES)
        self.LandmarkHead = nn.ModuleList(Head(config.pyramid, 10) for _ in STRIDES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen = [self.get_submodule(f"ssh{n}")(level) for n, level in enumerate(self.fpn(self.body(x)), 1)]
        classes, boxes, points = (
            torch.cat([head(level) for head, level in zip(heads, seen, strict=True)], 1)
            for heads in (self.ClassHead, self.BboxHead, self.LandmarkHead)
        )
        places = anchors(x.shape[-2], x.shape[-1]).to(x)
        return (classes.softmax(-1)[..., 1], *decoded(places, boxes, points))


def prepared(rgb: Tensor) -> Tensor:
    """(n, 3, h, w) in 0..255, red first -> as the network was trained: blue first, without the mean."""
    return rgb.flip(1) - torch.tensor(MEAN).to(rgb).view(3, 1, 1)


def anchors(height: int, width: int) -> Tensor:
    """(anchors, 3): the centre's x and y and the side of each square in pixels, in the order of the heads' numbers."""
    found = []
    for stride, sizes in zip(STRIDES, SIZES, strict=True):
        y, x = (torch.arange(-(-length // stride)) * stride + stride / 2 for length in (height, width))
        found.append(torch.cartesian_prod(y, x, torch.tensor(sizes, dtype=torch.float32)))
    return torch.cat(found)[:, [1, 0, 2]]


def decoded(places: Tensor, boxes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """The heads' numbers (n, anchors, 4 and 10) as left, top, right, bottom, and as five points."""
    centre, side = places[:, :2], places[:, 2:]
    middle = centre + boxes[..., :2] * VARIANCES[0] * side
    half = side * torch.exp(boxes[..., 2:] * VARIANCES[1]) / 2
    five = centre[:, None] + points.reshape(*points.shape[:-1], 5, 2) * VARIANCES[0] * side[:, None]
    return torch.cat((middle - half, middle + half), -1), five


def without_doubles(boxes: Tensor, scores: Tensor, overlap: float = 0.4) -> list[int]:
    """Which of ``boxes`` (count, 4) to keep, best first: those that no better one covers by more than ``overlap``."""
    kept: list[int] = []
    rest = scores.argsort(descending=True, stable=True)
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    areas = sides.prod(-1)
    while len(rest):
        best, rest = int(rest[0]), rest[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[rest, :2])
        high = torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = (high - low).clamp(min=0).prod(-1)
        rest = rest[shared <= overlap * (areas[best] + areas[rest] - shared)]
    return kept


def _conv(inputs: int, outputs: int, kernel: int, *, relu: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


# --------------------------------------------------------------------------------------------------- from a file's keys


def is_retinaface(state: Mapping[str, Tensor]) -> bool:
    return {"body.layer1.0.conv3.weight", "fpn.output1.0.weight", "LandmarkHead.0.conv1x1.weight"} <= state.keys()


def config_of(state: Mapping[str, Tensor]) -> RetinaFaceConfig:
    """Sizes from the shapes."""
    one, two, three, four = (
        sum(1 for key in state if re.fullmatch(rf"body\.layer{stage}\.\d+\.conv1\.weight", key))
        for stage in range(1, 5)
    )
    return RetinaFaceConfig(
        stem=state["body.conv1.weight"].shape[0],
        depths=(one, two, three, four),
        pyramid=state["fpn.output1.0.weight"].shape[0],
    )

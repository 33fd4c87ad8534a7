"""Preprocessors that need no weights. Pictures are RGB uint8 (h, w, 3); formulas are those of sd-webui-controlnet.

All but a few need OpenCV, which is the extension's own package: without it the others work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modules import UserError

from .hints import INSTALL, Pixels, has_opencv
from .ip_adapter import MODULES as OF_ADAPTERS
from .registry import Module, Number

Array = NDArray[Any]
_MULTIPLE = 64


@dataclass(frozen=True)
class Arguments:
    """What a preprocessor is given beside the picture."""

    resolution: int
    a: Number
    b: Number
    seed: int = 0


def fit(x: Pixels, resolution: int, *, padded: bool = True) -> tuple[Pixels, tuple[int, int]]:
    """A picture whose shorter side has ``resolution``, continued to multiples of 64; and its size without that."""
    import cv2

    k = resolution / min(x.shape[:2])
    height, width = round(x.shape[0] * k), round(x.shape[1] * k)
    y = cv2.resize(x, (width, height), interpolation=cv2.INTER_CUBIC if k > 1 else cv2.INTER_AREA)
    if padded:
        y = np.pad(y, ((0, -height % _MULTIPLE), (0, -width % _MULTIPLE), (0, 0)), mode="edge")
    return np.asarray(y, np.uint8), (height, width)


def _fitted(function: Callable[[Pixels, Arguments], Array]) -> Callable[[Pixels, Arguments], Pixels]:
    """Of a function of a fitted picture, one of any; a result with one channel becomes grey."""

    def call(x: Pixels, given: Arguments) -> Pixels:
        picture, (height, width) = fit(x, given.resolution)
        y = np.asarray(function(picture, given), np.uint8)[:height, :width]
        return y if y.ndim == 3 else np.dstack([y] * 3)

    return call


def _blurred(x: Pixels, sigma: float) -> Array:
    import cv2

    return np.asarray(cv2.GaussianBlur(x.astype(np.float32), (0, 0), sigma))


def unchanged(x: Pixels, given: Arguments) -> Pixels:
    return x


def invert(x: Pixels, given: Arguments) -> Pixels:
    return 255 - x


def canny(x: Pixels, given: Arguments) -> Array:
    import cv2

    return np.asarray(cv2.Canny(x, int(given.a), int(given.b)))


def threshold(x: Pixels, given: Arguments) -> Array:
    return np.where(x.min(axis=2) > given.a, 255, 0)


def scribble_xdog(x: Pixels, given: Arguments) -> Array:
    """Winnemöller (2011): the difference of two Gaussians."""
    difference = (_blurred(x, 5.0) - _blurred(x, 0.5)).min(axis=2)
    d = (255 - difference).clip(0, 255).astype(np.uint8)
    return np.where(2 * (255 - d) > given.a, 255, 0)


def lineart_standard(x: Pixels, given: Arguments) -> Array:
    darker = (_blurred(x, 6.0) - x.astype(np.float32)).min(axis=2).clip(0, 255)
    strong = darker[darker > 8]
    middle = float(np.median(strong)) if strong.size else 0.0
    return np.asarray((darker / max(16.0, middle) * 127).clip(0, 255))


def tile_resample(x: Pixels, given: Arguments) -> Pixels:
    import cv2

    if given.a < 1.1:
        return x
    size = int(x.shape[1] / given.a), int(x.shape[0] / given.a)
    return np.asarray(cv2.resize(x, (max(size[0], 1), max(size[1], 1)), interpolation=cv2.INTER_AREA), np.uint8)


def blur_gaussian(x: Pixels, given: Arguments) -> Pixels:
    import cv2

    picture, _ = fit(x, given.resolution, padded=False)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), float(given.a)), np.uint8)


def color(x: Pixels, given: Arguments) -> Pixels:
    import cv2

    k = given.resolution / min(x.shape[:2])
    height, width = round(x.shape[0] * k), round(x.shape[1] * k)
    picture = cv2.resize(x, (width, height), interpolation=cv2.INTER_AREA)
    cells = max(width // 64, 1), max(height // 64, 1)
    grid = cv2.resize(picture, cells, interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.resize(grid, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


_CELL = 256


def shuffle(x: Pixels, given: Arguments) -> Pixels:
    import cv2

    picture, (height, width) = fit(x, given.resolution, padded=False)
    draw = np.random.RandomState(given.seed % 2**32)

    def field() -> Array:
        coarse = draw.uniform(0, 1, (height // _CELL + 2, width // _CELL + 2))
        smooth = cv2.resize(coarse, (width + 2 * _CELL, height + 2 * _CELL), interpolation=cv2.INTER_CUBIC)
        middle = np.asarray(smooth)[_CELL : _CELL + height, _CELL : _CELL + width]
        middle = middle - middle.min()
        return np.asarray(middle / max(float(middle.max()), 1e-12))

    columns = (field() * (width - 1)).astype(np.float32)
    rows = (field() * (height - 1)).astype(np.float32)
    return np.asarray(cv2.remap(picture, columns, rows, cv2.INTER_LINEAR), np.uint8)


def _recolor(channel: int, space: str) -> Callable[[Pixels, Arguments], Pixels]:
    def recolor(x: Pixels, given: Arguments) -> Pixels:
        import cv2

        values = np.asarray(cv2.cvtColor(x, getattr(cv2, space)))[..., channel].astype(np.float32) / 255
        grey = ((values**given.a) * 255).clip(0, 255).astype(np.uint8)
        return np.dstack([grey] * 3)

    return recolor


PLAIN: Mapping[str, Callable[[Pixels, Arguments], Pixels]] = {
    "none": unchanged,
    "invert": invert,
    "threshold": _fitted(threshold),
    **dict.fromkeys(("inpaint", "inpaint_only", "tile_colorfix", "tile_colorfix+sharp"), unchanged),
}
"""The preprocessors, by name."""
_OF_OPENCV: Mapping[str, Callable[[Pixels, Arguments], Pixels]] = {
    "canny": _fitted(canny),
    "scribble_xdog": _fitted(scribble_xdog),
    "lineart_standard": _fitted(lineart_standard),
    "tile_resample": tile_resample,
    "blur_gaussian": blur_gaussian,
    "color": color,
    "shuffle": shuffle,
    "recolor_luminance": _recolor(0, "COLOR_BGR2LAB"),
    "recolor_intensity": _recolor(2, "COLOR_BGR2HSV"),
}
PREPROCESSORS = {**PLAIN, **_OF_OPENCV}
_USUAL_RESOLUTION = 512


def refusal(module: Module) -> str:
    """Why a module cannot be used, in a sentence; empty where it can."""
    if module.name in OF_ADAPTERS:
        return ""
    if module.name.startswith(("reference_", "revision_")):
        return f"the module {module.label} works within the model, which is not supported"
    if module.name not in PREPROCESSORS:
        return f"the preprocessor {module.label} needs a network of its own, which is not supported"
    needs_opencv = module.name not in PLAIN or module.name == "threshold"
    return f"the preprocessor {module.label} needs OpenCV; {INSTALL}" if needs_opencv and not has_opencv() else ""


def preprocessed(module: Module, x: Pixels, resolution: Number, a: Number, b: Number, *, seed: int = 0) -> Pixels:
    """A picture as the module makes it, with values outside of its ranges at their defaults. A fourth channel, the
    mask, stays in its own size where the picture does. Raises `UserError`."""
    if sentence := refusal(module) or (f"{module.label} makes no picture" if module.name in OF_ADAPTERS else ""):
        raise UserError(sentence, hint="choose another, or send a picture that is ready, with the module none")
    size = int(module.within("processor_res", resolution)) if module.resolution else _USUAL_RESOLUTION
    given = Arguments(size, module.within("threshold_a", a), module.within("threshold_b", b), seed)
    y = PREPROCESSORS[module.name](np.ascontiguousarray(x[..., :3]), given)
    if x.shape[2] == 4 and y.shape[:2] == x.shape[:2]:
        y = np.dstack([y, x[..., 3]])
    return y

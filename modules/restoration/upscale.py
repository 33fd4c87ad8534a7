"""Upscalers: functions that enlarge an image, and networks in files that do.

A name in the `Host`'s table stands for one turn of enlarging; `upscale` repeats it as A1111 does. No torch here: the
server lists the files' names, the worker alone loads the networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from modules.checkpoints.files import PICKLES, list_models
from modules.errors import Cancelled, UserError
from modules.imaging.files import MAX_PIXELS
from modules.imaging.tiles import Box, Grid

if TYPE_CHECKING:
    from torch import nn

    from modules.devices import Device

FOLDERS = ("ESRGAN", "RealESRGAN", "BSRGAN", "SwinIR", "DAT", "ScuNET", "HAT", "upscale_models")
"""Below the models folder, as A1111's users have them."""
A1111_NAMES = {
    "RealESRGAN_x2plus": "R-ESRGAN 2x+",
    "RealESRGAN_x4plus": "R-ESRGAN 4x+",
    "RealESRGAN_x4plus_anime_6B": "R-ESRGAN 4x+ Anime6B",
    "realesr-general-x4v3": "R-ESRGAN General 4xV3",
    "realesr-general-wdn-x4v3": "R-ESRGAN General WDN 4xV3",
    "realesr-animevideov3": "R-ESRGAN AnimeVideo",
    "DAT_x2": "DAT x2",
    "DAT_x3": "DAT x3",
    "DAT_x4": "DAT x4",
}
"""A1111's display names of files that it knows; all others go by their file names."""
TURNS = 3
MAX_RESULT = 4 * MAX_PIXELS


@dataclass(frozen=True)
class Work:
    """Progress callback, cancel test and tile sizes of an upscaling job."""

    tile_size: int = 192
    """Tile size in pixels for a network; 0: the whole image."""
    tile_overlap: int = 8
    on_tile: Callable[[int, int], object] = lambda _done, _tiles: None
    """Called after each tile with the number of finished tiles and of all tiles in this step."""
    cancelled: Callable[[], bool] = lambda: False

    def tell(self, done: int, tiles: int) -> None:
        """Report progress; raises `Cancelled` if that was requested."""
        if self.cancelled():
            raise Cancelled
        self.on_tile(done, tiles)


class Upscaler(Protocol):
    """One upscaling step: ``image`` larger, ideally by ``scale``; a network has a fixed factor."""

    def __call__(self, image: Image.Image, scale: float, work: Work, /) -> Image.Image: ...


@dataclass(frozen=True)
class UpscalerSpec:
    """An upscaler as registered."""

    name: str
    enlarge: Upscaler
    aliases: tuple[str, ...] = ()
    path: Path | None = None
    """The file that holds its network."""


def upscale(spec: UpscalerSpec, image: Image.Image, scale: float, work: Work = Work()) -> Image.Image:
    """``image`` enlarged by ``scale``, both sides rounded down to multiples of 8, as A1111 does.

    Up to three turns, until both sides are reached or nothing grows any more, then Lanczos to the exact size. At scale
    1 a network has one turn. Transparency is enlarged by Lanczos.
    """
    if image.mode == "RGBA":
        enlarged = upscale(spec, image.convert("RGB"), scale, work)
        enlarged.putalpha(image.getchannel("A").resize(enlarged.size, Resampling.LANCZOS))
        return enlarged
    width, height = target_size(image.size, scale)
    for turn in range(TURNS):
        if image.width >= width and image.height >= height and (turn > 0 or scale != 1):
            break
        before = image.size
        work.tell(0, 0)
        image = spec.enlarge(image, scale, work)
        if image.size == before:
            break
    return image if image.size == (width, height) else image.resize((width, height), Resampling.LANCZOS)


def target_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """The size after scaling, rounded down to multiples of 8.

    >>> target_size((33, 47), 2.3)
    (72, 104)
    """
    if not (math.isfinite(scale) and scale > 0):
        raise UserError(f"a picture cannot be made {scale:g} times as large", hint="give a factor above 0", field="by")
    width, height = (max(int(side * scale // 8 * 8), 8) for side in size)
    if width * height > MAX_RESULT:
        raise UserError(
            f"the result would have {width} x {height} pixels, more than {MAX_RESULT // 1_000_000} megapixels",
            hint="choose a smaller factor",
            field="by",
        )
    return width, height


# ------------------------------------------------------------------------------------------------------- without a file


def same(image: Image.Image, scale: float, work: Work) -> Image.Image:
    return image


def lanczos(image: Image.Image, scale: float, work: Work) -> Image.Image:
    return image.resize(_times(image, scale), Resampling.LANCZOS)


def nearest(image: Image.Image, scale: float, work: Work) -> Image.Image:
    return image.resize(_times(image, scale), Resampling.NEAREST)


def _times(image: Image.Image, scale: float) -> tuple[int, int]:
    return max(int(image.width * scale), 1), max(int(image.height * scale), 1)


BUILTIN = (UpscalerSpec("None", same), UpscalerSpec("Lanczos", lanczos), UpscalerSpec("Nearest", nearest))


# ------------------------------------------------------------------------------------------------------- with a network


class Networks:
    """Caches the network used last. ``device`` is called when the first is loaded."""

    def __init__(self, device: Callable[[], Device]):
        self._device = device
        self._kept: tuple[tuple[Path, int], nn.Module, Device] | None = None

    def enlarge(self, path: Path, image: Image.Image, work: Work) -> Image.Image:
        """One pass through the network in ``path``, tile by tile, in float32."""
        network, device = self._load(path)
        scale = int(getattr(network, "scale"))  # noqa: B009 - nn.Module types its attributes as tensors
        return in_tiles(image, scale, lambda tile: _run(network, device, tile), work)

    def _load(self, path: Path) -> tuple[nn.Module, Device]:
        from modules.checkpoints.upscalers import load

        key = path, path.stat().st_mtime_ns if path.exists() else 0
        if self._kept is None or self._kept[0] != key:
            self._kept = None  # before the next takes its memory
            device = self._device()
            self._kept = key, load(path, device), device
        return self._kept[1], self._kept[2]


def _run(network: nn.Module, device: Device, tile: Image.Image) -> Image.Image:
    """Run one tile through the network; levels are rounded."""
    import torch

    with torch.no_grad():
        x = torch.from_numpy(np.asarray(tile.convert("RGB")).copy()).permute(2, 0, 1).float().div(255)
        y = network(device.place(x[None]))[0].float().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(y.permute(1, 2, 0).cpu().contiguous().numpy())


@dataclass(frozen=True)
class FileUpscaler:
    """The `Upscaler` of a network file."""

    path: Path
    networks: Networks

    def __call__(self, image: Image.Image, scale: float, work: Work, /) -> Image.Image:
        return self.networks.enlarge(self.path, image, work)


def file_upscalers(models_dir: Path, networks: Networks, further: Sequence[Path] = ()) -> Iterator[UpscalerSpec]:
    """One upscaler for each network file in the upscaler folders and in ``further`` ones; duplicates of a name are
    listed with their folder.
    """
    taken = {spec.name.casefold() for spec in BUILTIN}
    for folder in (*(models_dir / name for name in FOLDERS), *further):
        for file in list_models(folder, (".safetensors", *PICKLES)):
            name = A1111_NAMES.get(file.stem, file.stem)
            if name.casefold() in taken:
                name = f"{name} ({folder.name}/{file.path.relative_to(folder).as_posix()})"
            if name.casefold() in taken:  # in two installations
                name = f"{file.path.stem} ({file.path})"
            taken.add(name.casefold())
            yield UpscalerSpec(name, FileUpscaler(file.path, networks), (file.stem, file.path.name), file.path)


# ------------------------------------------------------------------------------------------------------------ the tiles


def in_tiles(
    image: Image.Image, scale: int, enlarge: Callable[[Image.Image], Image.Image], work: Work = Work()
) -> Image.Image:
    """Run ``image`` through ``enlarge`` tile by tile and join the results with `tiles.Grid`."""
    if 0 < work.tile_size <= work.tile_overlap:
        raise UserError("tiles must be larger than their overlap", hint="choose larger tiles", field="tile_size")
    tile = min(work.tile_size or image.width, image.width), min(work.tile_size or image.height, image.height)
    grid = Grid(image.size, tile, work.tile_overlap)

    def piece(number: int, box: Box) -> Image.Image:
        enlarged = enlarge(image.crop(box))
        work.tell(number, len(grid.boxes))
        return enlarged

    return grid.joined((piece(number, box) for number, box in enumerate(grid.boxes, 1)), scale)

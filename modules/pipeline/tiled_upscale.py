"""SD upscale: enlarges an image, then repaints it tile by tile (A1111's script of that name). Pillow and numpy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from modules.imaging.resize import Enlarge
from modules.imaging.tiles import Grid
from modules.params.generation import Init, TiledUpscale, wrapped
from modules.pipeline.init_image import InitImage, flattened
from modules.pipeline.plan import Batch


@dataclass(frozen=True)
class Tiled:
    """The enlarged image and the tiles to repaint."""

    image: Image.Image
    grid: Grid
    """Over the picture, which is continued by its edge where it is smaller than a tile."""

    def pictures(self, init: Init) -> list[InitImage]:
        """The init image of each tile, row by row."""
        sheet = _at_least(self.image, *self.grid.tile)
        tiles = [sheet.crop(box) for box in self.grid.boxes]
        return [InitImage(tile, tile, like=tile if init.colour_correction else None) for tile in tiles]

    def joined(self, tiles: Iterable[Image.Image]) -> Image.Image:
        return self.grid.joined(tiles).crop((0, 0, *self.image.size))


def tiled(init: Init, wanted: TiledUpscale, image: Image.Image, tile: tuple[int, int], enlarge: Enlarge) -> Tiled:
    """Split ``image``, enlarged, into tiles of size ``tile``; the upscaler "None" keeps its size."""
    image = flattened(image, init.background)
    if wanted.upscaler != "None":
        image = enlarge(image, wanted.by)
    size = max(image.width, tile[0]), max(image.height, tile[1])
    return Tiled(image, Grid(size, tile, wanted.overlap))


def _at_least(image: Image.Image, width: int, height: int) -> Image.Image:
    """Pad to a minimum size by repeating the outermost pixels to the right and below."""
    rows = np.arange(max(height, image.height)).clip(max=image.height - 1)
    columns = np.arange(max(width, image.width)).clip(max=image.width - 1)
    return Image.fromarray(np.asarray(image)[rows][:, columns])


def rounds(batch: Batch, tiles: Sequence[InitImage]) -> Iterator[tuple[Batch, Sequence[InitImage]]]:
    """Group the tiles of one image into batches. As in A1111, each batch begins one seed after the previous one
    began.

    >>> from modules.extension.host import Host
    >>> from modules.builtin import register
    >>> from modules.params.generation import GenerationParams
    >>> from modules.pipeline.plan import make_plan
    >>> host = Host()
    >>> register(host)
    >>> (batch,) = make_plan(GenerationParams(seed=5), host).batches
    >>> batch = replace(batch, params=batch.params.changed(batch_size=3))
    >>> [part.seeds for part, _ in rounds(batch, [None] * 8)]
    [(5, 6, 7), (6, 7, 8), (7, 8)]
    """
    varied = batch.params.subseed_strength != 0
    size = 1 if batch.sampler.couples_batch and batch.params.kernels == "exact" else batch.params.batch_size
    for i, first in enumerate(range(0, len(tiles), size)):
        part = tiles[first : first + size]
        seeds = tuple(wrapped(batch.seeds[0] + (0 if varied else i + j)) for j in range(len(part)))
        subseeds = tuple(wrapped(batch.subseeds[0] + j) for j in range(len(part)))
        yield replace(batch, seeds=seeds, subseeds=subseeds), part

"""Pictures rendered once and kept in one memory-mapped file: (n, side, side, 3) uint8."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from modules.training.config import Data
from modules.training.progress import Progress
from modules.training.render.compose import Pixels, picture
from modules.training.render.scenes import Scene, draw_scene

CHUNK = 500


def scene(data: Data, index: int) -> Scene:
    """What item ``index`` of the training set shows."""
    return draw_scene(data.seed, index, data.mix)


def _render(data: Data, start: int) -> Pixels:
    stop = min(start + CHUNK, data.pictures)
    return np.stack([picture(scene(data, i), data.side) for i in range(start, stop)])


def write(data: Data, path: Path, processes: int) -> None:
    """Render the training set's pictures into ``path`` (.npy), which appears only when it is complete."""
    unfinished = path.with_suffix(".part")
    shape = (data.pictures, data.side, data.side, 3)
    out = open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=shape)
    progress = Progress("render", data.pictures)
    with ProcessPoolExecutor(processes) as pool:
        starts = range(0, data.pictures, CHUNK)
        for start, pixels in zip(starts, pool.map(partial(_render, data), starts), strict=True):
            out[start : start + len(pixels)] = pixels
            progress.at(start + len(pixels))
    out.flush()
    unfinished.replace(path)


def read(path: Path) -> Pixels:
    """The file as an array that stays on disk until touched."""
    if not path.is_file():
        raise FileNotFoundError(f"no pictures at {path}; make them with python -m modules.training render")
    pixels: Pixels = np.load(path, mmap_mode="r")
    return pixels

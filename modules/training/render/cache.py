"""Pictures rendered once and kept in one memory-mapped file, their captions put into tokens once beside it."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from modules.prompt.tokens import END
from modules.training.config import Data
from modules.training.progress import Progress
from modules.training.render.compose import Pixels, picture
from modules.training.render.scenes import Scene, draw_scene
from modules.training.words import LENGTH, SHORT, tokenised

CHUNK = 100


@dataclass(frozen=True)
class Captions:
    """``ids`` and ``tenths`` (of weights), both (n, captions, `SHORT`) of small integers."""

    ids: Tensor
    tenths: Tensor

    def to(self, device: torch.device) -> Captions:
        return Captions(self.ids.to(device), self.tenths.to(device))

    def of(self, rows: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """Caption ``which`` of each of ``rows``: (b, 77) ids and (b, 77) weights."""
        ids, tenths = self.ids[rows, which].long(), self.tenths[rows, which].float()
        rest = len(rows), LENGTH - SHORT
        return torch.cat([ids, ids.new_full(rest, END)], 1), torch.cat([tenths / 10, tenths.new_ones(rest)], 1)


def scene(data: Data, index: int) -> Scene:
    """What item ``index`` of the training set shows."""
    return draw_scene(data.seed, index, data.mix)


def _pictures(data: Data, start: int) -> Pixels:
    return np.stack([picture(scene(data, i), data.side) for i in range(start, min(start + CHUNK, data.pictures))])


def _captions(data: Data, start: int) -> npt.NDArray[np.uint16]:
    """(`CHUNK`, captions, 2, `SHORT`): ids, and the weights' tenths."""
    return np.array(
        [
            [tokenised(scene(data, i), Random(f"{data.seed}/{i}/{k}"), data.unknown) for k in range(data.captions)]
            for i in range(start, min(start + CHUNK, data.pictures))
        ],
        np.uint16,
    )


def write(data: Data, path: Path, processes: int) -> None:
    """Render the pictures of ``data`` into ``path`` (.npy), which appears only when it is complete."""
    unfinished = path.with_suffix(".part")
    shape = (data.pictures, data.side, data.side, 3)
    out = open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=shape)
    progress = Progress(path.stem, data.pictures)
    with ProcessPoolExecutor(processes) as pool:
        starts = range(0, data.pictures, CHUNK)
        for start, pixels in zip(starts, pool.map(partial(_pictures, data), starts), strict=True):
            out[start : start + len(pixels)] = pixels
            progress.at(start + len(pixels))
    out.flush()
    unfinished.replace(path)


def write_captions(data: Data, path: Path, processes: int) -> None:
    """Put all captions of ``data`` into tokens, as ``path`` (.npy)."""
    unfinished = path.with_suffix(".part")
    with ProcessPoolExecutor(processes) as pool:
        parts = list(pool.map(partial(_captions, data), range(0, data.pictures, CHUNK)))
    with unfinished.open("wb") as file:
        np.save(file, np.concatenate(parts))
    unfinished.replace(path)


def read(path: Path) -> Pixels:
    """The file as an array that stays on disk until touched."""
    if not path.is_file():
        raise FileNotFoundError(f"nothing at {path}; make it with python -m modules.training render")
    kept: Pixels = np.load(path, mmap_mode="r")
    return kept


def read_captions(path: Path) -> Captions:
    """What `write_captions` wrote."""
    both = torch.from_numpy(read(path).astype(np.int32))
    return Captions(both[:, :, 0].contiguous(), both[:, :, 1].to(torch.uint8).contiguous())


class Pictures:
    """The training set as networks take it: all of it on the card where there is one, on the disk otherwise."""

    def __init__(self, pixels: Pixels, device: torch.device):
        self.pixels, self.device = pixels, device
        self._there: Tensor | None = None
        if device.type != "cpu":
            self._there = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
            for start in range(0, len(pixels), CHUNK):
                self._there[start : start + CHUNK] = torch.from_numpy(pixels[start : start + CHUNK].copy())

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: Tensor) -> Tensor:
        """Pictures ``rows``: (b, 3, side, side) in [-1, 1]."""
        if self._there is not None:
            return to_network(self._there[rows])
        return to_network(torch.from_numpy(self.pixels[rows.numpy()]))


def to_network(pixels: Tensor) -> Tensor:
    """uint8 (b, h, w, 3) -> float (b, 3, h, w) in [-1, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0

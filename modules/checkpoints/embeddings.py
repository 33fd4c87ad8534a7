"""Reads textual-inversion embeddings in every common file format, without torch.

So the server lists and inspects what the worker will use. Where a file says how many vectors it has only in its midst
it is read whole, which takes a millisecond or so; what was found is kept until the file changes.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modules.checkpoints import unpickle
from modules.checkpoints.files import read_header
from modules.checkpoints.folders import Folders, files_below
from modules.checkpoints.unpickle import Array, StoredTensor
from modules.errors import CheckpointError, RepriseError, printable
from modules.imaging.files import BROKEN, open_header

IMAGE_SUFFIXES = (".png", ".webp", ".avif", ".jxl")
SUFFIXES = (".pt", ".bin", ".safetensors", *IMAGE_SUFFIXES)
MAX_BYTES = 64 * 2**20
"""Size limit of a file, and of its unpacked content."""
CHUNK = "sd-ti-embedding"
"""The PNG text chunk that holds an embedding."""


@dataclass(frozen=True)
class EmbeddingFile:
    """A textual inversion: ``count`` vectors of ``width`` values, inserted where a prompt has its name."""

    name: str
    path: Path
    count: int
    width: int
    """768 for SD 1.x, 1024 for SD 2, 2048 for SDXL: those of its two text encoders side by side."""
    step: int | None = None
    checkpoint_hash: str = ""
    checkpoint_name: str = ""
    """Training steps and base checkpoint, if the file states them."""

    def named_after(self, file_name: str) -> EmbeddingFile:
        """The same embedding as if its file were called ``file_name``; one in an image keeps the name stored there."""
        path = Path(file_name)
        return self if path.suffix.lower() in IMAGE_SUFFIXES else replace(self, name=path.stem)

    def read(self) -> Array:
        """Read the vectors (count, width)."""
        try:
            return _read(self.path).vectors
        except (ValueError, RepriseError) as error:  # changed since it was listed
            raise CheckpointError(f"the embedding {self.name} cannot be read: {error}", hint="copy it again") from error


@dataclass(frozen=True, eq=False)
class BundledEmbedding(EmbeddingFile):
    """One that came along in a network's file."""

    vectors: Array = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def read(self) -> Array:
        return self.vectors


def bundled(name: str, path: Path, table: Mapping[str, Any]) -> BundledEmbedding:
    """The embedding in the parts of a network's file; raises `ValueError` with the reason where it is none."""
    prefix = "string_to_param."
    inner = {key.removeprefix(prefix): value for key, value in table.items() if key.startswith(prefix)}
    vectors = _content({"string_to_param": inner} if inner else table, named=False).vectors
    count, width = vectors.shape
    return BundledEmbedding(name, path, count, width, vectors=vectors)


@dataclass(frozen=True)
class Broken:
    """A file that is no usable embedding, and why."""

    name: str
    path: Path
    reason: str


@dataclass(frozen=True)
class Suited:
    """The embeddings that a model can use, and for each other name why it cannot."""

    files: tuple[EmbeddingFile, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """The embeddings in a folder."""

    files: tuple[EmbeddingFile, ...] = ()
    broken: tuple[Broken, ...] = ()

    def for_width(self, width: int) -> Suited:
        """Sort the embeddings by whether they fit a text encoder of that width."""
        skipped = {file.name: file.reason for file in self.broken}
        for file in self.files:
            if file.width != width:
                skipped[file.name] = f"it is for models of width {file.width}, and this one has {width}"
        files = tuple(file for file in self.files if file.width == width)
        return Suited(files, {name: skipped[name] for name in sorted(skipped, key=str.casefold)})


NONE = Listing()


class EmbeddingFolder:
    """The embeddings below some folders."""

    def __init__(self, folder: Folders):
        self.folder = folder
        self._known: dict[tuple[Path, int, int], EmbeddingFile | Broken | None] = {}

    def list(self) -> Listing:
        """All files as they are now, sorted by name; if two have the same name, the first is used."""
        known = self._known
        self._known = {key: known[key] if key in known else _described(key[0]) for key in self._stamps()}
        all_files = [found for found in self._known.values() if found]
        files: dict[str, EmbeddingFile] = {}
        broken = []
        for found in sorted(all_files, key=lambda found: (found.name.casefold(), str(found.path))):
            if isinstance(found, Broken):
                broken.append(found)
            elif first := files.get(found.name.casefold()):
                broken.append(Broken(found.name, found.path, f"{first.path.name} has the same name"))
            else:
                files[found.name.casefold()] = found
        return Listing(tuple(files.values()), tuple(broken))

    def _stamps(self) -> Iterator[tuple[Path, int, int]]:
        for path in files_below(self.folder, SUFFIXES):
            if ".preview." not in path.name.lower():
                try:
                    stat = path.stat()
                except OSError:  # gone since it was listed
                    continue
                yield path, stat.st_mtime_ns, stat.st_size


def _described(path: Path) -> EmbeddingFile | Broken | None:
    """The embedding in a file; None for an ordinary image, such as a preview beside an embedding."""
    try:
        found = _read(path)
    except _OnlyImage:
        return None
    except RepriseError as error:
        return Broken(path.stem, path, error.message)
    except ValueError as error:
        return Broken(path.stem, path, str(error))
    count, width = found.vectors.shape
    return EmbeddingFile(found.name or path.stem, path, count, width, found.step, *found.trained_on)


@dataclass(frozen=True)
class _Content:
    vectors: Array
    name: str = ""
    """That a picture states; other files are called as they are named."""
    step: int | None = None
    trained_on: tuple[str, str] = ("", "")


class _OnlyImage(ValueError):
    """An image without a hidden embedding."""


def _read(path: Path) -> _Content:
    """Read an embedding file; raises `ValueError` with the reason if it is none."""
    suffix = path.suffix.lower()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        if suffix in IMAGE_SUFFIXES:
            return _content(_in_image(path), named=True)
        if suffix == ".safetensors":
            return _content(_in_safetensors(path), named=False)
        with unpickle.opened(path, MAX_BYTES) as table:
            return _content(table, named=False)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def _content(table: Any, *, named: bool) -> _Content:
    """The embedding in a file's content: A1111's dict, the vectors of two encoders, or a single tensor."""
    if not isinstance(table, Mapping):
        raise ValueError("it holds no table")
    if isinstance(params := table.get("string_to_param"), Mapping):
        step, name = table.get("step"), _text(table.get("name")) if named else ""
        trained_on = _text(table.get("sd_checkpoint")), _text(table.get("sd_checkpoint_name"))
        vectors = _rows(params.get("*", next(iter(params.values()), None)))
        return _Content(vectors, name, _step(step), trained_on)
    if {"clip_l", "clip_g"} <= table.keys():
        small, large = _rows(table["clip_l"]), _rows(table["clip_g"])
        if len(small) != len(large):
            raise ValueError("its two encoders have different numbers of vectors")
        return _Content(np.concatenate([small, large], axis=1))
    if len(table) != 1:
        raise ValueError(f"it holds {len(table)} things, and an embedding is one tensor")
    return _Content(_rows(next(iter(table.values()))))


def _text(value: Any) -> str:
    """A text value from a file, truncated and printable; empty if it is no text."""
    return printable(value[:200]) if isinstance(value, str) else ""


def _step(value: Any) -> int | None:
    """The training step: an integer, or a one-element tensor, as some trainers write it."""
    if isinstance(value, StoredTensor) and value.dtype in ("I64", "I32") and math.prod(value.shape) == 1:
        return int.from_bytes(value.raw(), "little", signed=True)
    return value if type(value) is int and abs(value) < 2**53 else None


def _rows(vectors: Any) -> Array:
    """Vectors as (n, width); a single vector becomes one row."""
    if isinstance(vectors, StoredTensor):
        vectors = vectors.numbers()
    if not isinstance(vectors, np.ndarray) or vectors.ndim not in (1, 2) or not vectors.size:
        raise ValueError("it holds no vectors")
    rows = np.ascontiguousarray(np.atleast_2d(vectors), np.float32)
    if not np.isfinite(rows).all():
        raise ValueError("it holds values that are no numbers")
    return rows


def _in_safetensors(path: Path) -> dict[str, Any]:
    header = read_header(path)
    tensors: dict[str, Any] = {}
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + length)
        for key, info in header.tensors.items():  # in the order of the file, which has no gaps
            if info.dtype not in unpickle.DTYPES:
                raise ValueError(f"its numbers are {info.dtype}")
            tensors[key] = unpickle.numbers(file.read(info.nbytes), info.dtype).reshape(info.shape)
    prefix = "string_to_param."
    bundled = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return {"string_to_param": bundled} if bundled else tensors


# --------------------------------------------------------------------------------------------------------- pictures


def _in_image(path: Path) -> Any:
    """The embedding in an image's text chunk, or hidden in its pixels."""
    try:
        image = open_header(path, ("PNG", "WEBP", "AVIF"))
        image.load()  # texts may stand behind the pixels
        text = image.info.get(CHUNK)
        data = base64.b64decode(text) if isinstance(text, str) else hidden(np.asarray(image.convert("RGB")))
        return _with_tensors(json.loads(data))
    except _OnlyImage:
        raise
    except (RecursionError, *BROKEN) as error:
        raise ValueError("what its picture carries is damaged") from error


def _with_tensors(value: Any) -> Any:
    """Parse JSON whose ``{"TORCHTENSOR": lists}`` objects are tensors."""
    if not isinstance(value, dict):
        return value
    if "TORCHTENSOR" in value:
        return np.asarray(value["TORCHTENSOR"], np.float32)
    return {key: _with_tensors(inner) for key, inner in value.items()}


def hidden(pixels: NDArray[np.uint8]) -> bytes:
    """The data in the low four bits of the bytes of an image (h, w, 3).

    Inside its black frame the picture has two blocks with black columns between them: the low and the high halves of
    the bytes of a zlib stream, each scrambled by a fixed sequence.
    """
    inside = np.asarray((pixels > 0).all(axis=2))
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not rows.size:
        raise _OnlyImage
    halves = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & np.uint8(15)
    between = np.flatnonzero(halves.sum(axis=(0, 2), dtype=np.int64) == 0)
    if len(between) < 2:
        raise _OnlyImage
    low, high = (_unscrambled(block) for block in (halves[:, : between[0]], halves[:, between[-1] + 1 :]))
    if low.size != high.size:
        raise _OnlyImage  # black columns that somebody painted
    stream = zlib.decompressobj()
    try:
        data = stream.decompress((high << 4 | low).tobytes(), MAX_BYTES)
    except zlib.error:
        raise _OnlyImage from None
    if not stream.eof:
        raise ValueError
    return data


def _unscrambled(block: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return block.reshape(-1) ^ (_sequence(block.size) & np.uint8(15))


def _sequence(count: int) -> NDArray[np.uint8]:
    """The first numbers of x <- 1664525 x + 1013904223 mod 2^32 from 0, each mod 255; computed in doubling runs."""
    factor, shift, mask = 1664525, 1013904223, 2**32 - 1
    x = np.array([shift], np.uint64)
    while len(x) < count:
        x = np.concatenate([x, (x * np.uint64(factor) + np.uint64(shift)) & np.uint64(mask)])
        factor, shift = factor * factor & mask, (shift * factor + shift) & mask
    return (x[:count] % np.uint64(255)).astype(np.uint8)

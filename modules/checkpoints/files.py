"""Model files on disk: listing a folder, validating safetensors headers, file hashes.

No torch here: the server lists and describes models without it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.checkpoints.folders import Folders, below, dead_links, each, files_below, root_of, told_apart, unlistable
from modules.checkpoints.matching import Match, ambiguous, bare, match, refuse_dead_link
from modules.errors import CheckpointError, UnknownName, printable
from modules.registry import hint_for
from modules.storage import atomic

MAX_HEADER = 16 * 2**20
MAX_TENSORS = 20_000
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
INDEX = "model_index.json"
"""The file that makes a folder a model of diffusers, and stands for it."""
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
_SIZES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1),
}


_TEXT = frozenset((*range(32, 127), *b"\t\n\r"))
"""Bytes of a text; the length that a safetensors file begins with has zeros among its eight."""


@dataclass(frozen=True)
class TensorInfo:
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file: tensor shapes and metadata."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.tensors.values())


def read_header(path: Path, *, field: str = "checkpoint") -> Header:
    """Read and validate the header of a safetensors file; raises `CheckpointError` with the file's name and the
    reason.

    The limits keep a hostile file from filling the memory: 16 MB of header, 20,000 tensors.
    """
    if path.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"{path.name} is a pickle, which can run code when it is opened",
            hint=f"python3 app.py convert {path.name} makes a safe copy of it",
            field=field,
        )
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            raise OSError(errno.EINVAL, "it is no regular file")
        size = found.st_size
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8:
                raise _bad(path, "it is too short")
            (length,) = struct.unpack("<Q", start)
            if length > MAX_HEADER and all(byte in _TEXT for byte in start):
                raise _bad(path, "it is a text, such as the page of a site that asks for a login")
            if length > MAX_HEADER:
                raise _bad(path, f"its header would have {length:,} bytes (the limit is {MAX_HEADER:,})")
            raw = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}", field=field) from error
    if len(raw) < length:
        raise _bad(path, "it ends inside its header")
    return _parse_header(path, raw, size - 8 - length)


def _parse_header(path: Path, raw: bytes, data_size: int) -> Header:
    try:
        entries = json.loads(raw, object_pairs_hook=lambda pairs: _no_twins(path, pairs))
    except (ValueError, RecursionError) as error:
        raise _bad(path, "its header is not JSON") from error
    if not isinstance(entries, dict):
        raise _bad(path, "its header is not a table")
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _bad(path, "its metadata is not text")
    if len(entries) > MAX_TENSORS:
        raise _bad(path, f"it holds {len(entries):,} tensors (the limit is {MAX_TENSORS:,})")
    if not entries:
        raise _bad(path, "it holds no tensors")
    end = 0
    tensors = {}
    for name, entry in sorted(entries.items(), key=lambda item: _begin(path, item)):
        tensors[name] = info = _tensor_info(path, name, entry)
        begin, stop = entry["data_offsets"]
        if begin != end or stop - begin != info.nbytes:
            raise _bad(path, f"the place of {_short(name)} does not fit its shape")
        end = stop
    if end != data_size:
        what = "it is cut off" if end > data_size else "it has bytes that belong to nothing"
        raise _bad(path, f"{what} ({data_size:,} bytes of data where {end:,} belong)")
    return Header(tensors, {printable(key): printable(text) for key, text in metadata.items()})


def _no_twins(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise _bad(path, "a name stands in its header twice")
    return table


def _begin(path: Path, item: tuple[str, Any]) -> tuple[int, int]:
    name, entry = item
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(_count(n) for n in offsets)):
        raise _bad(path, f"{_short(name)} has no place in it")
    return offsets[0], offsets[1]


def _tensor_info(path: Path, name: str, entry: dict[str, Any]) -> TensorInfo:
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or dtype not in _SIZES:
        raise _bad(path, f"{_short(name)} has the unknown type {_short(str(dtype))}")
    if not isinstance(shape, list) or not all(_count(n) for n in shape):
        raise _bad(path, f"{_short(name)} has no valid shape")
    count = _SIZES[dtype]
    for n in shape:
        count *= n
    return TensorInfo(dtype, tuple(shape), count)


def _count(n: Any) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _bad(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path.name} is not a usable safetensors file: {reason}", hint="fetch or copy it again", field="checkpoint"
    )


@dataclass(frozen=True)
class ModelFile:
    """A checkpoint in the models folder. ``name`` is its path below the folder without the suffix."""

    name: str
    path: Path

    @property
    def stem(self) -> str:
        return self.path.parent.name if self.path.name == INDEX else self.path.stem

    @property
    def nbytes(self) -> int:
        return sum(path.stat().st_size for path in contents(self.path))


def contents(path: Path) -> list[Path]:
    """The files that make a model: itself, or the weights of the folder whose index it is."""
    if path.name != INDEX:
        return [path]
    parts = (path.parent / part for part in PARTS)
    return [file for part in parts for file in weight_files(part)]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of one part of a diffusers folder, in full precision where there are several kinds."""
    files = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    plain = [path for path in files if not any(kind in path.name for kind in (".fp16", ".bf16", ".non_ema"))]
    return plain or [path for path in files if ".non_ema" not in path.name]


def list_models(folder: Folders, suffixes: tuple[str, ...] = (".safetensors",)) -> list[ModelFile]:
    """The model files below ``folder``, sorted by name, ignoring case. A missing folder counts as empty.

    VAEs that lie beside them are none. Of files that differ in their endings alone all but the first keep them. A
    folder as diffusers lays it out is one model. Of several folders' files of one name the first folder's has it alone,
    the others stand behind their folders' names.
    """
    found: dict[str, ModelFile] = {}
    roots = each(folder)

    def add(name: str, path: Path) -> None:
        name = told_apart(name, path, roots, found) if name in found else name
        found[name] = ModelFile(name, path)

    indexes = [path for path in files_below(roots, (INDEX,)) if path.name == INDEX and path.parent not in roots]
    for path in indexes if ".safetensors" in suffixes else ():
        add(below(path.parent, roots).as_posix(), path)
    within = {path.parent for path in indexes}
    files = (path for path in files_below(roots, suffixes) if not path.stem.lower().endswith(".vae"))
    for path in sorted(files, key=lambda path: (roots.index(root_of(path, roots)), path)):
        if not within.isdisjoint(path.parents):
            continue
        whole = below(path, roots)
        same = found.get(short := whole.with_suffix("").as_posix())
        by_ending = same is not None and root_of(same.path, roots) == root_of(path, roots)
        add(whole.as_posix() if by_ending else short, path)
    return sorted(found.values(), key=lambda model: (model.name.casefold(), model.name))


def find_model(folder: Folders, wanted: str, default: str = "") -> ModelFile:
    """The file that ``wanted`` names, as `matching.match` finds it; if empty, ``default``, else the first file."""
    models = list_models(folder)
    if not models:
        pickles, dead = list_models(folder, PICKLES), dead_links(folder, (".safetensors", *PICKLES))
        hint = "put a .safetensors checkpoint there"
        if pickles:
            hint = f"convert the one there first: python3 app.py convert {pickles[0].path.name}"
        elif dead:
            hint = f"{dead[0].name} is a link that leads to nothing: bring back what it led to"
        roots = each(folder)
        raise CheckpointError(
            f"there is no checkpoint in {' or '.join(dict.fromkeys(root.name for root in roots))}",
            hint=hint,
            field="checkpoint",
            place=" or ".join(map(str, roots)),
        )
    if not wanted:
        return next((m for m in models if m.name == default), models[0])
    found = _meant(wanted, models, folder)
    if found.file:
        return found.file
    if found.several:
        raise ambiguous(wanted, found.several, "checkpoint")
    if pickle := _meant(wanted, list_models(folder, PICKLES), folder).file:
        read_header(pickle.path)  # raises with the way to convert it
    refuse_dead_link(wanted, folder, "checkpoint")
    unnamed = unlistable(folder, (".safetensors", *PICKLES))
    odd = f"; {unnamed[0]} is left out because its name is not UTF-8: rename it" if unnamed else ""
    hint = hint_for(bare(wanted), [model.name for model in models])
    raise UnknownName(f"no checkpoint named {wanted!r}", hint=f"{hint}{odd}", field="checkpoint")


def _meant(wanted: str, models: Sequence[ModelFile], folder: Folders) -> Match[ModelFile]:
    by_name = {model.name: model for model in models}

    def place(model: ModelFile) -> str:
        path = model.path.parent if model.path.name == INDEX else model.path
        return below(path, folder).as_posix()

    return match(wanted, by_name, place)


def old_hash(path: Path) -> str:
    """A1111's checkpoint hash before 2022, 8 digits: SHA-256 of 64 KB starting at 1 MB."""
    if path.name == INDEX:
        return ""
    try:
        with path.open("rb") as file:
            file.seek(0x100000)
            return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    except OSError:
        return ""


PREDICTION = "prediction"
"""What `Hashes.note` remembers of checkpoints that do not say it."""


class Hashes:
    """Cache of SHA-256 by path, size and modification time, in one JSON file shared by processes."""

    def __init__(self, cache: Path | None = None):
        self._cache = cache
        self._lock = threading.Lock()
        self._known: dict[str, str] = _load_json(cache)

    def sha256(self, path: Path) -> str:
        key = _key(path)
        with self._lock:
            if key not in self._known:
                self._known |= _load_json(self._cache)
            if key not in self._known:
                self._known[key] = self._digest(path)
                self._save()
            return self._known[key]

    def known(self, path: Path) -> str:
        """The SHA-256 if any process has computed it already; else empty. Reads no model file."""
        return self.all_known([path])[path]

    def all_known(self, paths: Iterable[Path]) -> dict[Path, str]:
        """`known` for several files; a missing file has none."""
        with self._lock:
            known = {**_load_json(self._cache), **self._known}
        names = {key.rsplit("|", 2)[0].rpartition(os.sep)[2] for key in known}
        found = {}
        for path in paths:
            try:  # of thousands few are known, and a key needs every folder above a file looked at
                may_be = printable(path.name) in names or path.is_symlink()
                found[path] = known.get(_key(path), "") if may_be else ""
            except OSError:
                found[path] = ""
        return found

    def note(self, path: Path, what: str, value: str) -> None:
        """Remember what was found out about a file's content, for other processes too."""
        key = f"{what}|{self.sha256(path)}"
        with self._lock:
            self._known[key] = value
            self._save()

    def noted(self, path: Path, what: str) -> str:
        """What `note` remembered of a file whose hash is known; else empty."""
        sha256 = self.known(path)
        with self._lock:
            return {**_load_json(self._cache), **self._known}.get(f"{what}|{sha256}", "") if sha256 else ""

    def _digest(self, path: Path) -> str:
        """Of a file; of a folder that of its weights' digests, part by part."""
        digests = []
        for part in contents(path):
            with part.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        return digests[0] if path.name != INDEX else hashlib.sha256("".join(digests).encode()).hexdigest()

    def _save(self) -> None:
        if self._cache is None:
            return
        atomic.make_folder(self._cache.parent)
        with atomic.exclusive(self._cache):  # other workers write theirs
            self._known |= {key: sha256 for key, sha256 in _load_json(self._cache).items() if key not in self._known}
            atomic.write(self._cache, json.dumps(self._known, indent=0, sort_keys=True).encode())


def _key(path: Path) -> str:
    found = [file.stat() for file in contents(path)]
    return printable(
        f"{path.resolve()}|{sum(f.st_size for f in found)}|{max((f.st_mtime_ns for f in found), default=0)}"
    )


def _load_json(path: Path | None) -> dict[str, str]:
    """Read the cache file; an unreadable one counts as empty."""
    if path is None or not path.exists():
        return {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, str)} if isinstance(known, dict) else {}

"""The files of models: the names under which they are listed, found and told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

SD1, SD2, SDXL, UNKNOWN = "SD1x", "SD2x", "SDXL", "UNKNOWN"
FOLDER = "ControlNet"
_OFFSET, _PIECE = 2**20, 2**16


@lru_cache(maxsize=4096)
def _hash8(path: Path, mtime_ns: int) -> str:
    with path.open("rb") as file:
        file.seek(_OFFSET)
        return hashlib.sha256(file.read(_PIECE)).hexdigest()[:8]


def hash8(path: Path) -> str:
    """SHA-256 of 64 KiB at 1 MiB, the first 8 digits. A shorter file has e3b0c442, the hash of nothing."""
    return _hash8(path, path.stat().st_mtime_ns)


def found(name: str, entries: Mapping[str, str]) -> str | None:
    """The one of ``entries`` (by what they are listed as) that a name means: a whole entry, else a stem in small
    letters, else the shortest stem that has the name in it.

    >>> found("CANNY", {"sd_canny_v2 [11111111]": "b", "sd_canny [00000000]": "a"})
    'a'
    """
    if name in entries:
        return entries[name]
    if not name:
        return None
    wanted, stems = name.lower(), {entry: entry.rpartition(" [")[0].lower() for entry in entries}
    same = [entry for entry, stem in stems.items() if stem == wanted]
    near = same or sorted((entry for entry, stem in stems.items() if wanted in stem), key=lambda e: len(stems[e]))
    return entries[near[0]] if near else None


def family_of(name: str) -> str:
    """The family that a file's name tells.

    >>> family_of("control_v11p_sd15_canny"), family_of("x_SD21"), family_of("sai_xl_depth")
    ('SD1x', 'UNKNOWN', 'SDXL')
    """
    if any(word in name.lower() for word in ("sd14", "sd15", "sd16")):
        return SD1
    if "sd21" in name or "2.1" in name:
        return SD2
    return SDXL if "xl" in name.lower() else UNKNOWN


class Models:
    """The files of a folder as they are listed: "stem [hash8]"."""

    def __init__(self, files: Callable[[], Mapping[str, Path]]):
        self._files = files

    def entries(self) -> dict[str, str]:
        """What is listed -> the name of the file, in the order of the files."""
        listed = {}
        for name, path in self._files().items():
            try:
                listed[f"{path.stem} [{hash8(path)}]"] = name
            except OSError:  # it went away
                continue
        return listed

    def find(self, name: str) -> str | None:
        """The file that a name means."""
        return found(name, self.entries())

    def entry(self, file: str) -> str:
        """What a file is listed as; "None" without one."""
        path = self._files().get(file)
        try:
            return f"{path.stem} [{hash8(path)}]" if path else Path(file).stem or "None"
        except OSError:
            return Path(file).stem

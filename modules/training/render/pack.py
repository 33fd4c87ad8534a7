"""python -m modules.training.render.pack FOLDER: packs the drawings of three art sets into ``art.zip``.

FOLDER holds ``3d``, ``flat`` and ``noto``, each with one picture with transparency for every concept, named like it
(``palm_tree.webp``). The texts in ``licences`` beside this file go with them; where the drawings come from is told in
``README.md`` there. The same folder makes the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from modules.training.render.concepts import CONCEPTS
from modules.training.render.sprites import ART, SETS

LICENCES = Path(__file__).with_name("licences")
LARGEST = 3_000_000
"""Bytes that the packed file may have."""


def members(folder: Path) -> dict[str, Path]:
    """All that is packed, by its name: licences first, then the drawings in the order of the concepts."""
    licences = {f"licences/{path.name}": path for path in sorted(LICENCES.iterdir())}
    drawings = [f"{art}/{concept.file}.webp" for art in SETS for concept in CONCEPTS]
    return licences | {name: folder / name for name in drawings}


def pack(folder: Path, path: Path) -> int:
    """Write the file at ``path``; gives its size in bytes."""
    unfinished = path.with_suffix(".part")
    with ZipFile(unfinished, "w") as file:
        for name, source in members(folder).items():
            info = ZipInfo(name)  # stored as it is, dated 1980: nothing of the day and of the machine it was packed on
            info.external_attr = 0o644 << 16
            file.writestr(info, source.read_bytes())
    size = unfinished.stat().st_size
    if size > LARGEST:
        unfinished.unlink()
        raise ValueError(f"the drawings need {size} bytes, more than {LARGEST}; make them smaller before packing")
    unfinished.replace(path)
    return size


if __name__ == "__main__":
    print(f"{ART}: {pack(Path(sys.argv[1]), ART)} bytes")

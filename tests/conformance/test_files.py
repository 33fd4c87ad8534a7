"""Files that A1111 and Forge wrote: texts of pictures, embeddings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from modules.checkpoints.embeddings import EmbeddingFolder
from modules.diffusion.noise import PhiloxGenerator
from modules.metadata.image_text import read_metadata


@pytest.mark.golden("files.json", having="infotext")
def test_texts_are_found(case: dict[str, Any], golden_file: dict[str, Any], golden_dir: Path) -> None:
    name = next(name for name, other in golden_file.items() if other is case)
    found = read_metadata(golden_dir / "files" / name)
    assert {key: found[key] for key in case} == case  # type: ignore[literal-required]
    assert read_metadata((golden_dir / "files" / name).read_bytes()) == found


TI_FILES = (
    "ti_classic.pt",
    "ti_diffusers.bin",
    "ti_single.safetensors",
    "ti_sdxl.safetensors",
    "ti_text_chunk.png",
    "ti_pixels_only.png",
)


@pytest.mark.parametrize("name", TI_FILES)
@pytest.mark.golden("files.json", having="old_checksum4")
def test_embeddings_are_read(case: dict[str, Any], name: str, golden_dir: Path, tmp_path: Path) -> None:
    shutil.copy(golden_dir / "files" / name, tmp_path)
    (found,) = EmbeddingFolder(tmp_path).list().files
    parts = [
        fact["scale"] * PhiloxGenerator(fact["nv_seed"]).randn((3, 1280 if "clip_g" in label else 768)).numpy()
        for label, fact in case["values"].items()
    ]
    expected = np.concatenate(parts if "sdxl" in name else parts[:1], axis=1)[: case["files"].get(name, 3)]
    assert (found.count, found.width) == expected.shape
    np.testing.assert_allclose(found.read(), expected, rtol=0, atol=1e-7)
    assert found.name == (case["name_stored_inside"] if name.endswith(".png") else Path(name).stem)
    if found.step is not None:
        assert old_checksum(found.read()) == case["old_checksum4"]


def old_checksum(vectors: NDArray[np.float32]) -> str:
    """A1111's number for the values of an embedding, by its definition."""
    r = 0
    for value in vectors.flatten().tolist():
        r = (r * 281 ^ int(value * 100) * 997) & 0xFFFFFFFF
    return f"{r & 0xFFFF:04x}"

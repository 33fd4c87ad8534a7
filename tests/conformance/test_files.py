"""Texts of picture files that A1111 and Forge wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modules.metadata import read_metadata


@pytest.mark.golden("files.json", having="infotext")
def test_texts_are_found(case: dict[str, Any], golden_file: dict[str, Any], golden_dir: Path) -> None:
    name = next(name for name, other in golden_file.items() if other is case)
    found = read_metadata(golden_dir / "files" / name)
    assert {key: found[key] for key in case} == case  # type: ignore[literal-required]
    assert read_metadata((golden_dir / "files" / name).read_bytes()) == found

"""Pictures kept by content."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from modules.errors import ImageError, NotFound
from modules.images import png_bytes
from modules.inputs import InputStore

DATA = png_bytes(Image.linear_gradient("L").convert("RGB"), {"parameters": "a fox"})


def test_a_picture_comes_back_under_the_hash_of_its_file(tmp_path: Path) -> None:
    store = InputStore(tmp_path / "inputs")
    key = store.put(DATA)
    assert key == hashlib.sha256(DATA).hexdigest() == store.put(DATA)
    assert store.path(key).read_bytes() == DATA
    assert store.open(key).tobytes() == Image.linear_gradient("L").convert("RGB").tobytes()
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_what_is_no_picture_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        InputStore(tmp_path).put(b"hello")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["", "0" * 64, "../../etc/passwd", "A" * 64, "0" * 63 + "/"])
def test_keys_lead_nowhere_else(tmp_path: Path, key: str) -> None:
    with pytest.raises(NotFound):
        InputStore(tmp_path).open(key)

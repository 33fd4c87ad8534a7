"""Start pictures, stored by content."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest
from PIL import Image

from modules.errors import ImageError, NotFound, OutputError
from modules.gallery.inputs import InputStore
from modules.imaging.files import png_bytes

RED = Image.new("RGB", (5, 3), "red")


@pytest.fixture
def inputs(tmp_path: Path) -> InputStore:
    return InputStore(tmp_path / "inputs")


def test_a_picture_comes_back_by_its_name(inputs: InputStore) -> None:
    name = inputs.put(RED)
    assert name in inputs
    assert inputs.open(name).tobytes() == RED.tobytes()
    (file,) = inputs.folder.rglob("*.png")
    assert file == inputs.folder / name[:2] / f"{name}.png"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == name


def test_equal_pictures_are_one_file_whatever_they_were_sent_as(inputs: InputStore, tmp_path: Path) -> None:
    file = tmp_path / "red.png"
    file.write_bytes(png_bytes(RED, {"parameters": "a text that is of no use here"}))
    assert inputs.put(RED) == inputs.put(file) == inputs.put(file.read_bytes())
    assert len(list(inputs.folder.rglob("*.png"))) == 1


def test_transparency_is_kept(inputs: InputStore) -> None:
    assert inputs.open(inputs.put(Image.new("RGBA", (2, 2), (1, 2, 3, 4)))).getpixel((0, 0)) == (1, 2, 3, 4)


@pytest.mark.parametrize("name", ["", "0" * 64, "../../etc/passwd", "x" * 64, "A" * 64])
def test_an_unknown_name_is_not_found(inputs: InputStore, name: str) -> None:
    assert name not in inputs
    with pytest.raises(NotFound, match="choose the picture again") as raised:
        inputs.open(name, field="init.mask.image")
    assert raised.value.field == "init.mask.image"


def test_a_file_that_is_not_what_its_name_says_is_not_found(inputs: InputStore) -> None:
    name = inputs.put(RED)
    next(inputs.folder.rglob("*.png")).write_bytes(png_bytes(Image.new("RGB", (5, 3), "blue")))
    with pytest.raises(NotFound):
        inputs.open(name)


def test_what_is_no_picture_is_not_stored(inputs: InputStore) -> None:
    with pytest.raises(ImageError):
        inputs.put(b"GIF89a")
    assert not inputs.folder.exists()


def test_a_folder_that_cannot_be_written_is_said(inputs: InputStore) -> None:
    inputs.folder.write_bytes(b"")  # a file where the folder should be
    with pytest.raises(OutputError, match="could not be stored"):
        inputs.put(RED)


def test_a_stored_picture_that_went_bad_is_mended_by_choosing_it_again(inputs: InputStore) -> None:
    name = inputs.put(RED)
    inputs.path(name).write_bytes(b"")
    with pytest.raises(NotFound, match="choose the picture again"):
        inputs.open(name)
    assert inputs.put(RED) == name
    assert inputs.open(name).tobytes() == RED.tobytes()


def test_a_disk_that_cannot_be_read_now_is_no_missing_picture(
    inputs: InputStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = inputs.put(RED)

    def fail(path: Path) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(OutputError, match="cannot be read: Too many open files; try again in a moment"):
        inputs.open(name)

"""Files that are there whole or not at all, and the truth about them."""

from __future__ import annotations

import concurrent.futures
import errno
import os
from pathlib import Path

import pytest

from modules.storage import atomic


def test_a_file_that_has_its_name_is_no_failure_and_its_doubt_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.json"
    assert atomic.write(path, b"old") == ""

    def fail(folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(atomic, "sync_folder", fail)
    assert atomic.write(path, b"new") == "Input/output error"
    assert path.read_bytes() == b"new" and [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert "the disk did not confirm" in caplog.text


def test_threads_may_write_the_same_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    texts = [bytes([n]) * 100_000 for n in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(lambda text: atomic.write(path, text), texts)) == [""] * 8
    assert path.read_bytes() in texts and [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_a_part_that_cannot_be_deleted_does_not_hide_what_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def kept(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(Path, "unlink", kept)
    with pytest.raises(OSError, match="No space left"):
        atomic.write(tmp_path / "a.json", b"x")


def test_what_is_set_aside_takes_no_ones_place(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ("first", "second", "third"):
        path.write_text(text)
        assert atomic.set_aside(path)
    kept = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert kept == {"a.json.bad": "first", "a.json.2.bad": "second", "a.json.3.bad": "third"}
    assert atomic.set_aside(path) is None


@pytest.mark.parametrize(
    ("code", "way"),
    [
        (errno.ENOSPC, "free some space and try again"),
        (errno.EDQUOT, "free some space and try again"),
        (errno.EMFILE, "try again in a moment"),
        (errno.EIO, "look whether the disk is in order, and try again"),
        (errno.EACCES, "make its folder writable"),
    ],
)
def test_the_way_out_fits_the_fault(code: int, way: str) -> None:
    assert atomic.way_out(OSError(code, os.strerror(code))) == way

"""Saving: whole or not at all, numbered, with the texts inside; whoever else saves and whenever the power goes."""

from __future__ import annotations

import concurrent.futures
import datetime
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image

from modules.errors import OutputError
from modules.gallery.filenames import Names
from modules.gallery.outputs import Gallery, read_metadata
from modules.metadata.image_text import Encoding
from modules.metadata.recipe import pixel_hash
from modules.storage import atomic

ROOT = Path(__file__).parents[3]
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8))


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file() and path.name != ".jobs")


def parts(root: Path) -> list[Path]:
    return list(root.rglob("*.part"))


def test_a_picture_lies_in_its_day_with_number_and_seed(tmp_path: Path) -> None:
    saved = Gallery(tmp_path).save(NOISE, seed=1234, infotext="a cat", recipe="{}", job="j1")
    today = datetime.date.today().isoformat()
    assert saved.path == tmp_path / "txt2img-images" / today / "00001-1234.png"
    assert read_metadata(saved.path) == {"infotext": "a cat", "recipe": "{}", "items": {}, "stealth_infotext": None}
    assert pixel_hash(Image.open(saved.path)) == pixel_hash(NOISE)


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_a_picture_is_saved_in_the_format_chosen(kind: str, tmp_path: Path) -> None:
    first = Gallery(tmp_path).save(NOISE, seed=1, infotext="")
    saved = Gallery(tmp_path, Encoding(kind)).save(NOISE, seed=1234, infotext="a cat", recipe="{}", job="j1")
    assert saved.path == first.path.with_name(f"00002-1234.{kind}")
    assert Gallery(tmp_path).of_job("j1") == [saved.path]
    found = read_metadata(saved.path)
    assert (found["infotext"], found["recipe"], saved.note) == ("a cat", "{}", "")
    long = Gallery(tmp_path, Encoding(kind)).save(NOISE, seed=1, infotext="a cat", recipe="a" * 70_000)
    assert long.path.is_file()
    assert ("recipe does not fit" in long.note) == (kind == "jpg")


def test_numbers_go_on_from_the_highest_there_is(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path)
    day = gallery.save(NOISE, seed=1, infotext="").path.parent
    for name in ("00041-7.png", "00012-grid.jpg", "notes.txt", "seed-99999.png"):
        (day / name).touch()
    assert gallery.save(NOISE, seed=-1, infotext="").path.name == "00042--1.png"


def test_the_same_picture_is_the_same_file(tmp_path: Path) -> None:
    one, two = (Gallery(tmp_path).save(NOISE, seed=1, infotext="猫", job=job).path for job in ("a", "b"))
    assert one.read_bytes() == two.read_bytes()


def test_the_pictures_of_a_job_are_found(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path)
    mine = [gallery.save(NOISE, seed=seed, infotext="", job="mine").path for seed in (1, 2)]
    gallery.save(NOISE, seed=3, infotext="", job="other")
    mine[1].with_name(".jobs").open("a").write("mine\t00009-9.png\nbroken line\n")  # died before it had its name
    assert gallery.of_job("mine") == mine
    assert gallery.of_job("min") == []


def test_a_torn_note_swallows_no_other_and_a_name_with_a_line_separator_is_one_name(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path, names=Names("[seed]-\u2028a\x85b\u2029", "x\u2028y"))
    first = gallery.save(NOISE, seed=1, infotext="", job="mine").path
    assert (first.name, first.parent.name) == ("00001-1-_a_b_.png", "x_y")
    notes = first.with_name(".jobs")
    with notes.open("ab") as file:
        file.write(b"mine\t00002-")  # its writer died, or the disk was full
    third = gallery.save(NOISE, seed=3, infotext="", job="mine").path
    old = first.with_name("00009-a\u2028\x85\x0bb.png")  # as an earlier version named it
    other = first.with_name(os.fsdecode(b"00010-\xff.png"))  # and another program
    for path in (old, other):
        NOISE.save(path)
        with notes.open("ab") as file:
            file.write(b"mine\t" + os.fsencode(path.name) + b"\n")
    assert gallery.of_job("mine") == [first, third, old, other]
    assert [gallery.job_of(path) for path in (first, third, old, other)] == ["mine"] * 4


@pytest.mark.parametrize("file", ["[seed]\ud800", "\ud800" * 200, "[date]"])
@pytest.mark.parametrize("folder", ["[date]", "half \udc00", "taken/[seed]"])
def test_no_name_loses_a_finished_picture(tmp_path: Path, file: str, folder: str) -> None:
    (tmp_path / "txt2img-images").mkdir()
    (tmp_path / "txt2img-images" / "taken").touch()
    saved = Gallery(tmp_path, names=Names(file, folder)).save(NOISE, seed=7, infotext="x", job="j")
    assert pixel_hash(Image.open(saved.path)) == pixel_hash(NOISE)
    assert Gallery(tmp_path).of_job("j") == [saved.path]
    today = datetime.date.today().isoformat()
    plain = tmp_path / "txt2img-images" / today / "00001-7.png"
    assert ("has a plain name" in saved.note) == (saved.path == plain)
    if folder == "taken/[seed]":
        assert saved.path == plain
    assert parts(tmp_path) == []


def _save_many(root: Path, count: int) -> list[int]:
    return [Gallery(root).save(NOISE, seed=os.getpid() % 3, infotext="x", job="j").number for _ in range(count)]


def test_two_writers_never_share_a_number(tmp_path: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        numbers = [n for found in pool.map(_save_many, [tmp_path] * 6, [8] * 6) for n in found]
    assert len(set(numbers)) == 48
    assert len(names(tmp_path)) == 48


def test_a_folder_that_is_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "outputs").touch()
    with pytest.raises(OutputError, match=r"could not be saved: Not a directory; .*--data-dir") as raised:
        Gallery(tmp_path / "outputs").save(NOISE, seed=1, infotext="")
    assert str(tmp_path) not in str(raised.value)
    assert str(tmp_path / "outputs") in raised.value.with_place


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failing_disk_leaves_no_part_and_one_sentence(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    (tmp_path / "txt2img-images" / datetime.date.today().isoformat()).mkdir(parents=True)
    with pytest.raises(OutputError) as raised:
        Gallery(tmp_path).save(NOISE, seed=1, infotext="")
    assert ("no room left" in str(raised.value)) == (code != errno.EIO)
    assert names(tmp_path) == []


LIMITED = """
import resource, sys
from pathlib import Path
from PIL import Image
from modules.errors import OutputError
from modules.gallery.outputs import Gallery
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    Gallery(Path(sys.argv[1])).save(Image.effect_noise((64, 64), 50), seed=1, infotext="x")
except OutputError as error:
    print(error)
"""


def test_a_file_size_limit_leaves_no_part_and_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("the picture could not be saved: there is no room left")
    assert names(tmp_path) == []


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from PIL import Image
from modules.gallery.outputs import Gallery
image = Image.effect_noise((64, 64), 50).convert("RGB")
dice = random.Random(0)
saved, tell = os.pipe()
for _ in range(20):
    writers = []
    for _ in range(3):
        writer = os.fork()
        while not writer:
            Gallery(Path(sys.argv[1])).save(image, seed=7, infotext="x", recipe="{}", job="j")
            os.write(tell, b".")
        writers.append(writer)
    for writer in writers:
        os.read(saved, 1)
        time.sleep(dice.uniform(0.0, 0.02))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
"""
"""Sixty writers, three at a time, each killed at some moment."""


def test_kill_leaves_only_whole_pictures_and_parts_that_are_swept(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLER, str(tmp_path)], cwd=ROOT, check=True)
    found = list(tmp_path.rglob("*.png"))
    for path in found:
        assert read_metadata(path)["recipe"] == "{}"
    numbers = [path.name[:5] for path in found]
    assert len(numbers) == len(set(numbers)) > 0
    left = len(parts(tmp_path))
    assert left > 0, "no writer was killed while it wrote, so this shows nothing"
    assert Gallery(tmp_path).sweep() == left
    assert parts(tmp_path) == []


def test_sweeping_spares_what_is_being_written(tmp_path: Path) -> None:
    file = atomic.claim(tmp_path / ".00001.part")
    assert file is not None
    (tmp_path / ".00002.part").touch()
    assert Gallery(tmp_path).sweep() == 1
    assert names(tmp_path) == [".00001.part"]
    file.close()
    assert Gallery(tmp_path).sweep() == 1


def test_sweeping_a_folder_that_is_not_there_is_nothing(tmp_path: Path) -> None:
    assert Gallery(tmp_path / "none").sweep() == 0


def _failing(code: int) -> Callable[..., NoReturn]:
    def fail(*arguments: object) -> NoReturn:
        raise OSError(code, os.strerror(code))

    return fail


def test_an_error_after_the_rename_is_told_as_a_picture_that_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Gallery(tmp_path).save(NOISE, seed=1, infotext="x")
    assert first.note == ""
    monkeypatch.setattr(atomic, "sync_folder", _failing(errno.EIO))
    saved = Gallery(tmp_path).save(NOISE, seed=2, infotext="x", job="j")
    assert pixel_hash(Image.open(saved.path)) == pixel_hash(NOISE)
    assert saved.note == (
        "00002-2.png is saved, but the disk did not confirm it (Input/output error): a power cut may undo it"
    )
    assert Gallery(tmp_path).of_job("j") == [saved.path] and parts(tmp_path) == []


@pytest.mark.parametrize("call", [1, 2])
def test_a_folder_that_cannot_be_listed_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    Gallery(tmp_path).save(NOISE, seed=1, infotext="")
    scan, calls = os.scandir, list[Path]()

    def fail(folder: Path) -> Any:
        calls.append(folder)
        if len(calls) == call:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(OutputError, match="could not be saved: Too many open files; try again in a moment"):
        Gallery(tmp_path).save(NOISE, seed=2, infotext="")
    monkeypatch.undo()
    assert names(tmp_path) == ["00001-1.png"]


def test_a_disk_without_locks_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "lock", _failing(errno.ENOLCK))
    with pytest.raises(OutputError, match="No locks available"):
        Gallery(tmp_path).save(NOISE, seed=1, infotext="")
    assert names(tmp_path) == []


def test_sweeping_leaves_alone_what_is_no_file_of_ours(tmp_path: Path) -> None:
    (tmp_path / "folder.part").mkdir()
    os.mkfifo(tmp_path / "pipe.part")  # to open it would wait for ever
    (tmp_path / "link.part").symlink_to(tmp_path / "precious.png")
    (tmp_path / "precious.png").touch()
    (tmp_path / "a.part").touch()
    assert Gallery(tmp_path).sweep() == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.part", "link.part", "pipe.part", "precious.png"]

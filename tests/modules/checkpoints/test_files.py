"""Headers of hostile and honest files, listing, finding, hashing."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from modules.checkpoints.files import MAX_TENSORS, Hashes, find_model, list_models, read_header
from modules.errors import CheckpointError, UnknownName


def write(path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_header_of_a_file_made_by_the_library(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(2, 3, dtype=torch.float16), "y": torch.zeros(0)}, path, metadata={"title": "é"})
    header = read_header(path)
    assert header.tensors["x"].shape == (2, 3)
    assert header.nbytes == 12
    assert header.metadata == {"title": "é"}


many = {str(i): entry("U8", [0], [0, 0]) for i in range(MAX_TENSORS + 1)}
HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda p: p.write_bytes(b""), "too short"),
    "seven bytes": (lambda p: p.write_bytes(b"1234567"), "too short"),
    "html page": (lambda p: p.write_bytes(b"<!DOCTYPE html><html>"), "it is a text"),
    "pointer of git lfs": (lambda p: p.write_bytes(b"version https://git-lfs"), "it is a text"),
    "huge header": (lambda p: write(p, {}, length=2**62), "header would have"),
    "header longer than the file": (lambda p: write(p, {}, length=1000), "ends inside its header"),
    "not JSON": (lambda p: write(p, b"{" * 50), "not JSON"),
    "deeply nested JSON": (lambda p: write(p, b"[" * 200_000), "not JSON"),
    "invalid UTF-8": (lambda p: write(p, b'{"\xff": 1}'), "not JSON"),
    "a list": (lambda p: write(p, []), "not a table"),
    "nothing in it": (lambda p: write(p, {}), "no tensors"),
    "metadata of numbers": (lambda p: write(p, {"__metadata__": {"a": 1}}), "metadata"),
    "entry is a number": (lambda p: write(p, {"x": 1}), "no place"),
    "no offsets": (lambda p: write(p, {"x": {"dtype": "F32", "shape": [1]}}), "no place"),
    "negative offset": (lambda p: write(p, {"x": entry(offsets=[-4, 0])}), "no place"),
    "float offset": (lambda p: write(p, {"x": entry(offsets=[0.0, 4.0])}, bytes(4)), "no place"),
    "end before start": (lambda p: write(p, {"x": entry(offsets=[4, 0])}, bytes(4)), "does not fit"),
    "unknown type": (lambda p: write(p, {"x": entry("F31")}, bytes(4)), "unknown type"),
    "negative side": (lambda p: write(p, {"x": entry(shape=[-1])}, bytes(4)), "no valid shape"),
    "true as side": (lambda p: write(p, {"x": entry(shape=[True])}, bytes(4)), "no valid shape"),
    "astronomic shape": (lambda p: write(p, {"x": entry(shape=[2**62, 2**62])}, bytes(4)), "does not fit"),
    "truncated data": (lambda p: write(p, {"x": entry()}, bytes(3)), "cut off"),
    "bytes left over": (lambda p: write(p, {"x": entry()}, bytes(5)), "belong to nothing"),
    "hole": (lambda p: write(p, {"x": entry(offsets=[4, 8])}, bytes(8)), "does not fit"),
    "overlap": (lambda p: write(p, {"x": entry(), "y": entry()}, bytes(4)), "does not fit"),
    "same name twice": (
        lambda p: write(p, b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{}}', bytes(4)),
        "twice",
    ),
    "too many tensors": (lambda p: write(p, many), "20,001 tensors"),
    "a folder": (lambda p: p.mkdir(), "cannot be read"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file_is_refused_with_its_name_and_the_reason(case: str, tmp_path: Path) -> None:
    make, reason = HOSTILE[case]
    path = tmp_path / "evil.safetensors"
    make(path)
    with pytest.raises(CheckpointError, match=reason) as error:
        read_header(path)
    assert "evil.safetensors" in str(error.value)


def test_pickle_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    path = tmp_path / "old.ckpt"
    path.write_bytes(b"\x80\x02.")
    with pytest.raises(CheckpointError, match=r"python3 app\.py convert old\.ckpt"):
        read_header(path)
    with pytest.raises(CheckpointError, match=r"convert old\.ckpt"):
        find_model(tmp_path, "old")


def test_a_folder_without_checkpoints_is_named_in_full_at_the_machine_alone(tmp_path: Path) -> None:
    (folder := tmp_path / "Stable-diffusion").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint in Stable-diffusion; put a") as raised:
        find_model(folder, "")
    assert str(tmp_path) not in f"{raised.value} {raised.value.as_json()}"
    assert str(folder) in raised.value.with_place


def test_models_are_found_by_name_file_name_stem_and_title_in_any_case(tmp_path: Path) -> None:
    for name in ("b.safetensors", "Sub/Anime.safetensors", "x.vae.safetensors", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [m.name for m in list_models(tmp_path)] == ["b", "Sub/Anime"]
    for wanted in ("sub/anime", "anime", "Anime.safetensors", "Anime [0123456789]"):
        assert find_model(tmp_path, wanted).stem == "Anime"
    assert find_model(tmp_path, "", default="Sub/Anime").stem == "Anime"
    assert find_model(tmp_path, "").stem == "b"
    with pytest.raises(UnknownName, match="'b'"):
        find_model(tmp_path, "c")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        find_model(tmp_path / "absent", "")


def test_hash_is_remembered_until_the_file_changes(tmp_path: Path) -> None:
    path, cache = tmp_path / "m.safetensors", tmp_path / "cache" / "hashes.json"
    path.write_bytes(b"one")
    assert Hashes(cache).sha256(path) == hashlib.sha256(b"one").hexdigest()
    known = json.loads(cache.read_text())
    cache.write_text(json.dumps(dict.fromkeys(known, "remembered")))
    assert Hashes(cache).sha256(path) == "remembered"
    path.write_bytes(b"another")
    assert Hashes(cache).sha256(path) == hashlib.sha256(b"another").hexdigest()
    cache.write_text("{broken")
    assert Hashes(cache).sha256(path) == hashlib.sha256(b"another").hexdigest()


def test_hashes_of_several_workers_at_once_are_all_kept(tmp_path: Path) -> None:
    """Three begin with an empty file, each computes its own, and the fourth knows all without reading a model."""
    cache = tmp_path / "hashes.json"
    paths = [tmp_path / f"{n}.safetensors" for n in range(15)]
    for path in paths:
        path.write_bytes(path.name.encode())
    workers = [Hashes(cache) for _ in range(3)]

    def compute(number: int) -> None:
        for path in paths[number::3]:
            workers[number].sha256(path)

    threads = [threading.Thread(target=compute, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {path.name: Hashes(cache).known(path) for path in paths}
    assert found == {path.name: hashlib.sha256(path.name.encode()).hexdigest() for path in paths}
    assert len(json.loads(cache.read_text())) == 15


def test_a_hash_that_another_worker_has_computed_is_not_computed_again(tmp_path: Path) -> None:
    path, cache = tmp_path / "m.safetensors", tmp_path / "hashes.json"
    path.write_bytes(b"one")
    early = Hashes(cache)
    Hashes(cache).sha256(path)
    cache.write_text(json.dumps(dict.fromkeys(json.loads(cache.read_text()), "of the other")))
    assert early.sha256(path) == "of the other"


def test_a_hash_is_known_by_the_files_own_name_and_by_a_link(tmp_path: Path) -> None:
    hashes, own = Hashes(tmp_path / "hashes.json"), tmp_path / "a|b.safetensors"
    own.write_bytes(b"weights")
    (tmp_path / "other.safetensors").write_bytes(b"weights")
    (tmp_path / "link.safetensors").symlink_to(own)
    digest = hashes.sha256(own)
    paths = [tmp_path / name for name in (own.name, "link.safetensors", "other.safetensors", "gone.safetensors")]
    assert list(Hashes(tmp_path / "hashes.json").all_known(paths).values()) == [digest, digest, "", ""]

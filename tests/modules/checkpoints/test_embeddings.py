"""Textual-inversion files of every form, read without torch and without running anything in them."""

from __future__ import annotations

import base64
import json
import os
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from torch import Tensor, nn

from modules.checkpoints import unpickle
from modules.checkpoints.embeddings import Broken, EmbeddingFile, EmbeddingFolder
from modules.errors import CheckpointError

VECTORS = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 8


def only(folder: Path) -> EmbeddingFile | Broken:
    found = EmbeddingFolder(folder).list()
    listed: list[EmbeddingFile | Broken] = [*found.files, *found.broken]
    (one,) = listed
    return one


def reason(folder: Path) -> str:
    one = only(folder)
    assert isinstance(one, Broken), one
    return one.reason


def parameters(values: dict[str, Tensor]) -> nn.ParameterDict:
    return nn.ParameterDict({key: nn.Parameter(value) for key, value in values.items()})


@pytest.mark.parametrize(
    "content",
    [
        {"string_to_param": {"*": VECTORS}, "name": "another", "step": 7, "sd_checkpoint": None},
        {"string_to_param": {"*": VECTORS.half()}},
        {"string_to_param": {"*": VECTORS.bfloat16()}},
        {"string_to_param": {"*": VECTORS.double().requires_grad_()}},
        {"string_to_param": {"*": nn.Parameter(VECTORS)}},
        {"string_to_token": {"*": torch.tensor(265)[None].float()}, "string_to_param": parameters({"x": VECTORS})},
        {"<thing>": VECTORS.T.contiguous().T},  # columns stand together in the file
        {"<thing>": torch.cat([torch.zeros(5, 4), VECTORS])[5:]},  # in the midst of a storage
    ],
    ids=lambda content: " ".join(content),
)
def test_what_torch_saves_is_read_as_torch_reads_it(tmp_path: Path, content: dict[str, Any]) -> None:
    torch.save(content, tmp_path / "mine.pt")
    found = only(tmp_path)
    assert isinstance(found, EmbeddingFile), found
    assert (found.name, found.count, found.width, found.step) == ("mine", 3, 4, content.get("step"))
    assert torch.equal(torch.tensor(found.read()), VECTORS)


class OnMac:
    """How a tensor on Apple's device is pickled: through numpy."""

    def __init__(self, values: Any):
        self.values = values

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_device_tensor_from_numpy, (self.values, torch.float32, "cpu", False)


MORE: dict[str, tuple[Any, int | None]] = {
    "a token id as a tensor": (
        {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters({"*": VECTORS})},
        None,
    ),
    "steps as a tensor": ({"string_to_param": {"*": VECTORS}, "step": torch.tensor(500)}, 500),
    "steps as numpy's": ({"string_to_param": {"*": VECTORS}, "step": np.int64(500)}, None),
    "on a Mac": ({"string_to_param": {"*": OnMac(VECTORS.numpy())}, "step": 3}, 3),
    "on a Mac, columns together": ({"string_to_param": {"*": OnMac(np.asfortranarray(VECTORS.numpy()))}}, None),
    "a set, a device, a path": (
        {"string_to_param": {"*": VECTORS}, "a": {1}, "b": torch.device("cpu"), "c": Path("x"), "step": 1},
        1,
    ),
}


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("case", MORE)
def test_what_trainers_leave_beside_the_vectors_does_no_harm(case: str, new: bool, tmp_path: Path) -> None:
    content, step = MORE[case]
    torch.save(content, tmp_path / "mine.pt", _use_new_zipfile_serialization=new)
    found = only(tmp_path)
    assert isinstance(found, EmbeddingFile), found
    assert (found.count, found.width, found.step) == (3, 4, step)
    assert torch.equal(torch.tensor(found.read()), VECTORS)


class Evil:
    def __init__(self, call: Any, *arguments: Any):
        self.parts = call, arguments

    def __reduce__(self) -> Any:
        return self.parts


def zipped(path: Path, content: Any, **parts: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", content if isinstance(content, bytes) else pickle.dumps(content))
        for name, data in parts.items():
            archive.writestr(f"archive/data/{name}", data)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [(os.system, ("touch ran",)), (eval, ("1",)), (getattr, ("", "join")), (np.zeros, (3,)), (torch.load, ("x",))],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any, arguments: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    zipped(tmp_path / "evil.pt", {"string_to_param": {"*": Evil(call, *arguments)}})
    assert "could run code" in reason(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]


def test_an_old_file_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = {"string_to_param": {"*": Evil(os.system, "touch ran")}}
    torch.save(evil, tmp_path / "evil.pt", _use_new_zipfile_serialization=False)
    assert "could run code" in reason(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]


MISUSED = {
    "hangs something on a function of ours": b"ctorch._utils\n_rebuild_tensor_v2\n(N}X\x04\0\0\0odd!I1\nstb.",
    "hangs something on a class of ours": b"ccollections\nOrderedDict\n(N}X\x03\0\0\0getNstb.",
    "a side that is a text": b"ctorch._utils\n_rebuild_device_tensor_from_numpy\n(cnumpy.core.multiarray\n"
    b"_reconstruct\n)R(K\x01(X\x01\0\0\0aJ\xff\xff\xff\x7ftcnumpy\ndtype\n(X\x02\0\0\0f4tRI00\nNtbtR.",
    "thousands of names": b"".join(b"cm\nn%d\n0" % n for n in range(3_000)) + b"N.",
    "a set of a number": b"\x80\x02c__builtin__\nset\n(I100000000000\ntR.",
}


@pytest.mark.parametrize("case", MISUSED)
def test_a_pickle_that_misuses_the_names_that_are_known_is_refused(case: str, tmp_path: Path) -> None:
    before = dict(vars(unpickle._tensor))
    zipped(tmp_path / "odd.pt", MISUSED[case])
    assert reason(tmp_path) in ("it is damaged", "it asks for more than 2,000 names")
    assert vars(unpickle._tensor) == before


@pytest.mark.parametrize("length", range(0, 1200, 61))
def test_an_old_file_that_is_cut_off_is_refused(tmp_path: Path, length: int) -> None:
    torch.save({"x": VECTORS, "y": VECTORS}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "old.pt").read_bytes()
    (tmp_path / "old.pt").write_bytes(whole[: min(length, len(whole) - 1)])
    assert reason(tmp_path) in ("it is damaged", "it is no file as PyTorch writes them")


def test_tensors_that_reach_beyond_their_numbers_are_refused(tmp_path: Path) -> None:
    torch.save({"x": VECTORS}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as archive:
        (top,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        content = archive.read(top)
    (tmp_path / "whole.pt").unlink()
    zipped(tmp_path / "short.pt", content, **{"0": bytes(44)})  # 12 numbers need 48 bytes
    assert reason(tmp_path) == "it is damaged"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no zip archive", "it is no file as PyTorch writes them"),
        ([1, 2], "it holds no table"),
        ({"a": 1, "b": 2}, "it holds 2 things"),
        ({"a": "text"}, "it holds no vectors"),
        ({"string_to_param": {}}, "it holds no vectors"),
        (b"\x80\x04" + b"(" * 100_000 + b".", "it is damaged"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_no_embedding_is_listed_with_the_reason(tmp_path: Path, content: Any, said: str) -> None:
    if content == b"no zip archive":
        (tmp_path / "odd.bin").write_bytes(content)
    else:
        zipped(tmp_path / "odd.bin", content)
    assert said in reason(tmp_path)
    assert only(tmp_path).name == "odd"


def test_a_small_file_that_unpacks_to_a_huge_one_is_not_unpacked(tmp_path: Path) -> None:
    zipped(tmp_path / "bomb.pt", {"x": 1}, **{"0": bytes(70 * 2**20)})
    assert "unpacks to more than" in reason(tmp_path)
    assert (tmp_path / "bomb.pt").stat().st_size < 100_000


def test_a_pickle_that_asks_for_room_for_billions_of_things_is_refused(tmp_path: Path) -> None:
    """An empty dictionary, to be remembered under the highest number that four bytes hold."""
    zipped(tmp_path / "room.pt", b"\x80\x02}r\xff\xff\xff\x7f.")
    assert reason(tmp_path) == "it is damaged"


@pytest.mark.parametrize(
    ("tensors", "width"),
    [
        ({"emb_params": VECTORS}, 4),
        ({"anything": VECTORS.bfloat16()}, 4),
        ({"string_to_param.*": VECTORS.half(), "step": torch.zeros(1)}, 4),
        ({"clip_g": torch.ones(3, 6), "clip_l": VECTORS}, 10),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_safetensors_of_each_form_are_read(tmp_path: Path, tensors: dict[str, Tensor], width: int) -> None:
    save_file(tensors, tmp_path / "mine.safetensors")
    found = only(tmp_path)
    assert isinstance(found, EmbeddingFile), found
    assert (found.count, found.width) == (3, width)
    assert torch.equal(torch.tensor(found.read()[:, :4]), VECTORS)


def text_of(vectors: Tensor, name: str) -> bytes:
    return json.dumps({"name": name, "string_to_param": {"*": {"TORCHTENSOR": vectors.tolist()}}}).encode()


def picture(path: Path, text: bytes | None) -> None:
    info = PngInfo()
    if text is not None:
        info.add_text("sd-ti-embedding", base64.b64encode(text).decode())
    Image.new("RGB", (8, 8), "red").save(path, pnginfo=info)


def sequence(count: int) -> list[int]:
    """One by one, as the specification has it."""
    found, x = [], 0
    for _ in range(count):
        x = (1664525 * x + 1013904223) % 2**32
        found.append(x % 255)
    return found


def hide(path: Path, text: bytes, side: int = 48) -> None:
    """Both halves of the bytes side by side under a picture's colours, a black column between and around them."""
    data = zlib.compress(text)
    data += bytes(-len(data) % (side * 3))
    keys = sequence(len(data))
    halves = [
        np.array([(byte >> shift & 15) ^ (key & 15) for byte, key in zip(data, keys, strict=True)], np.uint8)
        for shift in (0, 4)
    ]
    blocks = [half.reshape(side, -1, 3) | 0x50 for half in halves]
    black = np.zeros((side, 2, 3), np.uint8)
    Image.fromarray(np.pad(np.concatenate([blocks[0], black, blocks[1]], axis=1), ((3, 3), (3, 3), (0, 0)))).save(path)


@pytest.mark.parametrize("write", [picture, hide])
def test_pictures_carry_embeddings_with_a_name_of_their_own(tmp_path: Path, write: Any) -> None:
    vectors = torch.randn(2, 96, generator=torch.Generator().manual_seed(0))
    write(tmp_path / "card.png", text_of(vectors, "my style"))
    found = only(tmp_path)
    assert isinstance(found, EmbeddingFile), found
    assert (found.name, found.count, found.width) == ("my style", 2, 96)
    assert torch.equal(torch.tensor(found.read()), vectors)
    assert found.named_after("renamed.png") == found


def test_pictures_without_an_embedding_are_only_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "plain.png", None)
    picture(tmp_path / "card.preview.png", text_of(VECTORS, "x"))
    stripes = np.full((16, 20, 3), 90, np.uint8)
    stripes[:, [6, 7, 12]] = 0
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    found = EmbeddingFolder(tmp_path).list()
    assert (found.files, found.broken) == ((), ())
    picture(tmp_path / "damaged.png", b"{no json")
    assert "damaged" in reason(tmp_path)


def test_subfolders_are_listed_and_of_two_with_one_name_the_first_counts(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name in ("b.safetensors", "more/A.safetensors", "more/B.safetensors"):
        save_file({"x": VECTORS}, tmp_path / name)
    found = EmbeddingFolder(tmp_path).list()
    assert [file.name for file in found.files] == ["A", "b"]
    assert [(file.name, file.reason) for file in found.broken] == [("B", "b.safetensors has the same name")]


def test_files_of_another_width_are_skipped_with_the_reason(tmp_path: Path) -> None:
    save_file({"x": VECTORS}, tmp_path / "fits.safetensors")
    save_file({"x": torch.ones(1, 5)}, tmp_path / "wide.safetensors")
    (tmp_path / "bad.pt").write_bytes(b"")
    suited = EmbeddingFolder(tmp_path).list().for_width(4)
    assert [file.name for file in suited.files] == ["fits"]
    assert list(suited.skipped) == ["bad", "wide"]
    assert suited.skipped["wide"] == "it is for models of width 5, and this one has 4"


def test_an_unchanged_file_is_not_read_again_and_a_changed_one_is(tmp_path: Path) -> None:
    save_file({"x": VECTORS}, tmp_path / "mine.safetensors")
    folder = EmbeddingFolder(tmp_path)
    (first,), (again,) = folder.list().files, folder.list().files
    assert first is again
    save_file({"x": torch.ones(5, 4)}, tmp_path / "mine.safetensors")
    (changed,) = folder.list().files
    assert changed.count == 5
    (tmp_path / "mine.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="the embedding mine cannot be read"):
        changed.read()
    assert EmbeddingFolder(tmp_path / "nowhere").list().files == ()

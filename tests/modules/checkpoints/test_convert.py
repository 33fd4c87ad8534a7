"""Pickles: honest ones become safetensors, hostile ones are never run."""

from __future__ import annotations

import argparse
import ast
import collections
import datetime
import enum
import io
import os
import pickle
import subprocess
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modules.checkpoints.convert import convert
from modules.checkpoints.files import list_models, read_header
from modules.errors import CheckpointError, NotFound, RepriseError

ROOT = Path(__file__).parents[3]
STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}


class Evil:
    """Touches a file when unpickled."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def test_nested_state_with_shared_and_odd_entries_is_converted(tmp_path: Path) -> None:
    shared = torch.zeros(4, 4)
    state: dict[Any, Any] = {**STATE, "view": shared[1:3].t(), "same": shared[1:3], "step": 5, 7: torch.ones(1)}
    path = tmp_path / "old.ckpt"
    torch.save({"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}}, path)
    target = convert(path)
    assert target == tmp_path / "old.safetensors"
    loaded = load_file(target)
    assert loaded.keys() == {"a.weight", "b", "view", "same"}
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)
    assert len(read_header(target).metadata["reprise.converted_from_sha256"]) == 64


OLD_TYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
)
NEW_TYPES = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_tensors_of_every_type_and_layout_are_copied_bit_by_bit(new: bool, tmp_path: Path) -> None:
    """As torch itself reads them."""
    flat = torch.arange(60)
    kinds = (*OLD_TYPES, *NEW_TYPES) if new else OLD_TYPES
    state: dict[str, Any] = {str(kind): (flat % 2).to(kind).reshape(3, 4, 5) for kind in kinds}
    state |= {"turned": flat.reshape(6, 10).float().t(), "part": flat.half()[7:19].reshape(3, 4), "one": flat[3]}
    state |= {"parameter": torch.nn.Parameter(flat.float()), "empty": torch.empty(0, 3)}
    state |= {"buffer": torch.arange(77).expand((1, -1)), "every third": flat.int()[::3]}
    path = tmp_path / "old.ckpt"
    torch.save(OrderedDict(state_dict=OrderedDict(state)), path, _use_new_zipfile_serialization=new)
    expected = torch.load(path, weights_only=True)["state_dict"]
    loaded = load_file(convert(path))
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (loaded[name].dtype, loaded[name].shape) == (tensor.dtype, tensor.shape)
        ours, theirs = (t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (loaded[name], tensor))
        assert torch.equal(ours, theirs)


class Callback:
    """A class of some trainer."""


class Settings(dict[str, Any]):
    """A table of some trainer, with something hung on it."""

    def __init__(self) -> None:
        super().__init__(lr=0.1)
        self.__dict__["more"] = Path("/somewhere")


class Phase(enum.Enum):
    TRAIN = 1


def test_what_trainers_leave_beside_the_weights_does_no_harm(tmp_path: Path) -> None:
    state = OrderedDict(STATE)
    state._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]
    beside = {
        "callbacks": {Callback: {"best_model_score": torch.tensor(1.0), "object": Callback()}},
        "hyper_parameters": Settings(),
        "when": datetime.datetime(2022, 8, 22),
        "loss": np.float64(0.5),
        "losses": np.ones((2, 2)),
        "random": np.random.RandomState(0).get_state(),
        "generator": np.random.default_rng(0).bit_generator.state,
        "arguments": argparse.Namespace(path=Path("x"), device=torch.device("cpu"), size=torch.Size([1])),
        "counts": collections.defaultdict(int, a=1),
        "phase": Phase.TRAIN,
        "others": [{1, 2}, frozenset({3}), slice(1, 2), 1j, bytearray(b"x"), range(3), b"y", torch.float16],
    }
    path = tmp_path / "old.ckpt"
    torch.save({"epoch": 1, **beside, "state_dict": state}, path)
    loaded = load_file(convert(path))
    assert loaded.keys() == STATE.keys()
    assert all(torch.equal(loaded[key], STATE[key]) for key in loaded)


class Opened:
    """Starts a program when unpickled, by a class."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.Popen, (["touch", str(self.canary)],)


def test_a_class_that_would_start_a_program_is_never_looked_up(tmp_path: Path) -> None:
    path, canary = tmp_path / "evil.ckpt", tmp_path / "canary"
    torch.save({"state_dict": STATE, "x": Opened(canary), "y": [Opened(canary)]}, path)
    assert load_file(convert(path)).keys() == STATE.keys()
    assert not canary.exists()


def test_views_that_make_much_of_little_are_refused(tmp_path: Path) -> None:
    numbers = torch.zeros(100_000)
    torch.save({str(n): numbers[n:] for n in range(100)}, tmp_path / "views.ckpt")
    with pytest.raises(CheckpointError, match="its tensors are far larger than the file"):
        convert(tmp_path / "views.ckpt")


def evil_zip(path: Path, payload: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def evil_tar(path: Path, payload: bytes) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("pickle", "storages", "tensors", "sys_info"):
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            archive.addfile(info, io.BytesIO(payload))


Make = Callable[[Path, Path], object]
EVIL: dict[str, Make] = {
    "torch.save of an object": lambda p, c: torch.save(Evil(c), p),
    "inside a state dict": lambda p, c: torch.save({"state_dict": {**STATE, "x": Evil(c)}}, p),
    "inside a list": lambda p, c: torch.save([STATE, [Evil(c)]], p),
    "ordered dict": lambda p, c: torch.save(OrderedDict(a=Evil(c)), p),
    "legacy format": lambda p, c: torch.save(Evil(c), p, _use_new_zipfile_serialization=False),
    "plain pickle": lambda p, c: p.write_bytes(pickle.dumps(Evil(c))),
    "plain pickle, protocol 0": lambda p, c: p.write_bytes(pickle.dumps(Evil(c), protocol=0)),
    "plain pickle, protocol 4": lambda p, c: p.write_bytes(pickle.dumps({"a": Evil(c)}, protocol=4)),
    "hand-made zip": lambda p, c: evil_zip(p, pickle.dumps(Evil(c))),
    "legacy tar": lambda p, c: evil_tar(p, pickle.dumps(Evil(c))),
    "eval": lambda p, c: p.write_bytes(b"cbuiltins\neval\n(V open(%r, 'w')\ntR." % str(c).encode()),
    "two pickles": lambda p, c: p.write_bytes(pickle.dumps({}) + pickle.dumps(Evil(c))),
}


@pytest.mark.parametrize("case", EVIL)
def test_hostile_pickle_is_never_run(case: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.ckpt"
    EVIL[case](path, canary)
    with pytest.raises(CheckpointError, match=r"evil\.ckpt was not converted: ") as error:
        convert(path)
    assert not canary.exists()
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["evil.ckpt"]


@pytest.mark.parametrize("name", ["evil.pt", "evil.bin", "evil.PTH", "evil.safetensors", "evil.SafeTensors", "evil"])
def test_hostile_pickle_is_not_run_by_listing_or_reading_it_under_any_name(name: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / name
    path.write_bytes(pickle.dumps(Evil(canary)))
    list_models(tmp_path)
    with pytest.raises(RepriseError):
        read_header(path)
    assert not canary.exists()


def test_reading_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "slow.ckpt"
    torch.save(STATE, path)
    with pytest.raises(CheckpointError, match=r"longer than 0\.01 s"):
        convert(path, seconds=0.01)


def test_what_cannot_be_converted_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        convert(tmp_path / "absent.ckpt")
    (tmp_path / "a.txt").touch()
    with pytest.raises(CheckpointError, match="not a pickle by its name"):
        convert(tmp_path / "a.txt")
    torch.save({"epoch": 1}, tmp_path / "empty.pt")
    with pytest.raises(CheckpointError, match="it holds no tensors"):
        convert(tmp_path / "empty.pt")
    torch.save(STATE, tmp_path / "b.pt")
    (tmp_path / "b.safetensors").touch()
    with pytest.raises(CheckpointError, match="exists already"):
        convert(tmp_path / "b.pt")


def test_no_source_file_unpickles_or_evaluates_data() -> None:
    """No ``pickle.load``, no ``weights_only=False``, no ``eval`` or ``exec`` anywhere in the program. The one file that
    imports pickle has an unpickler that refuses names: see test_embeddings."""
    found = []
    for path in [ROOT / "app.py", *(p for d in ("modules", "webui", "extensions") for p in (ROOT / d).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                closed = ("marshal", "shelve") if path.name == "unpickle.py" else ("pickle", "marshal", "shelve")
                found += [f"{path}: imports {n}" for n in names if n.split(".")[0] in closed]
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                safe = any(k.arg == "weights_only" and getattr(k.value, "value", 0) is True for k in node.keywords)
                closed_calls = ("eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler")
                if called in closed_calls or (called == "torch.load" and not safe):
                    found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    assert found == []

"""Files of ``torch.save`` without torch and without running anything that is in them.

A restricted unpickler knows tensors and plain containers, builds inert stand-ins of them, and refuses every other name.
For small files, which are held whole; checkpoints go through `convert`.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""The types that count as numbers here, by their safetensors names."""
_STORAGES = {"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16"}
_DAMAGE = (
    pickle.UnpicklingError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    EOFError,
    RuntimeError,
    MemoryError,
    OverflowError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
"""What reading a file raises that is not as it should be; the unpickler's own failures have no common class."""


def numbers(data: bytes, dtype: str) -> Array:
    """Raw bytes as float32; bfloat16 is the upper half of one."""
    raw = np.frombuffer(data, DTYPES[dtype])
    return (raw.astype("<u4") << 16).view("<f4") if dtype == "BF16" else raw.astype(np.float32)


def load(path: Path, max_bytes: int) -> Any:
    """What the file holds, its tensors as float32 arrays. Raises `ValueError` with the reason."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > max_bytes:
                raise Refused(f"it unpacks to more than {max_bytes:,} bytes")
            top = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            folder, head = top.removesuffix("data.pkl"), archive.read(top)
            _check_memo(head)
            return _Unpickler(io.BytesIO(head), lambda key: archive.read(f"{folder}data/{key}")).load()
    except Refused:
        raise
    except (zipfile.BadZipFile, StopIteration) as error:
        raise Refused("it is not a file as PyTorch has written them since 1.6") from error
    except _DAMAGE as error:
        raise Refused("it is damaged") from error


class Refused(ValueError):
    """A file that is not read, and why."""


def _check_memo(head: bytes) -> None:
    """The unpickler makes room for as many places as the highest number says: five bytes could take all memory."""
    for code, number, _ in pickletools.genops(head):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(number, int) and number > len(head):
            raise Refused("it is damaged")


@dataclass(frozen=True)
class _Storage:
    numbers: Array


class _ParameterTable:
    """Stands for ``torch.nn.ParameterDict``, in which the first trainers kept their vectors."""

    _parameters: Any = None

    def __setstate__(self, state: Any) -> None:
        self._parameters = state["_parameters"]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, part: Callable[[str], bytes]):
        super().__init__(file)
        self._part = part

    def find_class(self, module: str, name: str) -> Any:
        """The names that a tensor needs, with functions of ours for them."""
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module == "torch" and name in _STORAGES:
            return name
        raise Refused(f"it asks for {module}.{name}, which could run code"[:160])

    def persistent_load(self, pid: Any) -> _Storage:
        """("storage", type, key, device, count)"""
        _, kind, key, *_ = pid
        return _Storage(numbers(self._part(key), _STORAGES[kind]))

    def load(self) -> Any:
        """Tables of parameters come as plain ones."""
        found = super().load()
        if not isinstance(found, dict):
            return found
        return {k: dict(v._parameters or {}) if isinstance(v, _ParameterTable) else v for k, v in found.items()}


def _tensor(storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Array:
    """A view of a storage, its end checked before it is taken."""
    if not isinstance(storage, _Storage) or len(size) != len(stride):
        raise ValueError
    if any(type(n) is not int or n < 0 for n in (offset, *size, *stride)):
        raise ValueError
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count, there = math.prod(size, start=1), len(storage.numbers)
    if count > there or (count and last >= there):
        raise ValueError
    steps = tuple(storage.numbers.itemsize * step for step in stride)
    return np.lib.stride_tricks.as_strided(storage.numbers[offset:], tuple(size), steps, writeable=False)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.nn.modules.container", "ParameterDict"): _ParameterTable,
    ("__builtin__", "set"): set,
}

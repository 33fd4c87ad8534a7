"""Reads files of ``torch.save`` without torch and without executing anything in them.

A restricted unpickler builds tensors and plain containers of our own. Whatever else a file names is never looked up: an
inert stand-in takes its place, so that trainers' leavings beside the weights do no harm, and a call of a function is
refused, since nothing honest has one. Tensors are read one at a time, when somebody asks for their numbers.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""The supported dtypes, by safetensors name."""
ITEM = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}
"""Bytes per value."""
_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "UntypedStorage": "U8",
}
_OF_TORCH = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "bool": "BOOL",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    **{
        f"{sign}int{8 * size}": f"{letter}{8 * size}"
        for sign, letter in (("", "I"), ("u", "U"))
        for size in (1, 2, 4, 8)
    },
}
"""torch's dtype names."""
_OF_NUMPY = {
    "f8": "F64",
    "f4": "F32",
    "f2": "F16",
    "b1": "BOOL",
    **{f"{letter.lower()}{size}": f"{letter}{8 * size}" for letter in "IU" for size in (1, 2, 4, 8)},
}
_MAX_HEAD = 8 * 2**20
"""Size limit of the pickle itself, without tensors; that of a checkpoint of 5,000 tensors has one million bytes."""
_MAX_NAMES = 2_000
_MAX_DEPTH = 4
"""Tables within tables that are looked into; one may hold itself."""
_MAX_COUNTS = 64
"""Limit of sizes and strides of a tensor together."""
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The magic number at the start of ``torch.save`` files before 1.6, pickled."""
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
"""Exceptions that reading a damaged file raises; the unpickler's own have no common class."""


class UnreadablePickle(ValueError):
    """The file is not read, and why."""


def numbers(data: bytes, dtype: str) -> Array:
    """Convert raw bytes to float32; bfloat16 is the upper half of a float32."""
    raw = np.frombuffer(data, DTYPES[dtype])
    return (raw.astype("<u4") << 16).view("<f4") if dtype == "BF16" else raw.astype(np.float32)


@dataclass
class _Storage:
    """A storage: ``size`` bytes of values of one type, fetched by ``read``."""

    dtype: str
    size: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: a view of a storage, validated when the file was opened."""

    dtype: str
    """Its safetensors name."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: _Storage

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM[self.dtype]

    def raw(self) -> bytes:
        """The values row by row, as a safetensors file stores them."""
        item = ITEM[self.dtype]
        try:
            data = np.frombuffer(self.storage.read(), f"<u{item}")
            _check_place(len(data), self.offset, self.shape, self.stride)
            steps = tuple(item * step for step in self.stride)
            return np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, steps, writeable=False).tobytes()
        except (OSError, *_DAMAGE) as error:
            raise UnreadablePickle("it is damaged") from error

    def numbers(self) -> Array:
        """The values as float32; raises `UnreadablePickle` if they are not floating point."""
        if self.dtype not in DTYPES:
            raise UnreadablePickle(f"its numbers are {self.dtype}")
        return numbers(self.raw(), self.dtype).reshape(self.shape)


def tensors_in(table: Mapping[Any, Any], max_bytes: int) -> dict[str, StoredTensor]:
    """The named tensors of a dict. Many views may share one storage, so their total size is bounded."""
    found = {key: value for key, value in table.items() if isinstance(key, str) and isinstance(value, StoredTensor)}
    if sum(tensor.nbytes for tensor in found.values()) > max_bytes:
        raise UnreadablePickle("its tensors are far larger than the file")
    return found


def state_dict(loaded: Any, max_bytes: int) -> dict[str, StoredTensor]:
    """The named tensors of a file's content, which may be nested under "state_dict"; everything else is dropped."""
    for _ in range(_MAX_DEPTH):
        if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
            loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping):
        raise UnreadablePickle("it holds no table of tensors")
    tensors = tensors_in(loaded, max_bytes)
    if not tensors:
        raise UnreadablePickle("it holds no tensors")
    return tensors


@contextmanager
def opened(path: Path, max_bytes: int) -> Iterator[Any]:
    """Open a file and give its content: plain containers with `StoredTensor`, readable while the file is open.

    Raises `UnreadablePickle` with the reason; ``max_bytes`` bounds what it may unpack to.
    """
    with path.open("rb") as file:
        start = file.read(len(_LEGACY))
        try:
            if start == _LEGACY:
                content = _in_legacy(file, path.stat().st_size)
            else:
                content = _in_zip(zipfile.ZipFile(file), max_bytes)
        except UnreadablePickle:
            raise
        except _DAMAGE as error:
            if start != _LEGACY and not start.startswith(b"PK"):
                raise UnreadablePickle("it is no file as PyTorch writes them") from error
            raise UnreadablePickle("it is damaged") from error
        yield content


def _in_zip(archive: zipfile.ZipFile, max_bytes: int) -> Any:
    """Read the format since PyTorch 1.6: a zip file with one pickle and one member per storage."""
    sizes = {info.filename: info.file_size for info in archive.infolist()}
    if sum(sizes.values()) > max_bytes:
        raise UnreadablePickle(f"it unpacks to more than {max_bytes:,} bytes")
    top = next((name for name in sizes if name.endswith("data.pkl")), None)
    if top is None:
        raise UnreadablePickle("it is no file as PyTorch writes them")
    if sizes[top] > _MAX_HEAD:
        raise UnreadablePickle(f"it has more than {_MAX_HEAD:,} bytes beside its tensors")
    read = _Last(archive.read)

    def part(key: str, dtype: str, count: int) -> _Storage:
        name = f"{top.removesuffix('data.pkl')}data/{key}"
        return _Storage(dtype, sizes[name], lambda: read(name))

    head = archive.read(top)
    _check_memo(head)
    return _Unpickler(io.BytesIO(head), part).load()


class _Last:
    """Caches the storage read last: tensors that share a storage are usually neighbours."""

    def __init__(self, read: Callable[[str], bytes]):
        self._read = read
        self._kept: tuple[str, bytes] | None = None

    def __call__(self, name: str) -> bytes:
        if self._kept is None or self._kept[0] != name:
            self._kept = None  # two never have to fit at once
            self._kept = name, self._read(name)
        return self._kept[1]


def _in_legacy(file: IO[bytes], size: int) -> Any:
    """Read the format before PyTorch 1.6: five pickles in a row, the last with the order of the storages that
    follow.
    """
    file.seek(0)
    head = io.BytesIO(file.read(_MAX_HEAD))
    storages: dict[str, _Storage] = {}

    def part(key: str, dtype: str, count: int) -> _Storage:
        return storages.setdefault(key, _Storage(dtype, count * ITEM[dtype], lambda: b""))

    _, _, _, content, order = (_next(head, part) for _ in range(5))
    place = head.tell()
    for key in order:
        storage = storages[key]
        file.seek(place)
        (count,) = struct.unpack("<q", file.read(8))
        if count * ITEM[storage.dtype] != storage.size or place + 8 + storage.size > size:
            raise UnreadablePickle("it is damaged")
        storage.read = _Span(file, place + 8, storage.size)
        place += 8 + storage.size
    return content


def _next(head: io.BytesIO, part: Callable[[str, str, int], _Storage]) -> Any:
    place = head.tell()
    _check_memo(head)
    head.seek(place)
    return _Unpickler(head, part).load()


@dataclass(frozen=True)
class _Span:
    """A range of bytes in an open file."""

    file: IO[bytes]
    place: int
    size: int

    def __call__(self) -> bytes:
        self.file.seek(self.place)
        return self.file.read(self.size)


def _check_memo(head: bytes | io.BytesIO) -> None:
    """Bound the memo indices: the unpickler allocates up to the highest one, so five bytes could exhaust memory."""
    length = len(head) if isinstance(head, bytes) else len(head.getbuffer())
    for code, number, _ in pickletools.genops(head):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(number, int) and number > length:
            raise UnreadablePickle("it is damaged")


# ------------------------------------------------------------------------------------------------------- stand-ins


class _Named(type):
    """Metaclass of stand-ins for the classes and functions that a file names. Naming and instantiating one is
    harmless; a function call is refused. A capital letter marks a class; `_PLAIN` lists the exceptions.
    """

    said: tuple[str, str]

    def __call__(cls, *_: Any, **__: Any) -> Any:
        module, name = cls.said
        if module not in _PLAIN and f"{module}.{name}" not in _PLAIN and not name.rpartition(".")[2][:1].isupper():
            raise UnreadablePickle(f"it asks for {module}.{name}, which could run code"[:160])
        inert: Any = cls
        return object.__new__(inert)


class _Inert(metaclass=_Named):
    """An instance of an unknown class: accepts any state and does nothing."""

    said = ("", "")

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return object.__new__(cls)

    def _take(self, *_: Any) -> None:
        """Discard a value."""

    __setstate__ = __setitem__ = append = extend = add = _take


_PLAIN = {
    *("datetime", "numpy.random", "numpy.random._pickle", "copyreg", "copy_reg"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "torch.device", "functools.partial"),
    "torch.serialization._get_layout",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("slice", "range", "xrange", "complex")),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("bytearray", "frozenset", "object")),
}
"""Lower-case names whose calls occur beside the weights and are accepted; they become inert objects too."""


class _Table(dict[Any, Any]):
    """Stand-in for ``OrderedDict``; attributes besides its entries are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        """Let go of it."""


class _ParameterTable(_Table):
    """Stand-in for ``torch.nn.ParameterDict``, in which early trainers stored their vectors."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        self.update(state["_parameters"] or {})


class _Function:
    """Wraps one of our functions that replaces one named by the file; it accepts no attributes."""

    __slots__ = ("_run",)

    def __init__(self, run: Callable[..., Any]):
        self._run = run

    def __call__(self, *args: Any) -> Any:
        return self._run(*args)

    def __setstate__(self, state: Any) -> None:
        raise ValueError


class _NumpyType:
    """Stand-in for ``numpy.dtype``."""

    def __init__(self, code: str, *_: Any):
        self.dtype = _OF_NUMPY.get(code, "") if isinstance(code, str) else ""

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", "|"):
            raise ValueError


class _NumpyArray:
    """Stand-in for ``numpy.ndarray``; its state is (version, shape, type, Fortran order, bytes)."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, part: Callable[[str, str, int], _Storage]):
        super().__init__(file)
        self._part = part
        self._names: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Our replacements for the names that a tensor needs, inert stand-ins for all others."""
        known = self._names.get((module, name))
        if known is None:
            if len(self._names) >= _MAX_NAMES:
                raise UnreadablePickle(f"it asks for more than {_MAX_NAMES:,} names")
            known = self._names[module, name] = self._found(module, name)
        return known

    def _found(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            known = _KNOWN[module, name]
            return known if isinstance(known, type) else _Function(known)
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        return _Named("_Inert", (_Inert,), {"said": (module, name)})

    def persistent_load(self, pid: Any) -> Any:
        """Resolve a storage: ("storage", type, key, device, count), and in old files a view, which is never used.
        Old files also have entries with the source code of modules' classes, which are ignored.
        """
        if pid[0] == "module":
            return pid[1]
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or any(view) or type(count) is not int or count < 0:
            raise ValueError
        return self._part(str(key), dtype, count)


def _tensor(storage: Any, offset: Any, size: Sequence[Any], stride: Sequence[Any], *_: Any) -> StoredTensor:
    """Build a view of a storage, checking its bounds first."""
    if not isinstance(storage, _Storage):
        raise ValueError
    _check_place(storage.size // ITEM[storage.dtype], offset, size, stride)
    return StoredTensor(storage.dtype, tuple(size), tuple(stride), offset, storage)


def _tensor_of_type(
    storage: Any, offset: Any, size: Sequence[Any], stride: Sequence[Any], grad: Any, hooks: Any, dtype: Any, *_: Any
) -> StoredTensor:
    """Build a tensor whose storage is untyped bytes and that states its own type."""
    module, name = getattr(dtype, "said", ("", ""))
    if not isinstance(storage, _Storage) or module != "torch":
        raise ValueError
    return _tensor(_Storage(_OF_TORCH[name], storage.size, storage.read), offset, size, stride)


def _check_place(there: int, offset: Any, size: Sequence[Any], stride: Sequence[Any]) -> None:
    _check_counts(offset, *size, *stride)
    if len(size) != len(stride):
        raise ValueError
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = math.prod(size, start=1)
    if count > there or (count and last >= there):
        raise ValueError


def _check_counts(*values: Any) -> None:
    if len(values) > _MAX_COUNTS or any(type(n) is not int or not 0 <= n < 2**62 for n in values):
        raise ValueError


def _from_numpy(array: Any, *_: Any) -> StoredTensor:
    """Build a tensor saved through a numpy array, as for devices whose storages are not saved, such as Apple's MPS."""
    if not isinstance(array, _NumpyArray) or array.state is None:
        raise ValueError
    _, shape, kind, columns, data = array.state
    _check_counts(*shape)
    stride, step = [0] * len(shape), 1
    for axis in range(len(shape)) if columns else reversed(range(len(shape))):
        stride[axis] = step
        step *= shape[axis]
    return _tensor(_Storage(kind.dtype, len(data), lambda: data), 0, shape, stride)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _again(build: Any, _: Any, args: Any, *__: Any) -> Any:
    """Build a tensor of a subclass as its base class does."""
    return build(*args)


def _bytes(text: Any, encoding: Any) -> bytes:
    """Build bytes as pickle protocol 2 writes them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError
    return text.encode("latin1")


def _array(*_: Any) -> _NumpyArray:
    return _NumpyArray()


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Table,
    ("collections", "defaultdict"): lambda factory=None, *items: _Table(*items),
    ("__builtin__", "set"): lambda items=(): set(items),
    ("builtins", "set"): lambda items=(): set(items),
    ("_codecs", "encode"): _bytes,
    ("torch", "Size"): lambda sizes=(): tuple(sizes),
    ("torch.nn.modules.container", "ParameterDict"): _ParameterTable,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_type,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): _from_numpy,
    ("torch._utils", "_rebuild_xla_tensor"): _from_numpy,
    ("torch._tensor", "_rebuild_from_type_v2"): _again,
    ("numpy", "dtype"): _NumpyType,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
}

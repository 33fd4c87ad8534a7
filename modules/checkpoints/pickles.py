"""Pickled weights that are used where they lie: their header, and their tensors one by one.

`unpickle` reads them, so nothing in them is executed. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from modules.checkpoints import unpickle
from modules.checkpoints.files import MAX_TENSORS, PICKLES, Header, TensorInfo, read_header
from modules.checkpoints.unpickle import StoredTensor, UnreadablePickle, state_dict
from modules.errors import CheckpointError

UNPACKED = 4
"""A file may unpack to this many times its size: checkpoints are hardly ever compressed."""


def is_pickle(path: Path) -> bool:
    return path.suffix.lower() in PICKLES


@contextmanager
def opened_state(path: Path, *, field: str = "checkpoint") -> Iterator[Mapping[str, StoredTensor]]:
    """The named tensors of a pickle, readable until the end of the block. Raises `CheckpointError` with the reason."""
    try:
        most = UNPACKED * path.stat().st_size
        with unpickle.opened(path, most) as loaded:
            yield state_dict(loaded, most)
    except UnreadablePickle as error:
        raise unreadable(path, error, field=field) from error
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror}", field=field) from error


def unreadable(path: Path, error: UnreadablePickle, *, field: str = "checkpoint") -> CheckpointError:
    return CheckpointError(f"{path.name} is not read: {error}", hint="use another copy", field=field)


def header_of(path: Path, *, field: str = "checkpoint") -> Header:
    """The header of a safetensors file, or what would be that of a pickle. Raises `CheckpointError`."""
    if not is_pickle(path):
        return read_header(path, field=field)
    with opened_state(path, field=field) as tensors:
        if len(tensors) > MAX_TENSORS:
            reason = f"it holds {len(tensors):,} tensors (the limit is {MAX_TENSORS:,})"
            raise CheckpointError(f"{path.name} is not read: {reason}", hint="use another copy", field=field)
        return Header({key: TensorInfo(one.dtype, one.shape, one.nbytes) for key, one in tensors.items()}, {})

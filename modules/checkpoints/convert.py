"""Converts pickled checkpoints to safetensors without executing the pickle.

The file is opened in a child process that has limits on time and memory, by `unpickle`: what it names is never looked
up, and a call of a function is refused. One tensor after the other is read and written. There is no fallback.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modules.checkpoints import unpickle
from modules.checkpoints.files import PICKLES, read_header
from modules.checkpoints.unpickle import ITEM, StoredTensor, state_dict
from modules.errors import CheckpointError, NotFound, printable

SECONDS = 600
MEMORY_FACTOR, MEMORY_FLOOR = 4, 4 * 2**30
"""The child may map this many times the file's size, and at least this many bytes, which Python's libraries need."""
_ROOT = Path(__file__).resolve().parents[2]


def convert(path: Path, *, seconds: float = SECONDS) -> Path:
    """Write the tensors of ``path`` to a .safetensors file beside it and return its path.

    Raises `CheckpointError` with the file's name and the reason; then nothing is written.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {path}", hint="check the name", field="file")
    if path.suffix.lower() not in PICKLES:
        raise CheckpointError(
            f"{path.name} is not a pickle by its name", hint=f"these are converted: {', '.join(PICKLES)}", field="file"
        )
    target = path.with_suffix(".safetensors")
    if target.exists():
        raise CheckpointError(f"{target.name} exists already", hint="move it away first", field="file", place=target)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        _run_child(path, part, seconds)
        read_header(part)
        part.replace(target)
    except OSError as error:
        raise CheckpointError(
            f"{target.name} cannot be written: {error.strerror}", field="file", place=target
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return target


def _run_child(path: Path, part: Path, seconds: float) -> None:
    command = [sys.executable, "-m", "modules.checkpoints.convert", str(path.resolve()), str(part.resolve())]
    environment = {**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=_ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise _refused(path, f"it took longer than {seconds:g} s to read") from None
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        known = done.returncode == 3 and words
        raise _refused(path, words[-1] if known else "reading it ended in a crash or ran out of memory")


def _refused(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path.name} was not converted: {reason}", hint="use another copy", field="file")


# ------------------------------------------------------------------------------------------------- in the child process


def _limit_memory(path: Path) -> None:
    if sys.platform == "win32":
        return  # there are no such limits; the time limit of the parent stands
    import resource

    limit = max(MEMORY_FACTOR * path.stat().st_size, MEMORY_FLOOR)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _child(source: Path, part: Path) -> None:
    _limit_memory(source)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    most = MEMORY_FACTOR * source.stat().st_size
    with unpickle.opened(source, most) as loaded:
        _write(part, state_dict(loaded, most), {"format": "pt", "reprise.converted_from_sha256": digest})


def _write(part: Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file: header length, header padded to eight bytes, values. Wide types come first, so that
    each value is aligned to its size.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    ordered = sorted(tensors.items(), key=lambda item: (-ITEM[item[1].dtype], item[0]))
    end = 0
    for name, tensor in ordered:
        place = [end, end := end + tensor.nbytes]
        header[printable(name)] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": place}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with part.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for _, tensor in ordered:
            file.write(tensor.raw())


def main(source: str, part: str) -> int:
    """Entry point of the child process. Exit status 3 means an error, with the reason as the last line of stderr."""
    try:
        _child(Path(source), Path(part))
    except MemoryError:
        reason = "it needs more memory than its size allows"
    except Exception as error:  # noqa: BLE001 - a hostile file may fail in any way, and all are told alike
        reason = next(iter(printable(str(error)).splitlines()), "") or type(error).__name__
    else:
        return 0
    print(reason, file=sys.stderr)
    return 3


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

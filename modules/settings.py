"""What the owner configured: declared options in one JSON file, replaced whole or not at all."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules import atomic
from modules.errors import OutputError, UserError
from modules.options import option, options_of, values_of

log = logging.getLogger(__name__)

MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Settings:
    """A snapshot. A change makes a new one."""

    warm_up: bool = option(True, "Warm up", help="load the default model at start, before anyone asks for a picture")
    preview_every: int = option(1, "Preview every N steps", lo=0, hi=150, step=1, help="0: no previews")
    image_format: str = option("png", "Picture format", choices=("png", "jpg", "webp"))
    image_quality: int = option(
        90, "Picture quality", lo=1, hi=100, step=1, help="of JPEG and WebP: how little is lost, or how small they get"
    )
    webp_lossless: bool = option(False, "Lossless WebP", help="keep every pixel")


def load(path: Path) -> tuple[Settings, str]:
    """The settings at ``path`` and, where they could not be used, a sentence that says so.

    A file that cannot be used is kept beside itself as ``.bad`` and what is wrong in it takes its default.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise ValueError("it does not hold an object")
    except FileNotFoundError:
        return Settings(), ""
    except (OSError, ValueError, RecursionError) as error:
        return Settings(), _set_aside(path, _reason(error))
    return _from_json(path, values)


def _from_json(path: Path, values: dict[str, Any]) -> tuple[Settings, str]:
    """Known settings in their ranges; unknown ones belong to other versions or extensions and are no fault."""
    good: dict[str, Any] = {}
    faults: list[str] = []
    for name, declared in options_of(Settings).items():
        if name in values:
            try:
                good[name] = declared.cast(values[name])
            except UserError as error:
                faults.append(error.message)
    return Settings(**good), _set_aside(path, "; ".join(faults)) if faults else ""


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return "it is not JSON"
    return str(error)


def _set_aside(path: Path, reason: str) -> str:
    bad = path.with_name(path.name + ".bad")
    message = f"the settings in {path} could not all be used, so defaults stand in for them: {reason}"
    try:
        path.replace(bad)
    except OSError as error:
        log.warning("%s could not be renamed: %s", path, error)
        return message
    return f"{message}; the old file is kept as {bad.name}"


def save(settings: Settings, path: Path) -> None:
    """Replace the file at ``path``, keeping keys there that are not ours. Raises `OutputError`."""
    data = json.dumps(_foreign(path) | values_of(settings), indent=2, sort_keys=True).encode()
    try:
        atomic.make_folder(path.parent)
        atomic.write(path, data)
    except OSError as error:
        raise OutputError(
            f"the settings could not be saved in {path}: {error.strerror or error}",
            hint="make its folder writable",
        ) from error


def _foreign(path: Path) -> dict[str, Any]:
    """What other versions or extensions keep in the file."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}  # load has said it already
    return {k: v for k, v in values.items() if k not in options_of(Settings)} if isinstance(values, dict) else {}

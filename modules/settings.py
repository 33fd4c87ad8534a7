"""What the owner configured: declared options in one JSON file, replaced whole or not at all."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modules import atomic
from modules.errors import OutputError, UserError
from modules.options import option, options_of, values_of

log = logging.getLogger(__name__)

MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Settings:
    """A snapshot. A change makes a new one."""

    image_format: str = option(
        "png",
        "Picture format",
        choices=("png", "jpg", "webp"),
        help="PNG keeps every pixel and all texts; JPEG and WebP are smaller",
        group="Saved pictures",
    )
    image_quality: int = option(
        90,
        "Picture quality",
        lo=1,
        hi=100,
        step=1,
        help="of JPEG and WebP: how little is lost, or how small they get",
        group="Saved pictures",
    )
    webp_lossless: bool = option(False, "Lossless WebP", help="keep every pixel", group="Saved pictures")
    embed_inputs: bool = option(
        False,
        "Embed start pictures",
        help="a PNG carries the pictures it was made from, up to 16 MB, so that it can be replayed anywhere",
        group="Saved pictures",
    )
    file_name: str = option(
        "[seed]",
        "File name",
        help="behind the number; A1111's words are filled in: [seed] [steps] [cfg] [sampler] [width] [model_name] "
        "[prompt_words] [date] and others",
        group="Saved pictures",
    )
    folder_name: str = option(
        "[date]",
        "Folder",
        help="below txt2img-images and its fellows; / divides folders, the words are those of file names",
        group="Saved pictures",
    )
    save_grid: bool = option(
        False,
        "Save grids",
        help="all pictures of a job on one sheet too, in txt2img-grids and img2img-grids",
        group="Saved pictures",
    )
    grid_rows: int = option(
        -1,
        "Rows of a grid",
        lo=-1,
        hi=16,
        step=1,
        help="-1: about as many as columns; 0: as many as a batch has pictures",
        group="Saved pictures",
    )
    preview_every: int = option(
        1, "Preview every N steps", lo=0, hi=150, step=1, help="0: no previews", group="While it runs"
    )
    warm_up: bool = option(
        True,
        "Warm up",
        help="load the default model at start, before anyone asks for a picture; from the next start on",
        group="While it runs",
    )
    form_sampler: str = option(
        "Euler a", "Sampler", choices="samplers", help="in every tab that makes images", group="A new page begins with"
    )
    form_scheduler: str = option(
        "Automatic",
        "Schedule type",
        choices="schedulers",
        help="Automatic: the one that the sampler's authors recommend",
        group="A new page begins with",
    )
    form_steps: int = option(20, "Steps", lo=1, hi=150, step=1, help="more take longer", group="A new page begins with")
    form_cfg_scale: float = option(
        7.0,
        "CFG scale",
        lo=1.0,
        hi=30.0,
        step=0.5,
        help="how closely the picture follows the prompt",
        group="A new page begins with",
    )
    form_negative_prompt: str = option(
        "", "Negative prompt", help="what should not be in any picture", multiline=True, group="A new page begins with"
    )
    disable_weights_auto_swap: bool = option(
        False,
        "Leave the checkpoint alone",
        help="a text that is read into the page changes everything but the chosen checkpoint",
        group="The page",
    )
    theme: str = option(
        "system",
        "Colours",
        choices=("system", "light", "dark"),
        help="light, dark, or as the visitor's system has it",
        group="The page",
    )
    quick_settings: str = option(
        "vae, clip_skip",
        "Quick settings",
        help="parameters that stand above the tabs, by their names, divided by commas; from the next start on",
        group="The page",
    )
    history_pictures: int = option(
        60, "Pictures on a page of the history", lo=12, hi=240, step=12, help="more take longer", group="The page"
    )
    keep_jobs_days: int = option(
        0,
        "Keep jobs for N days",
        lo=0,
        hi=3650,
        step=1,
        help="older ones are forgotten at the next start, their pictures stay; 0: keep all",
        group="The queue",
    )


FORM = {
    name: name.removeprefix("form_")
    for name in ("form_sampler", "form_scheduler", "form_steps", "form_cfg_scale", "form_negative_prompt")
}
"""Settings that a new page's form begins with, and the parameters that they are."""


class SettingsFile:
    """The settings while the program runs. A change is checked, saved whole, and then holds for what comes after it."""

    def __init__(self, path: Path, *, fixed: Mapping[str, Any] = MappingProxyType({}), locked: Iterable[str] = ()):
        """``fixed``: values that a flag gave. ``locked``: those that stay as the file has them, ``all`` for each of
        them. Neither can be changed.

        Raises `UserError` for a name that is no setting.
        """
        locked = options_of(Settings) if "all" in (locked := tuple(locked)) else locked
        for name in (*fixed, *locked):
            if name not in options_of(Settings):
                near = ", ".join(options_of(Settings))
                raise UserError(f"there is no setting named {name!r}", hint=f"there are {near}", field="lock_settings")
        self.path = path
        self._lock = threading.Lock()
        self._fixed = dict(fixed)
        self.locked = frozenset((*fixed, *locked))
        """Names of those that cannot be changed."""
        self._current, self.trouble = load(path)  # the second: what was wrong with the file at start, in a sentence

    def current(self) -> Settings:
        return replace(self._current, **self._fixed)

    def change(self, values: Mapping[str, Any]) -> Settings:
        """Set those of ``values`` that may be set; raises `UserError` with the field's name, and `OutputError`."""
        options = options_of(Settings)
        new = {name: options[name].cast(value) for name, value in values.items() if name in options}
        with self._lock:
            wanted = replace(self._current, **{name: v for name, v in new.items() if name not in self.locked})
            save(wanted, self.path)
            self._current = wanted
        return self.current()

    def part(self, extension: str) -> dict[str, Any]:
        """What the file keeps for an extension, by the names of its options, not yet judged."""
        found = _foreign(self.path).get(extension)
        return found if isinstance(found, dict) else {}

    def change_part(self, extension: str, values: Mapping[str, Any]) -> None:
        """Keep ``values``, judged by whoever declared them, for an extension. Raises `OutputError`."""
        with self._lock:
            _write(self.path, _foreign(self.path) | values_of(self._current) | {extension: dict(values)})


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
    _write(path, _foreign(path) | values_of(settings))


def _write(path: Path, values: Mapping[str, Any]) -> None:
    data = json.dumps(values, indent=2, sort_keys=True).encode()
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

"""The owner's settings: declared options in one JSON file, replaced atomically."""

from __future__ import annotations

import json
import logging
import stat
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from modules.errors import OutputError, UserError
from modules.params.options import Option, option, options_of, values_of
from modules.storage import atomic

log = logging.getLogger(__name__)

MAX_BYTES = 1_000_000


@dataclass(frozen=True)
class Settings:
    """An immutable snapshot of the settings. A change makes a new one."""

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
    show_progress_type: str = option(
        "Approx cheap",
        "Preview method",
        choices=("Approx cheap", "TAESD", "Full"),
        help="TAESD: sharper, where its file lies in models/VAE-approx; Full: as the finished picture, and slow",
        group="While it runs",
    )
    keep_interrupted: bool = option(
        True,
        "Interrupt keeps the image at hand",
        help="it is made from what there is, as Skip does, and A1111; off: it is dropped",
        group="While it runs",
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
    network_weight: float = option(
        1.0,
        "Weight of networks",
        lo=-2.0,
        hi=2.0,
        step=0.05,
        help="that a click on a card writes where the card states none",
        group="Networks",
    )
    network_names: str = option(
        "Alias from file",
        "Names of networks",
        choices=("Alias from file", "Filename"),
        help="what a click on a card writes: the name that the file states, or the file's own",
        group="Networks",
    )
    network_separator: str = option(
        " ", "Before a network", help="what a click on a card writes between the prompt and the tag", group="Networks"
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
"""Settings that are defaults of a new page's form, and the parameters they set."""


class SettingsFile:
    """The settings of a running program. A change is checked, saved, and then in effect."""

    def __init__(self, path: Path, *, fixed: Mapping[str, Any] = MappingProxyType({}), locked: Iterable[str] = ()):
        """``fixed``: values given by command line flags. ``locked``: names that keep the file's value, or ``all``.
        Neither can be changed.

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
        self._lasting: Settings | None = None
        self.trouble = ""
        """What was wrong with the file at startup, in a sentence."""
        try:
            self._lasting, self.trouble = _loaded(path)
        except OSError as error:
            self.trouble = _unread(path, error)

    def current(self) -> Settings:
        return replace(self._lasting or self._tried_again(), **self._fixed)

    def _tried_again(self) -> Settings:
        """Read the file again; defaults as long as it cannot be read."""
        try:
            self._lasting, self.trouble = _loaded(self.path)
        except OSError as error:
            log.warning(_unread(self.path, error))
        return self._lasting or Settings()

    def change(self, values: Mapping[str, Any]) -> Settings:
        """Set those of ``values`` that may be set; raises `UserError` with the field's name, and `OutputError`."""
        options = options_of(Settings)
        new = {name: _judged(options[name], value) for name, value in values.items() if name in options}
        with self._lock:
            known = self._known()
            wanted = replace(known, **{name: v for name, v in new.items() if name not in self.locked})
            save(wanted, self.path)
            self._lasting = wanted
        return self.current()

    def _known(self) -> Settings:
        """The file's content; `OutputError` as long as it could not be read, since saving would erase it."""
        if self._lasting is None:
            try:
                self._lasting, self.trouble = _loaded(self.path)
            except OSError as error:
                raise _refused(self.path, error) from error
        return self._lasting

    def part(self, extension: str) -> dict[str, Any]:
        """The unchecked values stored for an extension, by option name."""
        try:
            found = _foreign(self.path).get(extension)
        except OSError as error:
            log.warning(_unread(self.path, error))
            return {}
        return found if isinstance(found, dict) else {}

    def change_part(self, extension: str, values: Mapping[str, Any]) -> None:
        """Store ``values``, already checked, for an extension. Raises `OutputError`."""
        with self._lock:
            ours = values_of(self._known())
            _write(self.path, _kept(self.path) | ours | {extension: dict(values)})


def load(path: Path) -> tuple[Settings, str]:
    """The settings at ``path`` and, if they could not be used, a sentence that says so.

    What is wrong in a file takes its default, and the file as it was is kept beside itself as ``.bad``. One that cannot
    be read may be as good as ever, and is left alone.
    """
    try:
        return _loaded(path)
    except OSError as error:
        return Settings(), _unread(path, error)


def _loaded(path: Path) -> tuple[Settings, str]:
    try:
        values = _read(path)
    except (ValueError, RecursionError) as error:
        return Settings(), _set_aside(path, _reason(error))
    return _from_json(path, values)


def _read(path: Path) -> dict[str, Any]:
    """The file's content; empty if there is no file. `OSError` if it cannot be read."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no file")
        if about.st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    if not isinstance(values, dict):
        raise ValueError("it does not hold an object")
    return values


def _from_json(path: Path, values: dict[str, Any]) -> tuple[Settings, str]:
    """Known settings, in range; unknown ones belong to other versions or extensions and are no error."""
    good: dict[str, Any] = {}
    faults: list[str] = []
    for name, declared in options_of(Settings).items():
        if name in values:
            try:
                good[name] = _judged(declared, values[name])
            except UserError as error:
                faults.append(error.message)
    if not faults:
        return Settings(**good), ""
    message = _set_aside(path, "; ".join(faults))
    rest = {name: value for name, value in values.items() if name in good or name not in options_of(Settings)}
    if rest and not path.exists():
        try:
            _write(path, rest)
        except OutputError as error:
            log.warning("%s", error)
    return Settings(**good), message


def _judged(declared: Option, value: Any) -> Any:
    """The value cast by its option. Lone surrogates are rejected: no file could be named by them."""
    taken = declared.cast(value)
    if isinstance(taken, str) and any("\ud800" <= letter <= "\udfff" for letter in taken):
        raise UserError(f"{declared.label} holds half a character", hint="type it anew", field=declared.name)
    return taken


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return "it is not JSON"
    return str(error)


def _unread(path: Path, error: OSError) -> str:
    return (
        f"the settings in {path.name} cannot be read, so defaults stand in for them: {_reason(error)}; nothing is lost"
    )


def _refused(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"the settings were not saved, because those in {path.name} cannot be read and would be lost: {_reason(error)}",
        hint=atomic.way_out(error, "make the file readable"),
        place=path,
    )


def _set_aside(path: Path, reason: str) -> str:
    bad = atomic.set_aside(path)
    message = f"the settings in {path.name} could not all be used, so defaults stand in for them: {reason}"
    return f"{message}; the old file is kept as {bad.name}" if bad else message


def save(settings: Settings, path: Path) -> None:
    """Replace the file at ``path``, preserving keys that are not ours. Raises `OutputError`."""
    _write(path, _kept(path) | values_of(settings))


def _kept(path: Path) -> dict[str, Any]:
    """`_foreign` before replacing the file: raises `OutputError` rather than losing content."""
    try:
        return _foreign(path)
    except OSError as error:
        raise _refused(path, error) from error


def _write(path: Path, values: Mapping[str, Any]) -> None:
    data = json.dumps(values, indent=2, sort_keys=True).encode()
    try:
        atomic.make_folder(path.parent)
        atomic.write(path, data)
    except OSError as error:
        raise OutputError(
            f"the settings could not be saved in {path.name}: {error.strerror or error}",
            hint=atomic.way_out(error),
            place=path,
        ) from error


def _foreign(path: Path) -> dict[str, Any]:
    """The keys of other versions and extensions; bad content is set aside. `OSError` if the file cannot be read."""
    try:
        values = _read(path)
    except (ValueError, RecursionError) as error:
        log.warning(_set_aside(path, _reason(error)))
        return {}
    return {name: value for name, value in values.items() if name not in options_of(Settings)}

"""Loads the extensions of a folder: reads manifests, imports, registers, and keeps each one's state.

A manifest is read and judged before anything is imported. What an extension adds is collected in a `Host` of its own
and taken over whole, so that one that fails half-way leaves nothing behind. No torch here: the server loads the same
folders as the worker.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import json
import logging
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Literal

from modules.errors import NotFound, OutputError
from modules.extension.host import Host, Owner
from modules.extension.installer import Installer
from modules.extension.manifest import Manifest, Refused, folders_in, read_manifest
from modules.extension.packages import Missing, PackagePaths
from modules.storage import atomic

log = logging.getLogger(__name__)

State = Literal["loaded", "disabled", "refused", "broken", "left out"]
PRIVATE = "reprise_extension_"
"""Prefix of the module names under which extensions are imported, so that they collide with nothing."""
MAX_STARTS = 2
"""Incomplete starts in a row after which safe mode loads no extension."""


@dataclass(frozen=True)
class Extension:
    """An extension's folder, and whether and why it was loaded."""

    name: str
    folder: Path
    state: State
    manifest: Manifest | None = None
    reason: str = ""
    """Why it is not loaded, in one sentence."""
    traceback: str = ""
    added: tuple[str, ...] = ()
    """What it registered, as in "sampler My Euler"."""
    missing: tuple[str, ...] = ()
    """The packages for want of which it is refused."""

    @property
    def version(self) -> str:
        return self.manifest.version if self.manifest else ""


# --------------------------------------------------------------------------------------------------------- loading


class Loader:
    """Loads the extensions of one or more folders into a host, and keeps their states."""

    def __init__(
        self,
        folder: Path | Sequence[Path],
        data_dir: Path,
        root: Path,
        *,
        process: Literal["server", "worker", "command"],
        name: str = "",
        flags: Mapping[str, Mapping[str, str]] | None = None,
    ):
        """Of two extensions with one name that in the later folder is taken. ``root``: the folder of requirements.txt.
        In the ``server`` an extension cannot import torch; starts of a ``command`` are not counted. ``name``: of this
        worker, since each counts its own starts. ``flags``: command line values, by extension and name.
        """
        self.folders = (folder,) if isinstance(folder, Path) else tuple(folder)
        self.host = Host()
        self.extensions: dict[str, Extension] = {}
        self.safe_mode = False
        self._choices = data_dir / "extensions.json"
        self._settings = data_dir / "settings.json"
        self._known = data_dir / "extensions" / "modifiers.json"
        self._names = data_dir / "extensions" / "names.json"
        self._starts = data_dir / "extensions" / f"{name or process}.json"
        self._data_dir = data_dir
        self._root = root
        self._packages = PackagePaths(data_dir, root)
        self._process = process
        self._flags = flags or {}

    def load_all(self, host: Host) -> None:
        """Load all valid extensions. Safe mode: after `MAX_STARTS` starts that ended before `started` was called, leave
        out the one to blame (`_suspect`), and another if that does not help.
        """
        self.host = host
        places, before = folders_in(*self.folders), self._last_start()
        starts = before.get("starts", 0) if isinstance(before.get("starts"), int) else 0
        left_out = _texts_of(before.get("left_out"))
        self.safe_mode = starts >= MAX_STARTS and self._process != "command"
        if self.safe_mode and (suspect := _suspect(places, str(before.get("loading") or ""), left_out, starts)):
            left_out |= dict([suspect])
        for place in places:
            if self.safe_mode and place.name in left_out:
                manifest, reason = _manifest_or_none(place), left_out[place.name]
                self.extensions[place.name] = Extension(place.name, place, "left out", manifest, reason)
            else:
                self._note_start(starts + 1, place.name, left_out)
                self.extensions[place.name] = self._load(place)
        self._note_start(starts + 1, "", left_out)
        for kind, table in host.tables().items():
            table.elsewhere = partial(self._elsewhere, kind)

    def _elsewhere(self, kind: str, name: str) -> str:
        """Which extension that is not loaded brings a sampler, a script or the like, and how it comes back."""
        for extension, names in _known_in(self._names).items():
            one = self.extensions.get(extension)
            if f"{kind} {name.casefold()}" not in names or (one and one.state == "loaded"):
                continue
            if one is None:
                return f"the extension {extension} brought it, which is not installed any more"
            if one.state == "disabled":
                return f"the extension {extension} brings it: switch that on in the Extensions tab"
            return f"the extension {extension} brings it, which could not be loaded: the Extensions tab says why"
        return ""

    def started(self) -> None:
        """Report that the start was completed, which ends the count for safe mode: the next one tries all again."""
        if self.extensions:
            self._note_start(0, "")

    def reload(self, name: str) -> Extension:
        """Remove what the extension added, and import it again."""
        place = next((place for place in folders_in(*self.folders) if place.name == name), None)
        if place is None:
            raise NotFound(f"no extension named {name!r}", hint="look into the folder", field="extension")
        self.host.drop(name)
        for module in [key for key in sys.modules if key == PRIVATE + name or key.startswith(f"{PRIVATE}{name}.")]:
            del sys.modules[module]
        self.extensions[name] = self._load(place)
        return self.extensions[name]

    def install(self, name: str) -> Extension:
        """Install the packages that an extension lacks, and load it. It may take minutes. Raises `RepriseError`."""
        Installer(self.folders, self._data_dir, self._root).install(name)
        return self.reload(name)

    def enable(self, name: str, enabled: bool) -> Extension:
        """Enable or disable an extension, now and for later starts."""
        try:
            disabled = _disabled_in(_object_in(self._choices, mend=True)) - {name} | (set() if enabled else {name})
            atomic.make_folder(self._choices.parent)
            atomic.write(self._choices, json.dumps({"disabled": sorted(disabled)}, indent=1).encode())
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"the choice could not be saved ({reason})", hint=atomic.way_out(error)) from error
        return self.reload(name)

    def disabled(self) -> set[str]:
        """Names of disabled extensions; raises `OSError` if the file cannot be read now."""
        return _disabled_in(_object_in(self._choices))

    def absent(self) -> dict[str, str]:
        """Extensions that are not loaded, and the modifiers that they added when they were, each with the reason, as
        told to jobs that ask for them.
        """
        words: dict[State, str] = {"disabled": "it is switched off", "broken": "it is broken"}
        reasons = {
            one.name: one.reason or words.get(one.state, one.state)
            for one in self.extensions.values()
            if one.state != "loaded"
        }
        found = dict(reasons)
        for name, modifiers in _known_in(self._known).items():
            gone = "" if name in self.extensions else "it is not installed any more"
            if reason := reasons.get(name, gone):
                whose = {name: reason} | dict.fromkeys(modifiers, f"its extension {name}: {reason}")
                found |= {one: why for one, why in whose.items() if one not in self.host.modifiers and one not in found}
        return found

    def _load(self, place: Path) -> Extension:
        with _interrupts() as interrupted:
            found = self._let_in(place, interrupted)
        if found.state != "loaded":
            self._packages.withdraw(place.name)
        return found

    def _let_in(self, place: Path, interrupted: Callable[[], bool]) -> Extension:
        name, manifest = place.name, None
        try:
            manifest = read_manifest(place)
            try:
                off, owner = name in self.disabled(), self._owner(place, manifest)
            except OSError as error:  # it may be switched off
                log.warning("extension %s is left out: %s", name, error)
                return Extension(name, place, "left out", manifest, _unread(error))
            if off:
                return Extension(name, place, "disabled", manifest, "it is switched off")
            self._packages.admit(name, manifest.requirements)
            part = Host(owner, self.host.reserved, self.host.models)
            with _without_torch() if self._process == "server" else contextlib.nullcontext():
                module = _imported(place)
                module.register(part)
            self._check_names(name, part)
            self.host.take(part)
            self._remember(name, part)
        except Refused as error:
            log.warning("extension %s is refused: %s", name, error)
            missing = error.requirements if isinstance(error, Missing) else ()
            return Extension(name, place, "refused", manifest, str(error), missing=missing)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and interrupted():
                raise
            log.warning("extension %s is broken", name, exc_info=True)
            return Extension(name, place, "broken", manifest, _sentence(error), _own_traceback(error))
        added = tuple(f"{kind} {title}" for kind, title in part.owners)
        log.info("extension %s %s: %s", name, manifest.version, ", ".join(added) or "nothing registered")
        return Extension(name, place, "loaded", manifest, added=added)

    def _check_names(self, name: str, part: Host) -> None:
        """Recipes name extensions and modifiers side by side, so no extension may be called like another's modifier."""
        folders = {place.name for place in folders_in(*self.folders)} - {name}
        if clash := [modifier for modifier in part.modifiers.names() if modifier in folders]:
            raise Refused(f"its modifier has the name of the extension {clash[0]!r}", hint="rename it")
        if name in self.host.modifiers and (self.host.owner_of("modifier", name) or ("",))[0] != name:
            raise Refused(f"a modifier of the program or of another extension is called {name!r}", hint="rename it")

    def _remember(self, name: str, part: Host) -> None:
        """Keep what an extension adds, for jobs that ask for it when it is gone (`absent`, `_elsewhere`)."""
        named = {f"{kind} {one.casefold()}" for kind, table in part.tables().items() for one in table.names()}
        for path, names in ((self._known, sorted(part.modifiers.names())), (self._names, sorted(named))):
            known = _known_in(path)
            if names != known.get(name, []):
                with contextlib.suppress(OSError):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    atomic.write(path, json.dumps({**known, name: names}).encode())

    def _owner(self, place: Path, manifest: Manifest) -> Owner:
        settings = _object_in(self._settings).get(manifest.name)
        said = self._flags.get(manifest.name, {})
        flags = {name: said.get(name, declared.default) for name, declared in manifest.flags.items()}
        settings = settings if isinstance(settings, dict) else {}
        data_dir = self._data_dir / "extensions" / manifest.name
        facts = manifest.name, manifest.version, place, manifest.permissions, settings, flags
        return Owner(*facts, api=manifest.api, data_dir=data_dir)

    def _last_start(self) -> dict[str, Any]:
        try:
            return _object_in(self._starts)
        except OSError as error:
            log.warning("%s cannot be read: %s", self._starts, error)
            return {}

    def _note_start(self, starts: int, loading: str, left_out: Mapping[str, str] = {}) -> None:
        """Record the start in progress, for the next start to find if this one crashes."""
        if self._process == "command":
            return
        with contextlib.suppress(OSError):
            self._starts.parent.mkdir(parents=True, exist_ok=True)
            self._starts.write_text(
                json.dumps({"starts": starts, "loading": loading, "left_out": dict(left_out)}), encoding="utf-8"
            )


def _suspect(places: Sequence[Path], loading: str, left_out: Mapping[str, str], starts: int) -> tuple[str, str] | None:
    """Whom to leave out after so many starts that did not come to an end, and why: the one that was being loaded, or
    else the one whose files are the newest; None if there is none left.
    """
    begin = f"the last {starts} starts did not come to an end"
    able = {place.name: place for place in places if place.name not in left_out}
    if loading in able:
        return loading, f"{begin}, within {loading}"
    if not able:
        return None
    newest = max(able, key=lambda name: _changed_at(able[name]))
    return newest, f"{begin}, and of the extensions {newest} was changed last"


def _changed_at(place: Path) -> float:
    times = [0.0]
    for path in (place, *place.rglob("*.py"), *place.glob("extension.toml")):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)


def _known_in(path: Path) -> dict[str, list[str]]:
    """The modifiers, or other names, that each extension added when it was last loaded."""
    try:
        found = _object_in(path)
    except OSError as error:
        log.warning("%s cannot be read: %s", path, error)
        return {}
    return {name: [str(one) for one in names] for name, names in found.items() if isinstance(names, list)}


def _texts_of(found: object) -> dict[str, str]:
    return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}


def _imported(place: Path) -> ModuleType:
    init = place / "__init__.py"
    if not init.exists():
        raise Refused("it has no __init__.py", hint="write one with register(host)")
    name = PRIVATE + place.name
    spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(place)])
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    importlib.invalidate_caches()
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    if not callable(getattr(module, "register", None)):
        raise Refused("it has no function register", hint="write register(host) into its __init__.py")
    return module


class _NoTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "torch":
            raise ImportError("torch is not for the server process: import it within the hooks that need it")


@contextlib.contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Tell whether Ctrl+C was pressed meanwhile: a KeyboardInterrupt without that was raised by the extension."""
    pressed: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def on_signal(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        if callable(before):
            before(number, frame)

    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield lambda: False  # signals reach the main thread alone, and in a worker they are ignored
        return
    signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Make imports of torch fail: the server must not load it, not even for an extension."""
    finder = _NoTorch()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _manifest_or_none(place: Path) -> Manifest | None:
    with contextlib.suppress(Refused):
        return read_manifest(place)
    return None


def _object_in(path: Path, *, mend: bool = False) -> dict[str, Any]:
    """The JSON object in a file; empty if the file is missing or holds none, in which case ``mend`` sets it aside.

    `OSError` where the file cannot be read, which says nothing of what it holds.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        log.warning("%s is not understood: %s", path, error)
        found = None
    if isinstance(found, dict):
        return found
    if mend:
        atomic.set_aside(path)
    return {}


def _disabled_in(choices: Mapping[str, Any]) -> set[str]:
    found = choices.get("disabled")
    return {name for name in found if isinstance(name, str)} if isinstance(found, list) else set()


def _unread(error: OSError) -> str:
    name, reason = Path(str(error.filename or "a file")).name, error.strerror or str(error)
    return f"{name} cannot be read ({reason}), so that it may be switched off; {atomic.way_out(error)}"


def _sentence(error: BaseException) -> str:
    first_line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def _own_traceback(error: BaseException) -> str:
    """The traceback from the extension's first frame on."""
    lines = traceback.TracebackException.from_exception(error)
    ours = str(Path(__file__).parents[2] / "modules")
    own = [frame for frame in lines.stack if not frame.filename.startswith((ours, "<frozen"))]
    lines.stack = traceback.StackSummary.from_list(own)
    return "".join(lines.format())

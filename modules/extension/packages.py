"""Packages that extensions need: whether they are there, and where an extension's own lie.

What is installed for an extension lies in ``DATA/extensions/NAME/site-packages``, outside ``.venv``, so that a rebuilt
environment loses nothing. These folders stand behind the program's own packages on ``sys.path``: a program's package
is never replaced by an extension's.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from modules.bootstrap import installed, pins
from modules.extension.manifest import Refused

if TYPE_CHECKING:
    from packaging.requirements import Requirement

COMMAND = "python3 app.py install-extension"
"""What installs the packages of an extension; its name follows."""


class Missing(Refused):
    """Packages are not installed; ``requirements`` are those, as the manifest writes them."""

    def __init__(self, extension: str, requirements: Sequence[str]):
        *first, last = requirements
        listed = f"{', '.join(first)} and {last}" if first else last
        which = "which are not installed; install them" if first else "which is not installed; install it"
        super().__init__(f"it needs {listed}, {which} with: {COMMAND} {extension}")
        self.requirements = tuple(requirements)


class PackagePaths:
    """The folders of extensions' packages on ``sys.path``. One object a process, made by whoever loads extensions."""

    def __init__(self, data_dir: Path, root: Path):
        """``root``: the folder of requirements.txt."""
        self._data_dir = data_dir
        self._root = root
        self._folders: dict[str, Path] = {}

    def admit(self, extension: str, wanted: Sequence[str]) -> None:
        """Put the extension's packages on ``sys.path`` and check that they are what it needs. Raises `Refused` where a
        package is missing (`Missing`), conflicts with the program's pins, or is there in another version for another
        extension, whose code would get this one's or the other way around.
        """
        self.withdraw(extension)
        folder = site_packages(self._data_dir, extension)
        own = installed([str(folder)]) if folder.is_dir() else {}
        if not own and not wanted:
            return
        program = installed(self._program())
        for name, version in own.items():
            for other, theirs in self.versions(name).items():
                if theirs != version and name not in program:
                    raise Refused(
                        f"it brings {name} {version}, and extension {other} has brought {name} {theirs}",
                        hint=f"switch one of them off, or install again what both agree on: {COMMAND} {extension}",
                    )
        if stale := self._imported_before(folder, own):
            raise Refused(
                f"it brings {stale}, and another version of that is at work already", hint="start the program again"
            )
        folders = [*self._program(), str(folder)]
        pinned = pins([self._root / "requirements.txt"])
        check_requirements(wanted, pinned, program, own, extension=extension, folders=folders)
        if own:
            self._folders[extension] = folder
            sys.path.append(str(folder))
            importlib.invalidate_caches()

    def withdraw(self, extension: str) -> None:
        """Take the extension's packages off ``sys.path``; what was imported stays imported."""
        folder = self._folders.pop(extension, None)
        if folder is not None and str(folder) in sys.path:
            sys.path.remove(str(folder))

    def versions(self, package: str) -> dict[str, str]:
        """The versions of a package that extensions brought, by extension."""
        found = {name: installed([str(folder)]).get(package) for name, folder in self._folders.items()}
        return {name: version for name, version in found.items() if version is not None}

    def _imported_before(self, folder: Path, own: Mapping[str, str]) -> str:
        """A package of ``own``, with its version, of which this process has imported another extension's other version:
        what was imported stays. Empty: there is none."""
        for module in sorted(path.name.removesuffix(".py") for path in folder.glob("*") if folder.is_dir()):
            there = next(iter(getattr(sys.modules.get(module), "__path__", ())), None)
            there = there or getattr(sys.modules.get(module), "__file__", None)
            place = Path(there).parent if there else folder
            if place != folder and place.is_relative_to(self._data_dir / "extensions"):
                theirs = installed([str(place)])
                if differing := [name for name in own if name in theirs and theirs[name] != own[name]]:
                    return f"{differing[0]} {own[differing[0]]}"
        return ""

    def _program(self) -> list[str]:
        places = {str(folder) for folder in self._folders.values()}
        return [place for place in sys.path if place not in places]


def site_packages(data_dir: Path, extension: str) -> Path:
    """The folder of the packages that were installed for an extension."""
    return data_dir / "extensions" / extension / "site-packages"


def brought_by_others(data_dir: Path, extension: str) -> dict[str, tuple[str, str]]:
    """Packages installed for other extensions: version and extension, by package."""
    found: dict[str, tuple[str, str]] = {}
    for folder in sorted((data_dir / "extensions").glob("*/site-packages")):
        if folder.parent.name != extension:
            found |= {name: (version, folder.parent.name) for name, version in installed([str(folder)]).items()}
    return found


def check_requirements(
    wanted: Sequence[str],
    pinned: Mapping[str, str],
    have: Mapping[str, str],
    own: Mapping[str, str] = MappingProxyType({}),
    *,
    extension: str = "NAME",
    folders: Sequence[str] = (),
) -> None:
    """Raise `Refused` for a conflict with what the program has, else `Missing` with all that is not installed.

    Versions by package: ``pinned`` by the program, which it ``have``, and the extension's ``own``. ``folders``: where
    they lie, for the requirements of their extras.
    """
    missing: list[str] = []
    for text in wanted:
        for requirement in _with_extras(parsed(text), folders):
            name = normal(requirement.name)
            version = pinned.get(name) or have.get(name)
            if not requirement.specifier.contains(version or own.get(name, "0"), prereleases=True):
                if version is None:
                    missing.append(text)
                    continue
                whose = "the program is pinned to" if name in pinned else "there is"
                raise Refused(
                    f"it needs {text} and {whose} {name} {version}", hint="ask its author for another version"
                )
            if version is None and name not in own:
                missing.append(text)
    if missing:
        raise Missing(extension, list(dict.fromkeys(missing)))


def parsed(text: str) -> Requirement:
    """A requirement as PEP 508 writes it: name, extras, versions, markers; raises `Refused`."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        found = Requirement(text)
    except InvalidRequirement:
        raise Refused(f"its requirement {text!r} is not understood", hint="write it as name>=1.2,<2") from None
    if found.url:
        raise Refused(f"its requirement {text!r} names an address", hint="write it as name>=1.2,<2")
    return found


def _with_extras(requirement: Requirement, folders: Sequence[str]) -> Iterator[Requirement]:
    """What a requirement asks of this system: nothing where its marker says so, else itself and what the extras need
    that it names, as far as it is installed."""
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return
    yield requirement
    if not requirement.extras:
        return
    for found in importlib.metadata.distributions(name=requirement.name, path=list(folders)):
        for inner in map(parsed, found.requires or ()):
            plain = inner.marker is None or inner.marker.evaluate({"extra": ""})
            if not plain and any(inner.marker and inner.marker.evaluate({"extra": e}) for e in requirement.extras):
                inner.marker = None
                yield from _with_extras(inner, folders)
        return


def normal(name: str) -> str:
    """A package's name as indexes compare it: small letters, one - for each run of -, _ and dots."""
    from packaging.utils import canonicalize_name

    return str(canonicalize_name(name))


def facts_of(report: Mapping[str, Any]) -> dict[str, str]:
    """Package -> version of what pip's installation report (``--report``, version 1) would install."""
    return {normal(entry["metadata"]["name"]): str(entry["metadata"]["version"]) for entry in report.get("install", ())}

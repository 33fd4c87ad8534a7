"""Extension manifests: reads and validates ``extension.toml``.

Standard library only: the command line reads flags from it before any package is there.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.errors import RepriseError
from modules.params.options import Option

API = 1
"""The version of the extension API. It increases when anything promised changes."""
PERMISSIONS = frozenset(
    (
        "sampler",
        "scheduler",
        "upscaler",
        "face_restorer",
        "tab",
        "script",
        "modifier",
        "tag",
        "setting",
        "route",
        "asset",
    )
)
"""The tables to which an extension can add; its manifest lists those that it uses."""
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*((?:(?:[<>=!~]=|[<>])\s*[\w.*+!-]+\s*,?\s*)*)")
_CLAUSE = re.compile(r"([<>=!~]=|[<>])\s*([\w.*+!-]+)")


class Refused(RepriseError):
    """The extension is not loaded, and why."""


@dataclass(frozen=True)
class Manifest:
    """The content of ``extension.toml``."""

    name: str
    version: str
    api: int
    description: str = ""
    permissions: frozenset[str] = frozenset()
    requirements: tuple[str, ...] = ()
    flags: Mapping[str, Option] = field(default_factory=dict)
    """Its flags on the command line, ``--NAME-flag``, by their names."""


def read_manifest(folder: Path) -> Manifest:
    """Read and validate a manifest; raises `Refused` with one sentence."""
    try:
        values = tomllib.loads((folder / "extension.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused("it has no extension.toml", hint="write one with name, version and api") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Refused(f"its extension.toml cannot be read ({error})", hint="mend it") from None
    name, version, api = (values.get(key) for key in ("name", "version", "api"))
    if name != folder.name or not NAME.fullmatch(str(name)):
        raise Refused(
            f"its manifest says name = {name!r} and its folder is {folder.name!r}",
            hint="both must be the same small letters, digits and _",
        )
    if not isinstance(version, str) or not re.fullmatch(r"[\w.+-]{1,40}", version):
        raise Refused(f"its version is {version!r}", hint='write it as text, as in version = "1.0"')
    if api != API:
        raise Refused(f"it was written for version {api!r} of the programming interface and this is {API}")
    permissions = _texts(values, "permissions")
    if unknown := sorted(set(permissions) - PERMISSIONS):
        raise Refused(f"there is no permission {unknown[0]!r}", hint=f"there are {', '.join(sorted(PERMISSIONS))}")
    flags = values.get("flags", [])
    if not isinstance(flags, list) or not all(isinstance(one, dict) and _is_flag(one) for one in flags):
        raise Refused("its flags must be tables of the texts name, help and default", hint="look at the guide")
    return Manifest(
        name=str(name),
        version=version,
        api=api,
        description=str(values.get("description", "")),
        permissions=frozenset(permissions),
        requirements=tuple(_texts(values, "requirements")),
        flags={one["name"]: _flag(**one) for one in flags},
    )


def _texts(values: Mapping[str, Any], key: str) -> list[str]:
    found = values.get(key, [])
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise Refused(f"its {key} must be a list of texts")
    return found


def _is_flag(values: Mapping[str, Any]) -> bool:
    texts = all(isinstance(value, str) for value in values.values())
    return texts and values.keys() <= {"name", "help", "default"} and bool(NAME.fullmatch(values.get("name", "")))


def _flag(name: str, help: str = "", default: str = "") -> Option:
    return Option(name, name.replace("_", " "), str, default, help=help)


def check_requirements(wanted: Sequence[str], pinned: Mapping[str, str], have: Mapping[str, str]) -> None:
    """Raise `Refused` if a required package is missing or conflicts with our pins. Nothing is installed."""
    for text in wanted:
        match = _REQUIREMENT.fullmatch(text.strip())
        if not match:
            raise Refused(f"its requirement {text!r} is not understood", hint="write it as name>=1.2,<2")
        name = re.sub(r"[-_.]+", "-", match[1]).lower()
        version = pinned.get(name) or have.get(name)
        if version is None:
            raise Refused(f"it needs {text}, which is not installed", hint=f"install it beside the program: {match[1]}")
        if not all(_meets(version, *clause) for clause in _CLAUSE.findall(match[2])):
            whose = "the program is pinned to" if name in pinned else "there is"
            raise Refused(f"it needs {text} and {whose} {name} {version}", hint="ask its author for another version")


def _meets(version: str, sign: str, wanted: str) -> bool:
    """Whether a version meets a PEP 440 specifier; release numbers only, which is all that pins use."""
    here, there = _release(version), _release(wanted)
    if sign in ("==", "!="):
        length = len(there) if wanted.endswith(".*") else max(len(here), len(there))
        return (_padded(here, length) == _padded(there, length)) == (sign == "==")
    if sign == "~=":
        return here >= there and here[: len(there) - 1] == there[:-1]
    size = max(len(here), len(there))
    here, there = _padded(here, size), _padded(there, size)
    return {">=": here >= there, "<=": here <= there, ">": here > there, "<": here < there}[sign]


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else (0,)


def _padded(numbers: tuple[int, ...], length: int) -> tuple[int, ...]:
    return (*numbers, *(0,) * length)[:length]


def flags_in(folder: Path) -> dict[str, dict[str, Option]]:
    """The command line flags declared by all manifests in a folder, by extension and name. Nothing is imported."""
    found = {}
    for place in folders_in(folder):
        with contextlib.suppress(Refused):
            found[place.name] = dict(read_manifest(place).flags)
    return found


def folders_in(folder: Path) -> list[Path]:
    """The subfolders that look like extensions."""
    if not folder.is_dir():
        return []
    found = (place for place in folder.iterdir() if place.is_dir() and place.name[0] not in "._")
    return sorted(place for place in found if (place / "__init__.py").exists() or (place / "extension.toml").exists())

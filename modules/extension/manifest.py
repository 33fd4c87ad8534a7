"""Extension manifests: reads and validates ``extension.toml``.

Standard library only: the command line reads flags from it before any package is there.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from modules.errors import RepriseError
from modules.params.options import Option

API = 2
"""The version of the extension API. It increases when anything promised changes."""
APIS = (1, API)
"""The versions that are understood: extensions of before go on working."""
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
        "slot",
        "extras_step",
        "cards",
    )
)
"""The tables to which an extension can add; its manifest lists those that it uses."""
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


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
    """Packages without which it is not loaded, as PEP 508 writes them."""
    optional: tuple[str, ...] = ()
    """Packages that it does without; ``install-extension`` installs them too."""
    flags: Mapping[str, Option] = field(default_factory=dict)
    """Its flags on the command line, ``--NAME-flag``, by their names."""


KEYS = frozenset(("name", "version", "api", "description", "permissions", "requirements", "optional", "flags"))
"""The keys of a manifest. Others are for other readers, if they do not look like one of these written wrong."""


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
    if api not in APIS or isinstance(api, bool):
        raise Refused(f"it was written for version {api!r} of the programming interface and this is {API}")
    for key in sorted(values.keys() - KEYS):
        if meant := get_close_matches(key, KEYS, n=1, cutoff=0.8):
            raise Refused(f"its manifest has no key {key!r}", hint=f"write {meant[0]!r}")
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
        optional=tuple(_texts(values, "optional")),
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


def flags_in(*folders: Path) -> dict[str, dict[str, Option]]:
    """The command line flags declared by all manifests in ``folders``, by extension and name. Nothing is imported."""
    found = {}
    for place in folders_in(*folders):
        with contextlib.suppress(Refused):
            found[place.name] = dict(read_manifest(place).flags)
    return found


def folders_in(*folders: Path) -> list[Path]:
    """The subfolders that look like extensions, by name; of two with one name that of the later of ``folders``."""
    found: dict[str, Path] = {}
    for folder in folders:
        places = [place for place in folder.iterdir() if place.is_dir()] if folder.is_dir() else []
        for place in places:
            looks_so = (place / "__init__.py").exists() or (place / "extension.toml").exists()
            if looks_so and place.name[0] not in "._":
                found[place.name] = place
    return [found[name] for name in sorted(found)]

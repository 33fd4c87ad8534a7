"""Installs extensions from a local folder or ZIP file, and the packages that they need.

Packages come through pip, resolved against the program's pins and what other extensions brought, into
``DATA/extensions/NAME/site-packages``. Nothing is put in place before all of it is there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modules.bootstrap import failure_of, installed, pins, pip_settings
from modules.errors import NotFound, OutputError, RepriseError, UserError
from modules.extension.manifest import NAME, Manifest, Refused, folders_in, read_manifest
from modules.extension.packages import (
    Missing,
    brought_by_others,
    check_requirements,
    facts_of,
    normal,
    parsed,
    site_packages,
)

MAX_FILES, MAX_BYTES = 20_000, 2 * 2**30
"""Limits of an unpacked ZIP file."""
LEFT_OUT = (".git", "__pycache__", ".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache")
"""Folders that are not copied along."""
_CONFLICT = re.compile(r"The conflict is caused by:\n((?: {4}.+\n)+)")


@dataclass(frozen=True)
class Done:
    """What was installed."""

    name: str
    version: str
    folder: Path
    packages: Mapping[str, str]
    """Versions by package: those installed for it alone."""
    copied: bool
    """Whether its folder was put in place; otherwise it was there."""


class Installer:
    """Installs into the last of ``folders``, which are those of extensions, and into ``data_dir``."""

    def __init__(self, folders: Sequence[Path], data_dir: Path, root: Path, *, python: str = sys.executable):
        """``root``: the folder of requirements.txt. ``python``: whose pip installs."""
        self._folders = folders
        self._data_dir = data_dir
        self._root = root
        self._python = python

    def install(self, what: str, *, replace: bool = False, on_step: Callable[[str], None] = lambda said: None) -> Done:
        """Install the extension ``what``: the name of one that is there, whose packages alone are installed then, or a
        folder or ZIP file. With ``replace`` it may take the place of another version. Raises `RepriseError`.
        """
        there = {place.name: place for place in folders_in(*self._folders)}
        if what in there:
            manifest = read_manifest(there[what])
            with self._packages(manifest, on_step) as packages:
                pass
            return Done(manifest.name, manifest.version, there[what], packages, copied=False)
        source = Path(what).expanduser()
        if not source.exists():
            names = ", ".join(there) or "none"
            raise NotFound(f"there is no extension, folder or ZIP file {what!r}", hint=f"there are {names}")
        home = self._folders[-1]
        try:
            home.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=home, prefix=".incoming-") as folder:
                on_step(f"reading {source.name}")
                staged = _staged(source, Path(folder))
                manifest = read_manifest(staged)
                old = there.get(manifest.name)
                if old is not None and not replace:
                    raise UserError(f"{old} is there already", hint="take its place with --replace")
                with self._packages(manifest, on_step) as packages:
                    _swap(staged, home / manifest.name, Path(folder) / "before")
        except OSError as error:
            raise OutputError(
                f"{what} cannot be installed ({error.strerror or error})", hint="check the rights and the free space"
            ) from error
        return Done(manifest.name, manifest.version, home / manifest.name, packages, copied=True)

    @contextmanager
    def _packages(self, manifest: Manifest, on_step: Callable[[str], None]) -> Iterator[dict[str, str]]:
        """Install what is needed beside its place, and put it there when the block has ended without an error."""
        place = site_packages(self._data_dir, manifest.name)
        wanted = self._wanted(manifest)
        if not wanted:  # all of it is the program's
            yield {}
            return
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".incoming-") as folder:
            on_step(f"resolving {', '.join(wanted)}")
            packages = self._resolved(manifest.name, wanted, Path(folder))
            staged = Path(folder) / "site-packages"
            staged.mkdir()
            if packages:
                on_step(f"installing {', '.join(packages)}")
                exact = [f"{name}=={version}" for name, version in packages.items()]
                self._pip("install", "--no-deps", "--target", str(staged), *exact)
            yield packages
            _swap(staged, place, Path(folder) / "before")

    def _wanted(self, manifest: Manifest) -> list[str]:
        """The requirements that the program itself does not meet; raises `Refused` for a conflict."""
        pinned = pins([self._root / "requirements.txt"])
        have = installed(sys.path)
        try:
            check_requirements(manifest.requirements, pinned, have, extension=manifest.name, folders=sys.path)
            wanted: list[str] = []
        except Missing as missing:
            wanted = list(missing.requirements)
        for text in manifest.optional:
            try:
                check_requirements([text], pinned, have, extension=manifest.name, folders=sys.path)
            except Missing:
                wanted.append(text)
            except Refused:  # it does without
                continue
        others = brought_by_others(self._data_dir, manifest.name)
        for text in wanted:
            requirement = parsed(text)
            version, extension = others.get(normal(requirement.name), ("", ""))
            if extension and not requirement.specifier.contains(version, prereleases=True):
                raise Refused(
                    f"{manifest.name} needs {text}, and extension {extension} has brought {requirement.name} {version}",
                    hint="two versions of one package cannot be loaded; ask their authors for versions that agree",
                )
        return wanted

    def _resolved(self, name: str, wanted: Sequence[str], folder: Path) -> dict[str, str]:
        """The packages that pip would install beside the program's own, by its resolver."""
        constraints, report = folder / "constraints.txt", folder / "report.json"
        pinned = pins([self._root / "requirements.txt"])
        others = {package: version for package, (version, _) in brought_by_others(self._data_dir, name).items()}
        lines = [f"{package}=={version}\n" for package, version in {**others, **pinned}.items()]
        constraints.write_text("".join(lines), encoding="utf-8")
        options = ("--dry-run", "--constraint", str(constraints), "--report", str(report))
        self._pip("install", *options, *wanted)
        return facts_of(json.loads(report.read_text(encoding="utf-8")))

    def _pip(self, *arguments: str) -> None:
        # -I: neither PYTHONPATH nor the user's own packages count as the program's
        command = [self._python, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=pip_settings(),
        )
        if done.returncode:
            raise _explained(done.stdout + done.stderr, self._data_dir)


def _explained(output: str, place: Path) -> RepriseError:
    """One sentence of what pip printed; a conflict with what it is caused by."""
    if conflict := _CONFLICT.search(output + "\n"):
        causes = "; ".join(line.strip().replace("(constraint)", "here:") for line in conflict[1].splitlines())
        return Refused(
            f"its packages do not fit those of the program and of other extensions ({causes})",
            hint="ask its author for another version",
        )
    failure = failure_of(output, place, "pip could not install its packages", "nothing was changed")
    if "No matching distribution" in output:
        return type(failure)(failure.message, hint="look at the requirements in its manifest, or use another registry")
    return failure


# ------------------------------------------------------------------------------------------- the extension's folder


def _staged(source: Path, folder: Path) -> Path:
    """A copy of the extension in ``source``, below ``folder`` and under the name that its manifest says."""
    unpacked = folder / "unpacked"
    if source.is_dir():
        _check_links(source)
        shutil.copytree(source, unpacked, ignore=shutil.ignore_patterns(*LEFT_OUT))
    elif zipfile.is_zipfile(source):
        unpack(source, unpacked)
    else:
        raise UserError(f"{source} is neither a folder nor a ZIP file", hint="give one that holds extension.toml")
    inner = [place for place in unpacked.iterdir() if place.is_dir()]
    if not (unpacked / "extension.toml").exists() and len(inner) == 1:  # as archives of a repository are packed
        unpacked = inner[0]
    staged = folder / _name_in(unpacked)
    unpacked.rename(staged)
    return staged


def _name_in(place: Path) -> str:
    """The name in a manifest, before the rest of it is judged."""
    try:
        name = tomllib.loads((place / "extension.toml").read_text(encoding="utf-8")).get("name")
    except FileNotFoundError:
        raise Refused("it has no extension.toml", hint="write one with name, version and api") from None
    except (OSError, ValueError) as error:
        raise Refused(f"its extension.toml cannot be read ({error})", hint="mend it") from None
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in ("before", "unpacked"):
        raise Refused(f"its manifest says name = {name!r}", hint="use small letters, digits and _")
    return name


def _check_links(folder: Path) -> None:
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if (Path(place) / name).is_symlink():
                raise UserError(f"{Path(place) / name} is a link", hint="replace it by what it leads to")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a ZIP file, refusing whatever would be written outside of ``folder``, links, and bombs."""
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = packed.infolist()
            if len(entries) > MAX_FILES or sum(entry.file_size for entry in entries) > MAX_BYTES:
                raise UserError(f"{archive.name} unpacks to more than an extension is", hint="look into it first")
            for entry in entries:
                _check_entry(entry, archive.name)
            folder.mkdir()
            for entry in entries:
                if not set(PurePosixPath(entry.filename).parts) & set(LEFT_OUT):
                    packed.extract(entry, folder)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError) as error:
        raise UserError(f"{archive.name} cannot be unpacked ({error})", hint="fetch it again") from None


def _check_entry(entry: zipfile.ZipInfo, archive: str) -> None:
    name = entry.filename
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in entry.orig_filename or ":" in name or "\0" in name:
        raise UserError(f"{archive} would write outside of its folder: {name!r}", hint="it is not to be trusted")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{archive} holds a link: {name!r}", hint="it is not to be trusted")
    if entry.flag_bits & 1:
        raise UserError(f"{archive} is encrypted", hint="unpack it and give the folder")


def _swap(new: Path, place: Path, aside: Path) -> None:
    """Put ``new`` in ``place``; what stood there is ``aside`` afterwards."""
    if place.exists():
        place.rename(aside)
    try:
        new.rename(place)
    except OSError:
        if aside.exists():
            aside.rename(place)
        raise

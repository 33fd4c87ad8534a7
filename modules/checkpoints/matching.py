"""Finds the file that a name means, in the spellings of people, infotext and other programs. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

from modules.checkpoints.folders import Folders, below, dead_links
from modules.errors import CheckpointError, UnknownName

_HASH = re.compile(r" ?\[([0-9a-fA-F]{6,64})\]$")
_ENDING = re.compile(r"\.(?:safetensors|ckpt|pth?|bin)$", re.IGNORECASE)
T = TypeVar("T")


@dataclass(frozen=True)
class Match(Generic[T]):
    """The file that a name means; if several are possible, their names."""

    file: T | None = None
    several: tuple[str, ...] = ()


def match(wanted: str, files: Mapping[str, T], path_of: Callable[[T], str]) -> Match[T]:
    r"""Find the one among ``files`` (by listed name) that ``wanted`` means.

    ``path_of`` gives a file's path below its folder, with ``/``. Whatever is listed is found by just that name; then
    comes the path with its ending; then both in any case, with ``\`` for ``/``; the path
    without its ending; the file's name; its stem. At last all
    of that without a hash in brackets behind it, then without an ending: a pickle may have been converted since.
    The first way that fits any file decides.

    >>> files = {"foo": "foo.ckpt", "sub/Foo": "sub/Foo.ckpt", "bar [x]": "bar [x].ckpt"}
    >>> [match(name, files, str).file for name in ("foo", "SUB\\foo.ckpt", "bar [x]", "Bar [x] [0123456789]")]
    ['foo.ckpt', 'sub/Foo.ckpt', 'bar [x].ckpt', 'bar [x].ckpt']
    >>> match("FOO.CKPT", {"a/foo": "a/foo.ckpt", "b/Foo": "b/Foo.ckpt"}, str).several
    ('a/foo', 'b/Foo')
    """
    if wanted in files:
        return Match(files[wanted])
    ways: tuple[Callable[[str, str], str], ...] = (
        lambda name, path: path,
        lambda name, path: _plain(name),
        lambda name, path: _plain(path),
        lambda name, path: _plain(_ENDING.sub("", path)),
        lambda name, path: _plain(PurePosixPath(path).name),
        lambda name, path: _plain(PurePosixPath(path).stem),
    )
    for n, way in enumerate(ways):
        key = wanted if n == 0 else _plain(wanted)
        names = [name for name, file in files.items() if way(name, path_of(file)) == key]
        if names:
            return Match(files[names[0]]) if len(names) == 1 else Match(several=tuple(names))
    for needless in (_HASH, _ENDING):
        bare = needless.sub("", wanted.rstrip())
        if bare != wanted.rstrip():
            return match(bare, files, path_of)
    return Match()


def bare(wanted: str) -> str:
    """A name without the hash and the ending behind it.

    >>> bare("sub/foo.ckpt [0123456789]")
    'sub/foo'
    """
    return _ENDING.sub("", _HASH.sub("", wanted.strip()))


def _plain(name: str) -> str:
    return name.strip().replace("\\", "/").casefold()


def hash_in(wanted: str) -> str:
    """The hash in brackets at the end of a model name, as A1111 shows it; empty if there is none.

    >>> hash_in("model [0123ABCDEF]"), hash_in("foo [pruned]"), hash_in("foo")
    ('0123abcdef', '', '')
    """
    found = _HASH.search(wanted.rstrip())
    return found[1].lower() if found else ""


def ambiguous(wanted: str, several: Sequence[str], field: str) -> UnknownName:
    """The error for a name that may mean several files."""
    names = ", ".join(map(repr, several[:8])) + ", …" * (len(several) > 8)
    return UnknownName(f"{wanted!r} may mean {names}", hint="choose one of them by its whole name", field=field)


def dead_link(wanted: str, folders: Folders) -> str:
    """What to say of a name that means a link to nothing, or a file behind one; empty where it means none."""

    def place(path: Path) -> str:
        return below(path, folders).as_posix()

    links = {place(path): path for path in dead_links(folders)}
    found = match(wanted, links, place)
    folder = next((name for name in links if _plain(wanted).startswith(f"{_plain(name)}/")), "")
    name = next(iter(found.several), "") or (place(found.file) if found.file else folder)
    return f"{name} is a link that leads to nothing" if name else ""


def refuse_dead_link(wanted: str, folders: Folders, field: str) -> None:
    """Raise `CheckpointError` where a name means a link to nothing."""
    if said := dead_link(wanted, folders):
        raise CheckpointError(said, hint="bring back what it led to, or put the file itself there", field=field)


@dataclass(frozen=True)
class Candidate:
    """A file that an infotext may refer to."""

    name: str
    path: str
    """Path below its folder, with the suffix, if known; else its name."""
    hashes: tuple[str, ...] = ()
    """Known full hashes in hex: SHA-256, A1111's old one."""

    def has(self, digits: str) -> bool:
        return bool(digits) and any(known.startswith(digits) for known in self.hashes)


def recognise(
    kind: str, name: str, digits: str, files: Sequence[Candidate], otherwise: str = "it was left as it is"
) -> tuple[str | None, str]:
    """Find the file that an infotext refers to by a name and the first digits of a hash. Returns its listed name or
    None, and a note for the user if something is missing or ambiguous; ``otherwise`` says in that note what happens
    instead.

    Who has both comes first, then who has the hash, whatever it is called; then who has the name, at last in another
    folder.
    """
    digits = (digits or hash_in(name)).strip().lower()
    alike = [file for file in files if file.has(digits)]
    found = _named(name, alike or files)
    if found.file is None and alike:
        return alike[0].name, ""  # one content under several names
    if found.file is not None:
        known = next((full[: len(digits)] for full in found.file.hashes if len(full) >= len(digits) > 0), "")
        other = known and not alike
        note = f"the {kind} {found.file.name} has the hash {known}, and the text's was {digits}" if other else ""
        return found.file.name, note
    if found.several:
        return None, f"the {kind} {name} may be {', '.join(found.several[:8])}; {otherwise}"
    said = " ".join(filter(None, (name, f"with the hash {digits}" if digits and not hash_in(name) else "")))
    return None, f"there is no {kind} {said} here; {otherwise}" if said else ""


def _named(name: str, files: Sequence[Candidate]) -> Match[Candidate]:
    by_name = {file.name: file for file in files}
    found = match(name, by_name, lambda file: file.path) if name else Match[Candidate]()
    last = name.replace("\\", "/").rpartition("/")[2]
    return match(last, by_name, lambda file: file.path) if found == Match() and last not in ("", name) else found

"""An ordered table of named things, with helpful lookups."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from modules.errors import UnknownName

T = TypeVar("T")
MOST_NAMED = 8
"""Names in one hint."""


def hint_for(
    name: str, names: Sequence[str], *, aliases: Mapping[str, str] = {}, none: str = "none is installed"
) -> str:
    """The way out for a name that is nobody's: the nearest one, else what there is; ``none`` where there is nothing.
    ``aliases``: names by further keys in lower case.

    >>> hint_for("Anime-v2", ["anime_v2", "tiny"]), hint_for("x", ["tiny"]), hint_for("x", [])
    ("did you mean 'anime_v2'?", "there is 'tiny'", 'none is installed')
    """
    keys = {listed.casefold(): listed for listed in names} | dict(aliases)
    if near := difflib.get_close_matches(name.casefold(), keys, n=1, cutoff=0.6):
        return f"did you mean {keys[near[0]]!r}?"
    shown = ", ".join(map(repr, names[:MOST_NAMED])) + ", …" * (len(names) > MOST_NAMED)
    return f"there {'is' if len(names) == 1 else 'are'} {shown}" if names else none


class Registry(Generic[T]):
    """Maps names to values in the order of registration; lookups accept aliases and any letter case."""

    def __init__(self, noun: str, *, field: str = ""):
        self.noun = noun
        self.field = field or noun
        self._values: dict[str, T] = {}
        self._keys: dict[str, str] = {}
        self.elsewhere: Callable[[str], str] | None = None
        """Says who would bring a name that is not registered; empty: nobody known."""

    def add(self, name: str, value: T, aliases: Iterable[str] = ()) -> None:
        """Register ``value``; a name that is taken is a programming error."""
        if name in self._values:
            raise ValueError(f"there is already a {self.noun} named {name!r}")
        self._values[name] = value
        for key in (name, *aliases):
            self._keys.setdefault(key.casefold(), name)

    def take(self, other: Registry[T]) -> None:
        """Register everything that is in ``other``, aliases included."""
        for name, value in other.items():
            self.add(name, value, [key for key, owner in other._keys.items() if owner == name])

    def replace(self, name: str, value: T) -> None:
        """Another value for a name that is registered."""
        self._values[self.canonical(name)] = value

    def remove(self, name: str) -> None:
        """Unregister ``name`` and its aliases."""
        del self._values[name]
        self._keys = {key: owner for key, owner in self._keys.items() if owner != name}

    def get(self, name: str) -> T:
        return self._values[self.canonical(name)]

    def canonical(self, name: str) -> str:
        """The name under which ``name`` or its alias is registered; raises `UnknownName` with the nearest one."""
        if name in self._values:
            return name
        try:
            return self._keys[name.casefold()]
        except KeyError:
            raise self.unknown(name) from None

    def unknown(self, name: str) -> UnknownName:
        """The error for a name that is not registered."""
        hint = (self.elsewhere(name) if self.elsewhere else "") or hint_for(name, self.names(), aliases=self._keys)
        return UnknownName(f"no {self.noun} named {name!r}", hint=hint, field=self.field)

    def names(self) -> tuple[str, ...]:
        return tuple(self._values)

    def items(self) -> Iterator[tuple[str, T]]:
        return iter(self._values.items())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._values or name.casefold() in self._keys)

    def __iter__(self) -> Iterator[T]:
        return iter(self._values.values())

    def __len__(self) -> int:
        return len(self._values)

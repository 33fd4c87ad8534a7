"""Declares parameters: one declaration feeds page, command line, API and infotext.

A field of a frozen dataclass made with `option` carries its label, range and choices. The tab, the command line, the
HTTP API, the metadata and the grid axes all read that one declaration.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar, cast

from modules.errors import UserError

_KEY = "option"
_NESTED = "nested"
_LOOSE = "loose"
SHA256 = re.compile(r"[0-9a-f]{64}")
EXACT = 2**53
"""The largest integer up to which a float represents every integer exactly."""
T = TypeVar("T")
_TRUTHS = {"true": True, "1": True, "on": True, "yes": True, "false": False, "0": False, "off": False, "no": False}


@dataclass(frozen=True)
class Dependent:
    """Choices that follow from the values of other options: ``Dependent(("module",), lambda module: (...))``."""

    on: tuple[str, ...]
    """The names of those options."""
    of: Callable[..., Sequence[str]]
    """The choices for their values."""

    def given(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """The choices beside ``values``, which hold all options."""
        return tuple(self.of(*(values[name] for name in self.on)))

    def within(self, prefix: str) -> Dependent:
        """The same for options whose names have a prefix."""
        return Dependent(tuple(prefix + name for name in self.on), self.of)


@dataclass(frozen=True)
class Option:
    """The declaration of one parameter."""

    name: str
    label: str
    type: type
    """bool, int, float or str."""
    default: Any
    optional: bool = False
    """None is a value and means "not chosen"."""
    lo: float | None = None
    hi: float | None = None
    step: float | None = None
    choices: tuple[str, ...] | str | Dependent | None = None
    """The values themselves, the name of the table of the `Host` that lists them ("samplers"), or a function of other
    options."""
    key: str | None = None
    """The key in A1111's generation text, where the parameter has one. Of two that are written as one, "Size: 512x768",
    each has the key under which its half is read: "Size-1", "Size-2"."""
    words: tuple[str, str] | None = None
    """The infotext values for False and True."""
    help: str = ""
    multiline: bool = False
    secret: bool = False
    """A setting, such as a key or password, that is stored and never sent back."""
    group: str = ""
    """The heading under which the page shows a rarely changed option."""
    kind: str = ""
    """What a text stands for: "image" or "mask", a stored picture by its SHA-256; "file:FOLDER", a file below
    models/FOLDER."""

    def cast(self, value: Any) -> Any:
        """``value`` cast to the declared type and range, or a `UserError` that names the field.

        Sliders send floats for integers and forms send text, so ``20.0`` and ``"20"`` are the integer 20.
        """
        if value is None or (value == "" and self.type is not str):
            if self.optional:
                return None
            raise self._error("needs a value")
        if self.type is str:
            return self._text(value)
        if self.type is bool:
            return self._truth(value)
        return self._number(value)

    def _text(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self._error(f"must be text, not {_shown(value)}")
        if isinstance(self.choices, tuple) and value not in self.choices:
            raise self._error(f"must be one of {', '.join(self.choices)}, not {_shown(value)}")
        if self.kind in ("image", "mask") and value and not SHA256.fullmatch(value):
            raise self._error(f"must be a stored picture by its SHA-256, not {_shown(value)}")
        return value

    def check_among(self, values: Mapping[str, Any]) -> None:
        """Check the value beside those of the other options, where its choices depend on them."""
        if isinstance(self.choices, Dependent) and values[self.name] not in (known := self.choices.given(values)):
            raise self._error(f"must be one of {', '.join(known) or 'none'}, not {_shown(values[self.name])}")

    def _truth(self, value: Any) -> bool:
        if isinstance(value, str) and value.strip().lower() in _TRUTHS:
            return _TRUTHS[value.strip().lower()]
        if isinstance(value, (bool, int, float)) and value in (0, 1):
            return bool(value)
        raise self._error(f"must be true or false, not {_shown(value)}")

    def _number(self, value: Any) -> int | float:
        noun = "a whole number" if self.type is int else "a number"
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise self._error(f"must be {noun}, not {_shown(value)}")
        try:
            # An int given as text or int never passes through float: seeds have more digits than a float keeps.
            number: int | float = value if isinstance(value, (int, float)) else _parse(value)
        except ValueError:
            raise self._error(f"must be {noun}, not {_shown(value)}") from None
        if isinstance(number, float) and not math.isfinite(number):
            raise self._error(f"must be {noun}, not {_shown(value)}")
        if self.type is int:
            if number != int(number):
                raise self._error(f"must be a whole number, not {_shown(value)}")
            rounded = isinstance(number, float) and abs(number) > EXACT
            number = int(number)
        else:
            rounded = False
            try:
                number = float(number)
            except OverflowError:
                raise self._error(f"is too large: {_shown(value)}") from None
        if (self.lo is not None and number < self.lo) or (self.hi is not None and number > self.hi):
            raise self._error(f"must be {self.range_text()}, not {_shown(value)}")
        if rounded:
            raise self._error(f"must be written with all its digits, not as {_shown(value)}")
        return number

    @property
    def has_long_numbers(self) -> bool:
        """Whether it is an integer that may exceed the precision of a float, and so of JavaScript."""
        return self.type is int and any(end is not None and abs(end) > EXACT for end in (self.lo, self.hi))

    def range_text(self) -> str:
        lo, hi = ("" if x is None else str(x) if isinstance(x, int) else f"{x:.15g}" for x in (self.lo, self.hi))
        if lo and hi:
            return f"between {lo} and {hi}"
        return f"at least {lo}" if lo else f"at most {hi}"

    def _error(self, what: str) -> UserError:
        return UserError(f"{self.label} {what}", field=self.name)


def _parse(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def option(
    default: Any,
    label: str,
    *,
    lo: float | None = None,
    hi: float | None = None,
    step: float | None = None,
    choices: tuple[str, ...] | str | Dependent | None = None,
    key: str | None = None,
    words: tuple[str, str] | None = None,
    help: str = "",
    multiline: bool = False,
    secret: bool = False,
    group: str = "",
    kind: str = "",
) -> Any:
    """Declare a parameter: ``steps: int = option(20, "Steps", lo=1, hi=150)``."""
    facts = {
        "label": label,
        "lo": lo,
        "hi": hi,
        "step": step,
        "choices": choices,
        "key": key,
        "words": words,
        "help": help,
        "multiline": multiline,
        "secret": secret,
        "group": group,
        "kind": kind,
    }
    return dataclasses.field(default=default, metadata={_KEY: facts})


@dataclass(frozen=True)
class Nested:
    """A group of options that may be absent: a field that is None or a dataclass of its own."""

    name: str
    label: str
    cls: type
    prefix: str
    """Prefix of the group's option names where all options are flat, on the command line or in a form."""
    key: str | None = None
    """The key in A1111's generation text that says that they are there, where there is one."""
    help: str = ""
    """One sentence beside the switch."""
    take: Callable[[Mapping[str, Any]], Any] | None = None
    """Within a `loose` field: what makes the group's value of those of its options that are given."""

    @property
    def flat(self) -> dict[str, Option]:
        """Its options, as they stand beside others."""
        return {self.prefix + name: option for name, option in flat_of(cast(Hashable, self.cls)).items()}


def nested(label: str, *, prefix: str = "", key: str | None = None) -> Any:
    """Declare a group: ``hires: Hires | None = nested("Hires fix", prefix="hires_")``."""
    return dataclasses.field(default=None, metadata={_NESTED: {"label": label, "prefix": prefix, "key": key}})


def loose(default: Any, take: Callable[[Any], Any]) -> Any:
    """Declare a field whose shape is known only at run time. ``take`` reads it from JSON, ``to_json`` is the
    inverse; an empty value is omitted.
    """
    return dataclasses.field(default=default, metadata={_LOOSE: take})


@cache
def loose_of(cls: Hashable) -> dict[str, Callable[[Any], Any]]:
    """The readers of all loose fields, by name."""
    assert isinstance(cls, type) and dataclasses.is_dataclass(cls)
    return {field.name: field.metadata[_LOOSE] for field in dataclasses.fields(cls) if _LOOSE in field.metadata}


@cache
def nested_of(cls: Hashable) -> dict[str, Nested]:
    """The groups of a dataclass by field name, in order."""
    assert isinstance(cls, type) and dataclasses.is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    return {
        field.name: Nested(field.name, cls=_plain(hints[field.name])[0], **field.metadata[_NESTED])
        for field in dataclasses.fields(cls)
        if _NESTED in field.metadata
    }


@cache
def groups_of(cls: Hashable) -> dict[str, Nested]:
    """All groups, flattened: nested groups under prefixed names, each with the full prefix of its options."""
    found = nested_of(cls)
    for declared in nested_of(cls).values():
        for name, inner in groups_of(cast(Hashable, declared.cls)).items():
            found = found | {declared.prefix + name: dataclasses.replace(inner, prefix=declared.prefix + inner.prefix)}
    return found


@cache
def options_of(cls: Hashable) -> dict[str, Option]:
    """The declared options of a dataclass by field name, in order. Fields not made with `option` are left out."""
    assert isinstance(cls, type) and dataclasses.is_dataclass(cls)
    hints = typing.get_type_hints(cls)
    found = {}
    for field in dataclasses.fields(cls):
        if _KEY in field.metadata:
            kind, optional = _plain(hints[field.name])
            found[field.name] = Option(
                field.name, type=kind, default=field.default, optional=optional, **field.metadata[_KEY]
            )
    return found


def _plain(hint: Any) -> tuple[type, bool]:
    """Strip ``| None`` from a type: ``int | None`` -> (int, True)."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        kinds = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return kinds[0], True
    return hint, False


def read(cls: type[T], values: Mapping[str, Any]) -> T:
    """A ``cls`` from unchecked values: cast as declared, missing ones at their default, unknown ones ignored."""
    options, groups = options_of(cast(Hashable, cls)), nested_of(cast(Hashable, cls))
    known = {name: options[name].cast(value) for name, value in values.items() if name in options}
    known |= {name: take(values[name]) for name, take in loose_of(cast(Hashable, cls)).items() if name in values}
    return cls(**known, **{name: _inner(groups[name], values[name]) for name in groups if name in values})


def unknown(cls: type[Any], values: Mapping[str, Any], within: str = "") -> list[str]:
    """The names among ``values``, and in the groups there, that `read` leaves aside.

    >>> from modules.params.generation import GenerationParams
    >>> unknown(GenerationParams, {"steps": 2, "stepz": 3, "hires": {"scale": 2, "size": 3}})
    ['stepz', 'hires.size']
    """
    known, groups = {*options_of(cast(Hashable, cls)), *loose_of(cast(Hashable, cls))}, nested_of(cast(Hashable, cls))
    found = [within + name for name in values if name not in known and name not in groups]
    for name, group in groups.items():
        if isinstance(inner := values.get(name), Mapping):
            found += unknown(group.cls, inner, f"{within}{name}.")
    return found


def _inner(declared: Nested, value: Any) -> Any:
    if value is None or isinstance(value, declared.cls):
        return value
    if not isinstance(value, Mapping):
        raise UserError(f"{declared.label} must be an object or null, not {_shown(value)}", field=declared.name)
    try:
        return read(declared.cls, value)
    except UserError as error:
        raise type(error)(error.message, hint=error.hint, field=f"{declared.name}.{error.field}") from None


def checked(instance: T) -> T:
    """``instance`` with every value cast as declared, groups included."""
    return read(type(instance), values_of(instance))


def values_of(instance: Any) -> dict[str, Any]:
    """The declared options of ``instance`` as JSON-ready values; present groups as nested objects."""
    cls = cast(Hashable, type(instance))
    plain = {name: getattr(instance, name) for name in options_of(cls)}
    plain |= {name: found.to_json() for name in loose_of(cls) if (found := getattr(instance, name))}
    groups = {name: getattr(instance, name) for name in nested_of(cls)}
    return plain | {name: values_of(found) for name, found in groups.items() if found is not None}


def from_flat(cls: type[T], values: Mapping[str, Any]) -> dict[str, Any]:
    """Group flat values: ``{"hires_scale": 2}`` -> ``{"hires": {"scale": 2}}``.

    A group is there as soon as one of its values is given.
    """
    found = {name: values[name] for name in options_of(cast(Hashable, cls)) if name in values}
    for name, declared in nested_of(cast(Hashable, cls)).items():
        own = {key.removeprefix(declared.prefix): v for key, v in values.items() if key.startswith(declared.prefix)}
        if inner := from_flat(declared.cls, own):
            found[name] = inner
    return found


@cache
def flat_of(cls: Hashable) -> dict[str, Option]:
    """All options flattened, those of groups under prefixed names."""
    found = dict(options_of(cls))
    for declared in nested_of(cls).values():
        inner = flat_of(cast(Hashable, declared.cls))
        found |= {declared.prefix + name: option for name, option in inner.items()}
    return found


def to_flat(cls: Hashable, values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `from_flat`; each group's own name tells whether it is present."""
    found = {name: value for name, value in values.items() if name in options_of(cls)}
    for name, declared in nested_of(cls).items():
        if name in values:
            inner = to_flat(cast(Hashable, declared.cls), values[name] or {})
            found |= {name: values[name] is not None} | {declared.prefix + key: value for key, value in inner.items()}
    return found


class Shape(Generic[T]):
    """The options of a dataclass side by side, those of its groups under their prefixes, as a form shows them.

    What a `loose` field holds is known only at run time: ``within`` lists the groups in it. Such a group is switched by
    its prefix without the dot: those of ``ext.twice.amount`` are there where ``ext.twice`` is true.
    """

    def __init__(self, cls: type[T], within: Mapping[str, Sequence[Nested]] | None = None):
        self.cls = cls
        self.within = {
            field: {group.prefix.removesuffix("."): group for group in groups}
            for field, groups in (within or {}).items()
        }
        self.groups = dict(groups_of(cast(Hashable, cls)))
        """Each that may be absent, by the name of its switch."""
        self.options = dict(flat_of(cast(Hashable, cls)))
        for groups in self.within.values():
            self.groups |= groups
            for group in groups.values():
                self.options |= group.flat

    def read(self, named: Mapping[str, Any]) -> T:
        """The dataclass from values by name; raises `UserError` with the field's name. A group is there if one of its
        values is given, unless its switch is given and says otherwise."""
        off = [group for switch, group in self.groups.items() if not named.get(switch, True)]
        absent = {name for group in off for name in group.flat}
        given = {name: value for name, value in named.items() if name not in absent}
        values = from_flat(self.cls, given)
        for field, groups in self.within.items():
            values[field] = {}
            for switch, group in groups.items():
                own = {name.removeprefix(group.prefix): given[name] for name in group.flat if name in given}
                if own or given.get(switch):
                    inner = from_flat(group.cls, own)
                    values[field][group.name] = group.take(inner) if group.take else inner
        return read(self.cls, values)

    def flat(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse, as far as ``values`` go, which are JSON; a switch says whether its group is there. Where all
        options are given, a group that is not is absent."""
        if options_of(cast(Hashable, self.cls)).keys() <= values.keys():
            values = {**dict.fromkeys((*nested_of(cast(Hashable, self.cls)), *self.within)), **values}
        flat = to_flat(cast(Hashable, self.cls), values)
        for field in self.within.keys() & values.keys():
            for switch, group in self.within[field].items():
                inner = (values[field] or {}).get(group.name)
                flat[switch] = inner is not None
                flat |= {group.prefix + name: v for name, v in to_flat(cast(Hashable, group.cls), inner or {}).items()}
        return flat

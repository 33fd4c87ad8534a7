"""Lists of option groups (units), written side by side: an option list of three units is three switches with options.

So a unit's options are plain options everywhere: on the page, on the command line, in infotext, recipe and grid. The
author's class has a tuple of groups; the class that requests are made of has ``NAME_1_on``, ``NAME_1_weight``, ...
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from modules.params.options import Dependent, options_of

_LIST = "list"


@dataclass(frozen=True)
class OptionsList:
    """A declared list of option groups."""

    cls: type
    label: str
    most: int
    least: int


def options_list(cls: type, label: str, *, most: int = 3, least: int = 0) -> Any:
    """Declare a list of groups: ``units: tuple[Unit, ...] = options_list(Unit, "Unit", most=3)``. ``label`` is that of
    one of them; the first ``least`` are on by default.
    """
    default = tuple(cls() for _ in range(least))
    return dataclasses.field(default=default, metadata={_LIST: OptionsList(cls, label, most, least)})


def lists_of(cls: type) -> dict[str, OptionsList]:
    """The declared lists of a dataclass by field name."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return {field.name: field.metadata[_LIST] for field in fields if _LIST in field.metadata}


def side_by_side(cls: type) -> tuple[type, Callable[[Any], Any]]:
    """A dataclass with the options of ``cls``, lists written side by side, and what makes a ``cls`` of its instance."""
    lists = lists_of(cls)
    if not lists:
        return cls, lambda values: values
    hints = typing.get_type_hints(cls)
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(cls):
        if declared := lists.get(field.name):
            fields += _fields_of(field.name, declared)
        else:
            again = dataclasses.field(default=field.default, metadata=field.metadata)
            fields.append((field.name, hints[field.name], again))
    flat = dataclasses.make_dataclass(cls.__name__, fields, frozen=True)
    flat.__module__, flat.__doc__ = cls.__module__, cls.__doc__

    def gathered(values: Any) -> Any:
        plain = {f.name: getattr(values, f.name) for f in dataclasses.fields(cls) if f.name not in lists}
        groups = {name: tuple(_groups(name, declared, values)) for name, declared in lists.items()}
        return cls(**plain, **groups)

    return flat, gathered


def _fields_of(name: str, declared: OptionsList) -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    hints = typing.get_type_hints(declared.cls)
    inner = {field.name: field for field in dataclasses.fields(declared.cls)}
    for i in range(1, declared.most + 1):
        title, prefix = f"{declared.label} {i}", f"{name}_{i}_"
        facts: dict[str, Any] = {"label": title, "group": title}
        found.append((f"{prefix}on", bool, dataclasses.field(default=i <= declared.least, metadata={"option": facts})))
        for own in options_of(cast(Hashable, declared.cls)).values():
            facts = {**inner[own.name].metadata["option"], "group": title}
            facts["label"] = f"{title} {own.label[:1].lower()}{own.label[1:]}"
            if isinstance(own.choices, Dependent):
                facts["choices"] = own.choices.within(prefix)
            again = dataclasses.field(default=own.default, metadata={"option": facts})
            found.append((f"{prefix}{own.name}", hints[own.name], again))
    return found


def _groups(name: str, declared: OptionsList, values: Any) -> list[Any]:
    groups = []
    for i in range(1, declared.most + 1):
        prefix = f"{name}_{i}_"
        if getattr(values, f"{prefix}on"):
            own = options_of(cast(Hashable, declared.cls))
            groups.append(declared.cls(**{one: getattr(values, prefix + one) for one in own}))
    return groups


_OF_A_LIST = re.compile(r"(\w+?_\d{1,9}_)\w+")


def switch_of(name: str) -> str:
    """The option that switches the unit on to which an option belongs, if it belongs to one.

    >>> switch_of("units_2_weight"), switch_of("weight")
    ('units_2_on', '')
    """
    unit = _OF_A_LIST.fullmatch(name)
    return f"{unit[1]}on" if unit else ""


def flattened(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON with lists of objects written side by side.

    >>> flattened({"units": [{"weight": 0.5}], "seed": 1})
    {'units_1_on': True, 'units_1_weight': 0.5, 'seed': 1}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, (list, tuple)) and all(isinstance(group, Mapping) for group in value):
            for i, group in enumerate(value, 1):
                found |= {f"{name}_{i}_on": True} | {f"{name}_{i}_{own}": inner for own, inner in group.items()}
        else:
            found[name] = value
    return found

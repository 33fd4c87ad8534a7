"""Options become Gradio components, and what the components say becomes a request again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import gradio as gr

from modules.extension import modifier
from modules.extension.modifier import PREFIX, ModifierSpec, in_order
from modules.params.options import Option, flat_of, from_flat, groups_of, read, to_flat
from webui.i18n import t

T = TypeVar("T")
KEPT = t("what is kept is not shown; empty keeps it, a blank deletes it")
Tables = Mapping[str, Callable[[], Sequence[str]]]


def choices_of(option: Option, tables: Tables) -> tuple[str, ...] | None:
    """The values an option can take, looked up where it names a table; None where it is not a choice."""
    if isinstance(option.choices, str):
        return tuple(tables[option.choices]())
    return option.choices


def control(option: Option, tables: Tables, **overrides: Any) -> Any:
    """The component for an option: checkbox, dropdown, textbox, slider or number; ``overrides`` are its arguments."""
    facts: dict[str, Any] = {"label": option.label, "value": option.default, "info": option.help or None}
    choices = choices_of(option, tables)
    if choices is not None:
        facts["value"] = option.default if option.default in choices else next(iter(choices), None)
        return gr.Dropdown(**{**facts, "choices": list(choices), **overrides})
    if option.type is bool:
        return gr.Checkbox(**{**facts, **overrides})
    if option.secret:
        return gr.Textbox(**{**facts, "value": "", "type": "password", "placeholder": KEPT, **overrides})
    if option.type is str:
        lines = {"lines": 3, "max_lines": 12} if option.multiline else {"lines": 1}
        return gr.Textbox(**{**facts, **lines, **overrides})
    if option.optional:
        # Text: a gr.Number that is empty becomes 0 as soon as it is seen, which is another value than none.
        shown = "" if option.default is None else str(option.default)
        return gr.Textbox(**{**facts, "value": shown, "placeholder": "automatic", **overrides})
    if option.has_long_numbers:
        # Text: the page's numbers are floats. One line at most, which makes it an <input>.
        return gr.Textbox(**{**facts, "value": str(option.default), "lines": 1, "max_lines": 1, **overrides})
    whole = {"precision": 0} if option.type is int else {}
    if None in (option.lo, option.hi, option.step):
        step = {"step": option.step} if option.step is not None else {}
        return gr.Number(**{**facts, **whole, **step, **overrides})
    ends: dict[str, Any] = {"minimum": option.lo, "maximum": option.hi, "step": option.step, "buttons": []}
    return gr.Slider(**{**facts, **whole, **ends, **overrides})


class Form(Generic[T]):
    """The components of a dataclass's options, in the order in which a handler receives their values.

    Handlers take them with ``preprocess=False``: then no value is judged by Gradio, in a pop-up, but all of them by
    `modules.params.options`, in a sentence that names the field.
    """

    def __init__(self, cls: type[T], tables: Tables, modifiers: Iterable[ModifierSpec] = ()):
        """``modifiers``: those of extensions, whose options stand beside those of a request as ``ext.NAME.option``."""
        self.cls = cls
        self.modifiers = tuple(spec for spec in in_order(modifiers) if not spec.by_tag)
        self.options = flat_of(cast(Hashable, cls))
        for spec in self.modifiers:
            self.options = {**self.options, **modifier.flat_of(spec)}
        self._groups = groups_of(cast(Hashable, cls))
        self._tables = tables
        self._components: dict[str, Any] = {}
        self.shared: frozenset[str] = frozenset()
        """Options whose components stand above the tabs."""

    def share(self, components: Mapping[str, Any]) -> None:
        """Take what stands above the tabs: `add` then makes no second one."""
        for name, component in components.items():
            self.adopt(name, component)
        self.shared = frozenset(components)

    def listed(self, tables: Sequence[str]) -> list[tuple[Any, str]]:
        """The components whose choices come from one of ``tables``, each with the table's name."""
        found = {name: self.options[name].choices for name in self._components if name in self.options}
        return [(self._components[name], str(table)) for name, table in found.items() if table in tables]

    def add(self, name: str, **overrides: Any) -> Any:
        """Make the component for option ``name`` at this place of the page, unless it stands above the tabs."""
        if name in self.shared:
            return self._components[name]
        return self.adopt(name, control(self.options[name], self._tables, **overrides))

    def adopt(self, name: str, component: Any) -> Any:
        """Take a component that stands elsewhere on the page as the one for ``name``."""
        switches = (*self._groups, *(f"{PREFIX}{spec.name}" for spec in self.modifiers))
        if name in self._components or name not in (*self.options, *switches):
            raise ValueError(f"{name!r} is there twice or is no option of {self.cls.__name__}")
        self._components[name] = component
        return component

    def switch(self, name: str, **overrides: Any) -> Any:
        """A checkbox for a group of options, however deep within: not ticked, they are all absent."""
        return self.adopt(name, gr.Checkbox(**{"label": self._groups[name].label, "value": False, **overrides}))

    def __getitem__(self, name: str) -> Any:
        return self._components[name]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._components)

    @property
    def components(self) -> list[Any]:
        return list(self._components.values())

    def read(self, values: Sequence[Any]) -> T:
        """The dataclass from the components' values; raises `UserError` with the field's name."""
        return self.read_named(dict(zip(self.names, values, strict=True)))

    def read_named(self, named: Mapping[str, Any]) -> T:
        """The same from values by name, of which some may have no component."""
        named = dict(named)
        for name, group in self._groups.items():
            if not named.pop(name, True):
                absent = {group.prefix + inner for inner in flat_of(cast(Hashable, group.cls))}
                named = {name: value for name, value in named.items() if name not in absent}
        for name, value in named.items():
            if value is None and name in self.options and self.options[name].type is str:  # an empty dropdown
                named[name] = self.options[name].default
        nested = from_flat(self.cls, named)
        if self.modifiers:
            own = modifier.from_flat(self.modifiers, named)
            nested["extensions"] = {
                spec.name: spec.chosen(own[spec.name]) for spec in self.modifiers if spec.name in own
            }
        return read(self.cls, nested)

    def show(self, values: Mapping[str, Any], *, leave: Sequence[str] = ()) -> list[Any]:
        """What a handler returns to fill the form with ``values``; others, and those in ``leave``, stay as they are."""
        flat = to_flat(cast(Hashable, self.cls), values)
        if isinstance(chosen := values.get("extensions", {} if "steps" in values else None), Mapping):
            flat |= modifier.to_flat(self.modifiers, chosen)
        return [flat[name] if name in flat and name not in leave else gr.skip() for name in self.names]

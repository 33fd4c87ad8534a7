"""Forms: options become Gradio components, and the components' values become a request again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import gradio as gr

from modules.params.options import Option, Shape
from webui.i18n import t

T = TypeVar("T")
KEPT = t("what is kept is not shown; empty keeps it, a blank deletes it")
Tables = Mapping[str, Callable[[], Sequence[str]]]


def choices_of(option: Option, tables: Tables) -> tuple[str, ...] | None:
    """The values an option can take, looked up if it names a table; None if it is not a choice."""
    if isinstance(option.choices, str):
        return tuple(tables[option.choices]())
    return option.choices


def control(option: Option, tables: Tables, **overrides: Any) -> Any:
    """Create the component for an option: checkbox, dropdown, textbox, slider or number; ``overrides`` are its
    arguments.
    """
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
    """The components of a shape's options, in the order in which a handler receives their values.

    Handlers take them with ``preprocess=False``: then no value is judged by Gradio, in a pop-up, but all of them by
    `modules.params.options`, in a sentence that names the field.
    """

    def __init__(self, shape: Shape[T], tables: Tables):
        self.shape = shape
        self.options = shape.options
        self._tables = tables
        self._components: dict[str, Any] = {}
        self.shared: frozenset[str] = frozenset()
        """Options whose components stand above the tabs."""

    def share(self, components: Mapping[str, Any]) -> None:
        """Use the header's components: `add` then creates no second one for these options."""
        for name, component in components.items():
            self.adopt(name, component)
        self.shared = frozenset(components)

    def listed(self, tables: Sequence[str]) -> list[tuple[Any, str]]:
        """The components whose choices come from one of ``tables``, each with the table's name."""
        found = {name: self.options[name].choices for name in self._components if name in self.options}
        return [(self._components[name], str(table)) for name, table in found.items() if table in tables]

    def add(self, name: str, **overrides: Any) -> Any:
        """Render the component for option ``name`` here, unless it is in the header."""
        if name in self.shared:
            return self._components[name]
        return self.adopt(name, control(self.options[name], self._tables, **overrides))

    def adopt(self, name: str, component: Any) -> Any:
        """Take a component that stands elsewhere on the page as the one for ``name``."""
        if name in self._components or name not in (*self.options, *self.shape.groups):
            raise ValueError(f"{name!r} is there twice or is no option of {self.shape.cls.__name__}")
        self._components[name] = component
        return component

    def switch(self, name: str, **overrides: Any) -> Any:
        """A checkbox for a group of options, however deep within: not ticked, they are all absent."""
        return self.adopt(name, gr.Checkbox(**{"label": self.shape.groups[name].label, "value": False, **overrides}))

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
        empty = {name for name, value in named.items() if value is None and name in self.options}
        chosen = {name: self.options[name].default for name in empty if self.options[name].type is str}  # dropdowns
        return self.shape.read({**named, **chosen})

    def show(self, values: Mapping[str, Any], *, leave: Sequence[str] = ()) -> list[Any]:
        """What a handler returns to fill the form with ``values``; others, and those in ``leave``, stay as they are."""
        flat = self.shape.flat(values)
        return [flat[name] if name in flat and name not in leave else gr.skip() for name in self.names]

"""Forms: options become Gradio components, and the components' values become a request again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Generic, TypeVar

import gradio as gr

from modules.params.options import Dependent, Option, Shape
from webui.events import AT_ONCE, QUIET
from webui.fields import Field, Fields, Look
from webui.html.cards import stored_html
from webui.html.controls import PICTURES
from webui.i18n import t

T = TypeVar("T")
KEPT = t("what is kept is not shown; empty keeps it, a blank deletes it")
SLIDER = "rp-slider"
"""The class of sliders, by which the style sheets know them."""
Tables = Mapping[str, Callable[[], Sequence[str]]]


Put = Callable[[Path], str]
"""Stores a picture, and returns its name."""


def choices_of(option: Option, tables: Tables, values: Mapping[str, Any] | None = None) -> tuple[str, ...] | None:
    """The values an option can take, looked up if it names a table; None if it is not a choice. ``values``: those of
    the other options, on which they may depend.
    """
    if option.kind.startswith("file:"):
        return tuple(tables[option.kind]())
    if isinstance(option.choices, Dependent):
        return option.choices.given(values or {})
    if isinstance(option.choices, str):
        return tuple(tables[option.choices]())
    return option.choices


def control(option: Option, tables: Tables, values: Mapping[str, Any] | None = None, **overrides: Any) -> Any:
    """Create the component for an option: checkbox, dropdown, textbox, slider or number; ``overrides`` are its
    arguments.
    """
    facts: dict[str, Any] = {"label": option.label, "value": option.default, "info": option.help or None}
    choices = choices_of(option, tables, values)
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
    ends["elem_classes"] = SLIDER
    return gr.Slider(**{**facts, **whole, **ends, **overrides})


def _upload(option: Option, field: Any, put: Put, look: Look | None, overrides: Mapping[str, Any]) -> None:
    """A place to drop a picture, which writes the name of the stored one into ``field``; and a small copy of the one
    that the field names, however it came there.
    """
    place = f"{overrides['elem_id']}_picture" if overrides.get("elem_id") else None
    words = t("Choose a mask") if option.kind == "mask" else t("Choose a picture")
    image = gr.Image(label=f"{option.label}: {words}", type="filepath", sources=["upload", "clipboard"], elem_id=place)

    async def stored(path: str | None) -> str:
        return await asyncio.to_thread(put, Path(path)) if path else ""

    # Uploads alone are preprocessed: that is where Gradio makes sure that a path is an upload of its own.
    image.change(stored, image, field, **{**QUIET, "queue": False})
    if look:
        small = gr.HTML("", elem_id=place and f"{place}_stored", padding=False)

        async def shown(value: Any) -> str:
            return await asyncio.to_thread(stored_html, str(value or ""), look)

        field.change(shown, field, small, **AT_ONCE)


def _followed(option: Option, value: Any, *others: Any) -> Any:
    assert isinstance(option.choices, Dependent)
    choices = list(option.choices.of(*others))
    return gr.update(choices=choices, value=value if value in choices else next(iter(choices), None))


PANEL = {"info": "info", "lines": "lines", "placeholder": "placeholder", "label": "label", "value": "value"}
"""What the arguments of Gradio's components are called by `Fields.add`; others are theirs alone."""


class Form(Generic[T]):
    """The controls of a shape's options: Gradio's components and, where a panel of ``fields`` is open, the page's own.

    Handlers take `inputs` with ``preprocess=False``: then no value is judged by Gradio, in a pop-up, but all of them by
    `modules.params.options`, in a sentence that names the field. What they change goes into `outputs`.
    """

    def __init__(
        self,
        shape: Shape[T],
        tables: Tables,
        put: Put | None = None,
        look: Look | None = None,
        fields: Fields | None = None,
        prefix: str = "",
    ):
        """``put`` stores pictures that a person chooses for an option, ``look`` opens them. ``prefix``: of the names of
        its options among the ``fields`` of a tab, where several forms share these."""
        self._put, self.look = put, look
        self.shape = shape
        self.options = shape.options
        self.fields = fields
        self._prefix = prefix
        self._tables = tables
        self._components: dict[str, Any] = {}
        self._own: dict[str, Field] = {}
        self.shared: frozenset[str] = frozenset()
        """Options whose components stand above the tabs."""

    def share(self, components: Mapping[str, Any]) -> None:
        """Use the header's components: `add` then creates no second one for these options."""
        for name, component in components.items():
            self.adopt(name, component)
        self.shared = frozenset(components)

    def listed(self, tables: Sequence[str]) -> list[tuple[Any, str]]:
        """The components whose choices come from one of ``tables``, each with the table's name."""
        options = {name: self.options[name] for name in self._components if name in self.options}
        found = {name: option.choices or option.kind for name, option in options.items()}
        return [(self._components[name], str(table)) for name, table in found.items() if table in tables]

    def add(self, name: str, **overrides: Any) -> Any:
        """Render the control for option ``name`` here, unless it is in the header."""
        if name in self.shared:
            return self._components[name]
        option, values = self.options[name], None
        if isinstance(option.choices, Dependent):
            prefix = name.removesuffix(option.name)
            values = {
                one.removeprefix(prefix): self.options[one].default for one in self.options if one.startswith(prefix)
            }
        if self.fields and self.fields.is_open:
            return self._add_own(name, choices_of(option, self._tables, values), overrides)
        component = self.adopt(name, control(option, self._tables, values, **overrides))
        if option.kind in PICTURES and self._put:
            _upload(option, component, self._put, self.look, overrides)
        return component

    def _add_own(self, name: str, choices: Sequence[str] | None, overrides: Mapping[str, Any]) -> Field:
        assert self.fields
        facts = {own: overrides[theirs] for theirs, own in PANEL.items() if theirs in overrides}
        if facts.get("info", "") is None:
            facts["info"] = ""
        facts["enabled"] = overrides.get("interactive", True)
        facts["css"] = overrides.get("elem_classes", "")
        if self.options[name].secret:
            facts |= {"value": "", "placeholder": KEPT}
        if self.look:
            self.fields.look = self.look
        full = self._prefix + name
        place = overrides.get("elem_id") or f"{self.fields.tab}_{full}".replace(".", "_")
        self._check_new(name)
        self._own[name] = self.fields.add(self.options[name], full, choices, elem_id=place, **facts)
        return self._own[name]

    def wire(self) -> None:
        """Let choices follow the values that they depend on, once all controls are there."""
        for name in (*self._components, *self._own):
            option = self.options.get(name)
            if option and isinstance(option.choices, Dependent):
                prefix, of = name.removesuffix(option.name), option.choices.of
                on = [prefix + one for one in option.choices.on]
                if name in self._own and all(one in self._own for one in on):
                    assert self.fields
                    self.fields.follow(self._prefix + name, [self._prefix + one for one in on], of)
                elif name in self._components and all(one in self._components for one in on):
                    component, others = self._components[name], [self._components[one] for one in on]
                    follow = partial(_followed, option)
                    for other in others:
                        other.change(follow, [component, *others], component, **AT_ONCE)

    def _check_new(self, name: str) -> None:
        if name in self.names or name not in (*self.options, *self.shape.groups):
            raise ValueError(f"{name!r} is there twice or is no option of {self.shape.cls.__name__}")

    def adopt(self, name: str, component: Any) -> Any:
        """Take a component that stands elsewhere on the page as the one for ``name``."""
        self._check_new(name)
        self._components[name] = component
        return component

    def mark(self) -> Any:
        """What it has now, for `rewind`."""
        return dict(self._components), dict(self._own), self.fields and self.fields.mark()

    def rewind(self, mark: Any) -> None:
        """Forget all controls that were added since that mark."""
        self._components, self._own, fields = mark
        if self.fields:
            self.fields.rewind(fields)

    def switch(self, name: str, **overrides: Any) -> Any:
        """A checkbox for a group of options, however deep within: not ticked, they are all absent."""
        return self.adopt(name, gr.Checkbox(**{"label": self.shape.groups[name].label, "value": False, **overrides}))

    @contextlib.contextmanager
    def switched(self, name: str, title: str, place: str, *, label: str, on: str, info: str = "") -> Iterator[None]:
        """A fold of an open panel for a group of options, with the group's switch in its header; ``on`` is the switch's
        id."""
        assert self.fields
        self._check_new(name)
        self._own[name], switch = self.fields.switch(self._prefix + name, label, elem_id=on, info=info, fold=place)
        with self.fields.fold(title, place, switch):
            said = f"{label}; {info}" if info else label
            self.fields.put(f'<p class="rp-fold-said">{escape(said)}</p>')
            yield

    def __getitem__(self, name: str) -> Any:
        return self._own[name] if name in self._own else self._components[name]

    @property
    def names(self) -> tuple[str, ...]:
        return (*self._components, *self._own)

    @property
    def components(self) -> list[Any]:
        """Gradio's components among the controls."""
        return list(self._components.values())

    @property
    def inputs(self) -> list[Any]:
        """The components that a handler takes, for `named` and `read`."""
        return [*self._components.values(), *([self.fields.state] if self.fields and self._own else [])]

    @property
    def outputs(self) -> list[Any]:
        """The components that a handler fills with `show`."""
        return [*self._components.values(), *([self.fields.given] if self.fields and self._own else [])]

    def named(self, values: Sequence[Any]) -> dict[str, Any]:
        """The values of `inputs` by the names of the options."""
        count = len(self._components)
        named = dict(zip(self._components, values[:count], strict=True))
        if self.fields and self._own:
            state = self.fields.named(values[count])
            named |= {name: state[self._prefix + name] for name in self._own}
        return named

    def read(self, values: Sequence[Any]) -> T:
        """The dataclass from the values of `inputs`; raises `UserError` with the field's name."""
        return self.read_named(self.named(values))

    def read_named(self, named: Mapping[str, Any]) -> T:
        """The same from values by name, of which some may have no component."""
        empty = {name for name, value in named.items() if value is None and name in self.options}
        chosen = {name: self.options[name].default for name in empty if self.options[name].type is str}  # dropdowns
        return self.shape.read({**named, **chosen})

    def show(self, values: Mapping[str, Any], *, leave: Sequence[str] = ()) -> list[Any]:
        """What a handler returns for `outputs` to fill the form with ``values``; others, and those in ``leave``, stay
        as they are."""
        return self.fill({name: value for name, value in self.shape.flat(values).items() if name not in leave})

    def fill(self, flat: Mapping[str, Any]) -> list[Any]:
        """The same for values by the names that controls have."""
        filled = [flat[name] if name in flat else gr.skip() for name in self._components]
        if self.fields and self._own:
            filled.append(self.fields.patch(self.own(flat)))
        return filled

    def own(self, flat: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the values that are of the page's own controls, by their names among the `fields`."""
        return {self._prefix + name: flat[name] for name in self._own if name in flat}

    def begin(self, values: Mapping[str, Any]) -> list[Any]:
        """The same for a page that has just been opened. What the form was built with is not sent once more: that might
        arrive after a person has typed something else."""
        flat = self.shape.flat(values)
        components = self._components.items()
        filled = [flat[name] if name in flat and flat[name] != one.value else gr.skip() for name, one in components]
        if self.fields and self._own:
            filled.append(self.fields.begin(self.own(flat)))
        return filled

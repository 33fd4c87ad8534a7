"""Fields: controls of the page's own, whose values go to the server and back in three hidden components.

A form of eighty options as Gradio's components takes the page seconds to load, and every change of one is looked for
through all of them. These controls are plain HTML in a few ``gr.HTML``; `assets/fields.js` keeps their values as JSON
in ``state``, which handlers take. What a handler changes goes into ``given``, and the script puts it into the
controls. What the page cannot do alone, a button of it asks for in ``ask``.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.context import Context
from PIL import Image

from modules.params.options import Option
from webui.events import AT_ONCE, QUIET
from webui.html.cards import stored_html
from webui.html.controls import FOLD_END, choice_html, control_html, fold_open_html, shown_value, switch_html

LOADED = "document.dispatchEvent(new CustomEvent('reprise:panel', { detail: element }))"
TAKE = "(text) => {{ window.reprise?.given('{tab}', text) }}"
logger = logging.getLogger(__name__)

MOST = 1_000_000
"""Characters of a state; prompts of a script may be a long list."""
_numbers = itertools.count(1)

Look = Callable[[str], Image.Image]
"""Opens a stored picture by its name; raises `RepriseError`."""
Answer = Callable[..., Any]
"""``(request, asked, values, *inputs) -> changes``: ``asked`` is what the page says beside its wish, ``values`` are the
fields by their names."""


@dataclass(frozen=True)
class Field:
    """A control of the page's own, as far as the server knows it."""

    name: str
    """Among those of its tab."""
    elem_id: str
    label: str
    value: Any
    """What it was built with."""
    table: str = ""
    """The table that lists its choices, where one does."""
    folds: tuple[str, ...] = ()
    """The ids of the folds around it, from the outermost."""


class Fields:
    """The controls of a tab. They are rendered where `panel` is open."""

    def __init__(self, tab: str, home: Any):
        """``home``: a container outside the tabs, whose contents are there from the first moment."""
        self.tab = tab
        self._fields: dict[str, Field] = {}
        self._parts: list[str] | None = None
        self._folds: list[str] = []
        self._answers: dict[str, tuple[Answer, Sequence[Any]]] = {}
        self.look: Look | None = None
        """Opens the stored pictures that options name."""
        self._dependent: list[tuple[str, tuple[str, ...], Callable[..., Sequence[str]]]] = []
        with _within(home):
            self.state, self.given, self.ask = (
                gr.Textbox("{}" if name == "fields" else "", visible="hidden", elem_id=f"{tab}_{name}")
                for name in ("fields", "given", "ask")
            )

    # What is rendered

    @property
    def is_open(self) -> bool:
        """Whether a panel is open: then controls go there."""
        return self._parts is not None

    @contextlib.contextmanager
    def panel(self) -> Iterator[None]:
        """What is added within stands in one component here."""
        self._parts = []
        try:
            yield
            self.flush()
            self._told()
        finally:
            self._parts = None
            self._folds.clear()

    def flush(self) -> None:
        """Render what the panel has so far, so that components of Gradio's can stand behind it."""
        if self._parts:
            self.place("".join(self._parts))
            self._parts.clear()

    def place(self, html: str = "") -> Any:
        """A component with HTML of controls."""
        html = f'<div data-fields="{self.tab}">{html}</div>'
        return gr.HTML(html, js_on_load=LOADED, elem_classes="rp-panel", padding=False, apply_default_css=False)

    def put(self, html: str) -> None:
        """Add HTML to the panel."""
        assert self._parts is not None, "there is no panel open"
        self._parts.append(html)

    @contextlib.contextmanager
    def row(self, css: str = "") -> Iterator[None]:
        """What is added within stands side by side."""
        self.put(f'<div class="rp-row {css}">')
        yield
        self.put("</div>")

    @contextlib.contextmanager
    def fold(self, label: str, place: str, switch: str = "", css: str = "") -> Iterator[None]:
        """What is added within can be folded away; ``place`` is the fold's id."""
        self.put(fold_open_html(label, place, switch, css))
        self._folds.append(place)
        yield
        self._folds.pop()
        self.put(FOLD_END)

    def mark(self) -> Any:
        """Where the panel is now, for `rewind`."""
        parts = list(self._parts) if self._parts is not None else None
        return parts, list(self._folds), dict(self._fields), list(self._dependent)

    def rewind(self, mark: Any) -> None:
        """Forget what was added since that mark."""
        self._parts, self._folds, self._fields, self._dependent = mark

    # What is in it

    def add(
        self, option: Option, name: str, choices: Sequence[str] | None, *, elem_id: str, value: Any = None, **facts: Any
    ) -> Field:
        """Add the control of an option under that ``name``."""
        shown = shown_value(option, choices, option.default if value is None else value)
        self.put(control_html(option, name, elem_id, shown, choices, **facts))
        table = option.choices if isinstance(option.choices, str) else option.kind
        label = str(facts.get("label") or option.label)
        return self._take(Field(name, elem_id, label, shown, table if choices is not None else "", tuple(self._folds)))

    def choice(self, place: Any, name: str, label: str, choices: Mapping[str, str], *, elem_id: str) -> None:
        """Put a choice among values with their words into an empty `place`."""
        value = next(iter(choices))
        self._take(Field(name, elem_id, label, value))
        self._told()
        place.value = place.value.replace("></div>", f">{choice_html(name, elem_id, label, choices, value)}</div>")

    def switch(self, name: str, label: str, *, elem_id: str, info: str = "", fold: str = "") -> tuple[Field, str]:
        """The switch of a group, and its HTML for the header of ``fold``."""
        field = self._take(Field(name, elem_id, label, False, folds=(*self._folds, *([fold] if fold else []))))
        return field, switch_html(name, elem_id, label, info)

    def _take(self, field: Field) -> Field:
        if field.name in self._fields:
            raise ValueError(f"{field.name!r} is there twice")
        self._fields[field.name] = field
        return field

    def _told(self) -> None:
        """Let the state begin with what the controls were built with."""
        self.state.value = json.dumps({name: field.value for name, field in self._fields.items()})

    def __getitem__(self, name: str) -> Field:
        return self._fields[name]

    # What goes to and fro

    def named(self, state: Any) -> dict[str, Any]:
        """The values by name in what a client sent as ``state``; those that are not there are None."""
        try:
            values = json.loads(state) if isinstance(state, str) and len(state) <= MOST else {}
        except (ValueError, RecursionError):
            values = {}
        values = values if isinstance(values, dict) else {}
        return {name: values.get(name) for name in self._fields}

    def patch(self, values: Mapping[str, Any], choices: Mapping[str, Sequence[str]] | None = None) -> Any:
        """What a handler returns for ``given`` to change fields, and the ``choices`` of some."""
        known = {name: value for name, value in values.items() if name in self._fields}
        listed = {name: list(names) for name, names in (choices or {}).items() if name in self._fields}
        if not known and not listed:
            return gr.skip()
        # A number, so that the same change is one again.
        return json.dumps({"n": next(_numbers), "values": known, "choices": listed})

    def begin(self, values: Mapping[str, Any]) -> Any:
        """The patch for a page that has just been opened: what the controls were built with is not sent once more."""
        known = {name: value for name, value in values.items() if name in self._fields}
        return self.patch({name: value for name, value in known.items() if not _same(self._fields[name].value, value)})

    def listed(self, state: Any, tables: Mapping[str, Sequence[str]]) -> Any:
        """The patch after some of the ``tables`` were read anew; a value that is gone gives way to the first."""
        values, choices, gone = self.named(state), {}, {}
        for name, field in self._fields.items():
            if field.table in tables:
                choices[name] = names = list(tables[field.table])
                if values[name] not in names:
                    gone[name] = next(iter(names), "")
        return self.patch(gone, choices)

    def follow(self, name: str, on: Sequence[str], of: Callable[..., Sequence[str]]) -> None:
        """Let the choices of a field follow the values of others."""
        self._dependent.append((name, tuple(on), of))
        self.put(f'<i hidden data-follow="{escape(" ".join(on))}"></i>')

    def _followed(self, request: Any, wish: Any, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        choices: dict[str, list[str]] = {}
        for name, on, of in self._dependent:
            try:
                choices[name] = list(of(*(values[one] for one in on)))
            except Exception:  # an extension's function, and values that no control has
                logger.debug("the choices of %s cannot be told", name, exc_info=True)
        gone = {name: next(iter(names), "") for name, names in choices.items() if values[name] not in names}
        return gone, choices

    def _seen(self, request: Any, wish: Any, values: Mapping[str, Any]) -> str:
        """Small copies of the pictures that the fields name, by name."""
        names = wish.get("names")
        known = [name for name in names if name in self._fields] if isinstance(names, list) else []
        looks = {name: stored_html(str(values[name] or ""), self.look) if self.look else "" for name in known}
        return json.dumps({"n": next(_numbers), "values": {}, "choices": {}, "looks": looks})

    def answer(self, wish: str, handler: Answer, inputs: Sequence[Any] = ()) -> None:
        """Let ``handler`` answer a wish of the page's buttons."""
        self._answers[wish] = (handler, inputs)

    def wire(self) -> None:
        """Wire the events, when all fields are there."""
        tab, answers = self.tab, dict(self._answers)
        if self._dependent:
            answers["follow"] = (self._followed, ())
        if self.look:
            answers["look"] = (self._seen, ())
        self.given.change(None, self.given, None, js=TAKE.format(tab=tab), **QUIET)
        if not answers:
            return
        inputs = list({id(one): one for _, others in answers.values() for one in others}.values())

        async def on_ask(request: gr.Request, asked: Any, state: Any, *others: Any) -> Any:
            try:
                wish = json.loads(asked)
                handler, wanted = answers[wish["wish"]]
            except (ValueError, KeyError, TypeError):
                return gr.skip()
            by_component = dict(zip(map(id, inputs), others, strict=True))
            given = [by_component[id(component)] for component in wanted]
            if inspect.iscoroutinefunction(handler):
                changes = await handler(request, wish, self.named(state), *given)
            else:
                changes = await asyncio.to_thread(handler, request, wish, self.named(state), *given)
            if isinstance(changes, str):
                return changes
            if isinstance(changes, tuple):
                return self.patch(*changes)
            return self.patch(changes or {})

        self.ask.change(on_ask, [self.ask, self.state, *inputs], self.given, **AT_ONCE)


def _same(shown: Any, value: Any) -> bool:
    """Whether a control that shows the first holds the second."""
    return bool(shown == value or (shown == "" and value is None))


@contextlib.contextmanager
def _within(home: Any) -> Iterator[None]:
    """What is created within stands in ``home``, which is complete otherwise."""
    before = Context.block
    Context.block = home
    try:
        yield
    finally:
        Context.block = before

"""Places on the page at which extensions create components, and how these read and fill the tab's form."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from PIL.Image import Image

from modules.errors import NotFound, RepriseError, without_folders
from modules.params.generation import GenerationParams
from modules.params.options import flat_of
from webui.components.contained import contained
from webui.context import Page
from webui.events import AT_ONCE
from webui.forms import Form

logger = logging.getLogger(__name__)

Handler = Callable[..., Any]
"""``(values, *inputs) -> changes``, or ``(changes, *outputs)``."""


@dataclass(frozen=True)
class _Wish:
    """An event that an extension wants wired."""

    trigger: Callable[..., Any]
    handler: Handler
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    fields: Sequence[str] | None


class SlotPage:
    """What an extension's function receives at its place (see `modules.extension.page.SlotPage`). Events are wired
    when the page is complete, for the form has components behind this place too.
    """

    def __init__(self, place: str, extension: str, form: Form[Any] | None):
        self.tab = place.partition(".")[0]
        self.place, self.extension = place, extension
        self._form = form
        self._wishes: list[_Wish] = []

    def on(
        self,
        trigger: Callable[..., Any],
        handler: Handler,
        inputs: Sequence[Any] = (),
        outputs: Sequence[Any] = (),
        fields: Sequence[str] | None = None,
    ) -> None:
        """Call ``handler(values, *inputs)`` at an event; what it returns goes into the form and ``outputs``."""
        self._wishes.append(_Wish(trigger, handler, inputs, outputs, fields))

    def stored(self, name: str) -> Image:
        """The stored picture that an option names."""
        if self._form is None or self._form.look is None:
            raise NotFound("there are no stored pictures here")
        return self._form.look(name)

    def wire(self) -> None:
        """Wire what was asked for."""
        form = self._form
        for wish in self._wishes:
            fill = self._filler(wish, form)
            given, filled = (form.inputs, form.outputs) if form else ([], [])
            wish.trigger(fill, [*wish.inputs, *given], [*wish.outputs, *filled], **AT_ONCE)

    def _filler(self, wish: _Wish, form: Form[Any] | None) -> Any:
        names = form.names if form else ()
        handler, count, others = wish.handler, len(wish.inputs), len(wish.outputs)

        async def on_event(*values: Any) -> list[Any]:
            named = form.named(values[count:]) if form else {}
            if wish.fields is not None:
                named = {name: named[name] for name in wish.fields if name in named}
            try:
                answer = await asyncio.to_thread(handler, named, *values[:count])
                changes, own = _parts(answer, others)
                # Fields of another tab's form are no mistake: one handler may serve several places.
                if unknown := next(
                    (name for name in changes if name not in (*names, *flat_of(GenerationParams))), None
                ):
                    raise LookupError(f"there is no field {unknown!r}")
            except RepriseError as error:
                raise gr.Error(str(error), print_exception=False) from None
            except Exception as error:
                logger.warning("extension %s failed in its place on the page", self.extension, exc_info=True)
                sentence = f"extension {self.extension} failed ({type(error).__name__}: {without_folders(error)})"
                raise gr.Error(sentence, print_exception=False) from None
            return [*own, *(form.fill(changes) if form else [])]

        return on_event


def _parts(answer: Any, others: int) -> tuple[Mapping[str, Any], list[Any]]:
    """What a handler changes in the form, and what it puts into its own outputs."""
    changes, *own = answer if others else (answer,)
    changes = {} if changes is None else changes
    if not isinstance(changes, Mapping) or len(own) != others:
        wanted = f"a tuple of changes and {others} values" if others else "changes by the names of fields"
        raise TypeError(f"its handler must return {wanted}")
    return changes, own


def place_slots(page: Page, place: str, form: Form[Any] | None = None) -> None:
    """Create what extensions have for ``place``, here. What fails leaves a sentence and nothing else."""
    host = page.services.host
    for name in host.slots.names():
        extension, _, where = name.partition("/")
        if where == place:
            if form and form.fields:
                form.fields.flush()
            slot = SlotPage(place, extension, form)
            if contained(f"{extension} ({place})", partial(_built, slot, host.slots.get(name).build)):
                page.slots.append(slot)


def _built(slot: SlotPage, build: Callable[[Any], None]) -> SlotPage:
    elem_id = f"{slot.place.replace('.', '_')}_slot_{slot.extension}"
    with gr.Column(elem_id=elem_id, elem_classes="rp-slot", min_width=80):
        build(slot)
    return slot


def wire_slots(page: Page) -> None:
    """Wire the events of all places, when the page is complete."""
    for slot in page.slots:
        contained(f"{slot.extension} ({slot.place})", slot.wire)

"""The editor of a checkpoint's card: what a person chooses for a model, kept in files beside it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from modules.checkpoints.catalogue import Card
from modules.checkpoints.choices import EPS, V_ZERO_SNR, Choices, V
from modules.checkpoints.presets import Preset
from modules.checkpoints.vaes import AUTOMATIC, OWN
from modules.errors import NotFound, RepriseError, UserError
from modules.params.options import Shape, option
from webui.context import Page
from webui.events import AT_ONCE, QUIET
from webui.fields import Fields
from webui.forms import Form
from webui.html.cards import card_html
from webui.html.status import JobProgress, status_html
from webui.i18n import t
from webui.made_pictures import illustrate, picture_of
from webui.services import CardKeeper, Services

AS_FILE = "As the file says"
ANSWERS = {AS_FILE: "", "eps (the noise)": EPS, "v (velocity)": V, "v, zero terminal SNR": V_ZERO_SNR}
"""What a UNet's answers may be called here, and how a card's file says it."""
IN_VIEW = "(seen, name) => [JSON.stringify(window.reprise?.inView() || {}), name]"


@dataclass(frozen=True)
class CardForm:
    """A card's choices as fields of a form; 0 and an empty choice say nothing."""

    prediction: str = option(AS_FILE, "Prediction", choices=tuple(ANSWERS), help="what the network answers")
    vae: str = option("", "Preferred VAE", choices="card_vaes", help="where the request's VAE is Automatic")
    sampler: str = option("", "Sampler", choices="hires_samplers")
    scheduler: str = option("", "Schedule type", choices="hires_schedulers")
    steps: int = option(0, "Steps", lo=0, hi=150)
    cfg_scale: float = option(0.0, "CFG scale", lo=0.0, hi=30.0)
    width: int = option(0, "Width", lo=0, hi=2048)
    height: int = option(0, "Height", lo=0, hi=2048)
    clip_skip: int = option(0, "Clip skip", lo=0, hi=12)
    applies: bool = option(False, "Apply these values whenever the model is chosen")
    trigger_words: str = option("", "Trigger words")
    description: str = option("", "Description", multiline=True)
    notes: str = option("", "Notes", multiline=True)

    @classmethod
    def of(cls, chosen: Choices) -> CardForm:
        preset = chosen.preset.values()
        answers = next(word for word, kind in ANSWERS.items() if kind == chosen.prediction)
        return cls(
            prediction=answers,
            applies=chosen.applies,
            trigger_words=chosen.trigger_words,
            description=chosen.description,
            notes=chosen.notes,
            **preset,
        )

    def choices(self) -> Choices:
        """Raises `UserError` for a size that no picture can have."""
        for name in ("width", "height"):
            if 0 < getattr(self, name) < 64:
                raise UserError("a picture has at least 64 pixels a side", hint="enter 0 for none", field=name)
        names = ("vae", "sampler", "scheduler", "steps", "cfg_scale", "width", "height", "clip_skip")
        return Choices(
            prediction=ANSWERS[self.prediction],
            preset=Preset(**{name: value for name in names if (value := getattr(self, name))}),
            applies=self.applies,
            trigger_words=self.trigger_words.strip(),
            description=self.description.strip(),
            notes=self.notes.strip(),
        )


class CardEditor:
    """Rendered where it is created, hidden until `shown` gives it a card."""

    def __init__(self, services: Services, fields: Fields):
        self._services = services
        tables = {**services.tables(), "card_vaes": lambda: ("", AUTOMATIC, OWN, *services.vaes())}
        self.form: Form[CardForm] = Form(Shape(CardForm), tables, fields=fields)
        with gr.Column(visible=False, elem_id="model_card_tools", elem_classes="rp-editor") as self.place:
            self._convert = gr.Button(t("Convert to safetensors"), elem_id="model_card_convert", visible=False)
            with gr.Accordion(t("Edit this card"), open=False, elem_id="model_card_editor", visible=False) as self.fold:
                with fields.panel():
                    for name in self.form.options:
                        self.form.add(name, elem_id=f"model_card_{name}")
                with gr.Row():
                    self._picture = gr.UploadButton(
                        t("Choose a preview picture"), file_types=["image"], elem_id="model_card_picture"
                    )
                    self._in_view = gr.Button(
                        t("Save the picture in view as preview"), elem_id="model_card_picture_in_view"
                    )
                    self._save = gr.Button(t("Save the card"), variant="primary", elem_id="model_card_save")
            self._seen = gr.Textbox(visible="hidden")
            self._said = gr.HTML(status_html(JobProgress()), elem_id="model_card_said", padding=False)

    @property
    def outputs(self) -> list[Any]:
        return [self.place, self.fold, self._convert, self._said, *self.form.outputs]

    def shown(self, card: Card | None, owner: str) -> list[Any]:
        """Values of `outputs` for the card that is open; None: it is closed. Cards are for administrators to change."""
        may = card is not None and self._services.keeper is not None and self._services.is_admin(owner)
        values = vars(CardForm.of(card.choices)) if card and not card.problem else {}
        vaes = {"vae": ["", AUTOMATIC, OWN, *self._services.vaes()]} if values else {}
        assert self.form.fields
        editable, pickled = bool(may and card and not card.problem), bool(may and card and card.pickled)
        parts = [gr.update(visible=may), gr.update(visible=editable), gr.update(visible=pickled)]
        return [*parts, status_html(JobProgress()), self.form.fields.patch(values, vaes)]

    def wire(self, page: Page, checkpoint: Any, card: Any) -> Any:
        """Wire the buttons; gives the event after which the lists of files are read again."""
        form = self.form

        def keeper(request: Any) -> CardKeeper:
            return self._keeper(page.owner(request))

        async def on_save(request: gr.Request, name: Any, *values: Any) -> list[Any]:
            try:
                chosen = form.read(values).choices()
                await asyncio.to_thread(keeper(request).choose, str(name or ""), chosen)
            except RepriseError as error:
                return [gr.skip(), status_html(JobProgress().failed(str(error), error.field))]
            return self._saved(name)

        async def on_picture(request: gr.Request, path: str | None, name: Any) -> list[Any]:
            if not path:
                return [gr.skip(), gr.skip()]
            try:
                await asyncio.to_thread(illustrate, self._services, keeper(request), Path(path), str(name or ""))
            except RepriseError as error:
                return [gr.skip(), status_html(JobProgress().failed(str(error), error.field))]
            return self._saved(name)

        async def on_view(request: gr.Request, seen: Any, name: Any) -> list[Any]:
            return await asyncio.to_thread(self.keep_in_view, page.owner(request), seen, name)

        async def on_convert(request: gr.Request, name: Any) -> list[Any]:
            try:
                made = await asyncio.to_thread(keeper(request).convert, str(name or ""))
            except RepriseError as error:
                return [gr.skip(), status_html(JobProgress().failed(str(error), error.field))]
            done = f"{made.name}: {t('the file is converted; choose it in the list of checkpoints')}"
            return ["", status_html(JobProgress(notes=(done,)))]

        assert form.fields
        form.fields.wire()
        shown = [card, self._said]
        self._save.click(on_save, [checkpoint, *form.inputs], shown, **AT_ONCE)
        # An upload is preprocessed: that is where Gradio makes sure that a path is an upload of its own.
        self._picture.upload(on_picture, [self._picture, checkpoint], shown, **{**QUIET, "queue": False})
        self._in_view.click(on_view, [self._seen, checkpoint], shown, js=IN_VIEW, **AT_ONCE)
        return self._convert.click(on_convert, checkpoint, shown, **AT_ONCE)

    def keep_in_view(self, owner: str, seen: Any, name: Any) -> list[Any]:
        """Keep the picture that a visitor looks at as a card's preview; gives the card and what is said of it."""
        try:
            keeper = self._keeper(owner)
            path = picture_of(self._services, owner, _seen(seen))
            _, maker = illustrate(self._services, keeper, path, str(name or ""))
        except RepriseError as error:
            return [gr.skip(), status_html(JobProgress().failed(str(error), error.field))]
        other = (
            f"the picture was made with {maker}, and is on this card now" if maker not in ("", str(name or "")) else ""
        )
        return self._saved(name, other)

    def _saved(self, name: Any, note: str = "") -> list[Any]:
        html = card_html(self._services.card(str(name or "")))
        return [html, status_html(JobProgress(notes=(t("the card is saved"), *filter(None, [note]))))]

    def _keeper(self, owner: str) -> CardKeeper:
        if self._services.keeper is None or not self._services.is_admin(owner):
            raise UserError("cards are for administrators to change")
        return self._services.keeper


def _seen(text: Any) -> dict[str, Any]:
    """What the page says of the picture in view. Raises `NotFound` where there is none."""
    try:
        values = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or not values:
        raise NotFound("there is no picture in view yet", hint="make one, or choose one in History")
    return values

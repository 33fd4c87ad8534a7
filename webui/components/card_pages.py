"""Pages of cards that extensions add, folded below the prompts: a click on a card writes it into the prompt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from modules.extension.page import CardsSpec
from webui.context import Page
from webui.events import AT_ONCE
from webui.html.extensions import cards_html, failed_part_html
from webui.i18n import t

logger = logging.getLogger(__name__)


def place_cards(page: Page, tab: str) -> None:
    """One fold for each page of cards, whose cards are listed anew whenever it is opened."""
    for spec in page.services.host.cards:
        if spec.cards is None:  # files, which the panel of networks shows
            continue
        with gr.Accordion(t(spec.label), open=False, elem_id=f"{tab}_cards_{spec.name}") as fold:
            shown = gr.HTML("", elem_id=f"{tab}_cards_{spec.name}_list", elem_classes="rp-cards-home", padding=False)
        fold.expand(_lister(spec, spec.cards), None, shown, **AT_ONCE)


def _lister(spec: CardsSpec, listed: Callable[[], Sequence[Any]]) -> Any:
    async def on_open() -> str:
        try:
            cards: Sequence[Any] = await asyncio.to_thread(listed)
            return cards_html(cards)
        except Exception as error:
            logger.warning("the cards %s of an extension cannot be listed", spec.name, exc_info=True)
            return failed_part_html(spec.label, str(error), "")

    return on_open

"""What the panel of networks on the page asks for: the cards of `webui.api.v1.networks` as HTML."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from modules.checkpoints.networks.shelf import LORA
from modules.jobs.protocol import Json
from webui.api.v1.networks import chosen_of, library_of
from webui.html.networks import cards_html, details_html, empty, fits, folders_html
from webui.i18n import t
from webui.security.auth import owner_of
from webui.security.characters import WholeJSON
from webui.services import Services

PAGE = 60
"""Cards that the panel asks for at a time."""


def router(services: Services) -> APIRouter:
    """The routes below ``/page``."""
    routes = APIRouter(prefix="/page", default_response_class=WholeJSON)

    @routes.get("/networks", include_in_schema=False)
    def panel(
        kind: str = LORA,
        search: str = "",
        folder: str = "",
        sort: str = "Path",
        fitting: bool = False,
        checkpoint: str = "",
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> Json:
        """A page of cards."""
        cards, unread = library_of(services).cards(kind)
        family = services.network_family(checkpoint)
        searched = chosen_of(cards, search, "", sort, folder)
        found = [card for card in searched if not fitting or fits(card, family)]
        shown = found[offset : offset + PAGE]
        none = t("Nothing here fits the search.") if cards else empty(kind, library_of(services).page(kind))
        if searched and not found:
            none = t("None of these fits the chosen checkpoint: untick “Only what fits” to see them.")
        return {
            "html": cards_html(shown, family),
            "folders": folders_html(cards, folder, family if fitting else ""),
            "count": len(found),
            "next": offset + PAGE if offset + PAGE < len(found) else 0,
            "unread": unread,
            "separator": services.settings.current().network_separator,
            "none": "" if found else none,
        }

    @routes.get("/networks/{kind}/{key}", include_in_schema=False)
    def details(request: Request, kind: str, key: str) -> Json:
        """A card in full."""
        card = library_of(services).fresh(kind, key)
        may_edit = services.is_admin(owner_of(request))
        found = library_of(services).details(card)
        return {"html": details_html(card, found, may_edit=may_edit, vaes=services.vaes())}

    return routes

"""LoRAs, hypernetworks, embeddings and checkpoints as cards: listed, searched, told of, edited."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request
from starlette.responses import Response

from modules.checkpoints.networks.cards import SORTS, Card, chosen
from modules.checkpoints.networks.library import Library, edited
from modules.checkpoints.networks.shelf import LORA
from modules.errors import NotAllowed, NotFound, UserError
from modules.imaging.files import open_image
from modules.jobs.protocol import Json
from modules.metadata.image_text import read_metadata
from webui.api.sdapi.pictures import decoded
from webui.api.sdapi.route import Refusal
from webui.api.v1.history import LASTING
from webui.api.v1.openapi import TAGS
from webui.html.networks import preview_url
from webui.made_pictures import illustrate, picture_of
from webui.security.auth import owner_of
from webui.services import Services

MOST = 500


def add_networks(routes: APIRouter, services: Services) -> None:
    """``/networks`` and what lies below it."""

    @routes.get("/networks", tags=[TAGS.files])
    def networks(
        kind: str = LORA,
        search: str = "",
        folder: str = "",
        sort: str = "Path",
        family: str = "",
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST)] = MOST,
    ) -> Json:
        """Cards of a ``kind``: lora, hypernetwork, embedding, checkpoint or cards_NAME of an extension. ``search``:
        words that all have to be in names, folders, tags, trigger words or notes; ``family``: SD1, SD2 or SDXL;
        ``sort``: Path, Name or Newest.
        ``unread``: files whose headers are being read, so that names and families of theirs may change."""
        cards, unread = library_of(services).cards(kind)
        found = chosen_of(cards, search, family, sort, folder)
        told = [told_card(card) for card in found[offset : offset + limit]]
        return {"count": len(found), "unread": unread, "networks": told}

    @routes.get("/networks/{kind}/{key}", tags=[TAGS.files])
    def network(kind: str, key: str) -> Json:
        """All that is known of one: the facts of its training, the words of its training set with their counts, what a
        person wrote, what a downloader left."""
        card = library_of(services).fresh(kind, key)
        details = library_of(services).details(card)
        return {
            **told_card(card),
            "user": {name: getattr(card.user, name) for name in edited(kind)},
            "facts": {fact.label.rstrip(":"): fact.whole or fact.value for fact in details.facts},
            "tags": dict(details.tags),
            "metadata": dict(details.metadata),
            "embeddings": list(card.file.described.embeddings),
        }

    @routes.post("/networks/{kind}/{key}", tags=[TAGS.files])
    def edit(request: Request, kind: str, key: str, values: Json = Body()) -> Json:
        """Change what a person chose: ``description``, ``notes``, ``family``, ``activation_text``, ``negative_text``,
        ``preferred_weight``; ``vae`` of a checkpoint. Written into STEM.json as A1111 does; for administrators."""
        _may_edit(services, request)
        return told_card(library_of(services).edit(kind, key, values))

    @routes.get("/networks/{kind}/{key}/preview", tags=[TAGS.files], response_class=Response)
    def preview(kind: str, key: str) -> Response:
        """A small copy of the preview, as WebP."""
        return Response(library_of(services).preview(kind, key), media_type="image/webp", headers=LASTING)

    @routes.post("/networks/{kind}/{key}/preview", tags=[TAGS.files])
    def save_preview(request: Request, kind: str, key: str, values: Json = Body()) -> Json:
        """Keep a picture as the preview: ``image`` in base64; ``job`` and ``index`` of one of its images; or
        ``picture``, a number of the history. For administrators."""
        _may_edit(services, request)
        source = _picture(services, owner_of(request), values)
        infotext = read_metadata(source)["infotext"] or ""
        return told_card(library_of(services).save_preview(kind, key, open_image(source), infotext))

    @routes.post("/models/preview", tags=[TAGS.files])
    def illustrate_checkpoint(request: Request, values: Json = Body()) -> Json:
        """Keep a picture as the preview of the checkpoint that it was made with, or of the one that ``checkpoint``
        names: ``image`` in base64; ``job`` and ``index`` of one of its images; or ``picture``, a number of the history.
        For administrators."""
        _may_edit(services, request)
        if services.keeper is None:
            raise NotFound("there are no model cards here")
        source = _picture(services, owner_of(request), values)
        wanted = values.get("checkpoint")
        if wanted is not None and wanted not in services.checkpoints():
            name = repr(str(wanted)[:80])
            raise UserError(f"there is no checkpoint {name}", hint="/api/v1/models lists them", field="checkpoint")
        kept, maker = illustrate(services, services.keeper, source, wanted)
        return {"checkpoint": kept, "made_with": maker or None}


def told_card(card: Card) -> Json:
    """A card as clients get it, without any place on the disk but its folder's name."""
    return {
        "key": card.key,
        "kind": card.role,
        "name": card.name,
        "folder": card.folder,
        "file": card.file.path.name,
        "bytes": card.file.size,
        "modified": card.file.mtime_ns / 1e9,
        "family": card.family,
        "hash": card.hash,
        "weight": card.weight,
        "insert": card.insertion.text,
        "negative": card.insertion.negative,
        "option": card.option,
        "trigger_words": list(card.trigger_words),
        "description": card.description,
        "preview": f"/{preview_url(card)}" if card.preview or card.file.described.cover else None,
        "problem": card.file.described.problem,
        "meant": card.meant or None,
    }


def chosen_of(cards: Sequence[Card], search: str, family: str, sort: str, folder: str) -> list[Card]:
    if sort not in SORTS:
        raise UserError(f"there is no order {sort[:40]!r}", hint=f"there are {', '.join(SORTS)}", field="sort")
    return chosen(cards, search, family, sort, folder=folder)


def library_of(services: Services) -> Library:
    if services.networks is None:
        raise NotFound("there are no networks here")
    return services.networks


def _may_edit(services: Services, request: Request) -> None:
    if not services.is_admin(owner_of(request)):
        raise NotAllowed("only an administrator can change what everybody sees", hint="ask one")


def _picture(services: Services, owner: str, values: dict[str, Any]) -> bytes | Path:
    """The picture that a request names: one that it carries, or one that the visitor made."""
    if isinstance(values.get("image"), str):
        try:
            return decoded(values["image"], "image")
        except Refusal as error:
            raise UserError(
                "image is no picture that can be read", hint="send a PNG, JPEG or WebP file, in base64", field="image"
            ) from error
    return picture_of(services, owner, values)

"""The pictures of the history and their small copies, for their owner alone."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from webui.api.v1.openapi import TAGS
from webui.made_pictures import known
from webui.security.auth import owner_of
from webui.services import Services

LASTING = {"cache-control": "private, max-age=86400", "vary": "cookie, authorization"}


class SavedFile(FileResponse):
    """A picture's file, read in pieces that most pictures are one of: each piece is a turn of a thread."""

    chunk_size = 2**20


def add_routes(routes: APIRouter, services: Services) -> None:
    """``/pictures/NUMBER`` and ``/pictures/NUMBER/small``."""

    @routes.get("/pictures/{number}", tags=[TAGS.files], response_class=SavedFile)
    def picture(request: Request, number: int) -> SavedFile:
        """The file as it was saved."""
        return SavedFile(services.history.file(owner_of(request), known(number)), headers=LASTING)

    @routes.get("/pictures/{number}/small", tags=[TAGS.files], response_class=SavedFile)
    def small(request: Request, number: int) -> SavedFile:
        """A copy of at most 256 pixels a side."""
        return SavedFile(services.history.thumbnail(owner_of(request), known(number)), headers=LASTING)

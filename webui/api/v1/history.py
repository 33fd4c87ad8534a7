"""The pictures of the history and their small copies, for their owner alone."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from webui.made_pictures import known
from webui.security.auth import owner_of
from webui.services import Services

LASTING = {"cache-control": "private, max-age=86400", "vary": "cookie, authorization"}


def add_routes(routes: APIRouter, services: Services) -> None:
    """``/pictures/NUMBER`` and ``/pictures/NUMBER/small``."""

    @routes.get("/pictures/{number}")
    def picture(request: Request, number: int) -> FileResponse:
        """The file as it was saved."""
        return FileResponse(services.history.file(owner_of(request), known(number)), headers=LASTING)

    @routes.get("/pictures/{number}/small")
    def small(request: Request, number: int) -> FileResponse:
        """A copy of at most 256 pixels a side."""
        return FileResponse(services.history.thumbnail(owner_of(request), known(number)), headers=LASTING)

"""The pictures of the history and their small copies, for their owner alone."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.responses import FileResponse

from webui.page import Page
from webui.services import Services

Number = Annotated[int, Path(ge=0, lt=2**63)]
"""Of a picture; the database has none beyond 64 bits."""
LASTING = {"cache-control": "private, max-age=86400", "vary": "cookie, authorization"}


def add_routes(routes: APIRouter, services: Services) -> None:
    """``/pictures/NUMBER`` and ``/pictures/NUMBER/small``."""

    @routes.get("/pictures/{number}")
    def picture(request: Request, number: Number) -> FileResponse:
        """The file as it was saved."""
        return FileResponse(services.history.file(Page.owner(request), number), headers=LASTING)

    @routes.get("/pictures/{number}/small")
    def small(request: Request, number: Number) -> FileResponse:
        """A copy of at most 256 pixels a side."""
        return FileResponse(services.history.thumbnail(Page.owner(request), number), headers=LASTING)

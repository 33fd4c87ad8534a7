"""How A1111's API answers: its error bodies and the time that a request took."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response

from modules.errors import RepriseError, without_folders
from webui.api.parsed import ParsedRoute
from webui.security.characters import WholeJSON

log = logging.getLogger(__name__)


class Refusal(RepriseError):
    """An answer that clients of A1111 know by its status."""

    def __init__(self, status: int, message: str, *, field: str = ""):
        super().__init__(message, field=field)
        self.status = status


class Route(ParsedRoute):
    """A route whose errors have A1111's shape: ``{error, detail, body, errors}``."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def answered(request: Request) -> Response:
            begin = time.perf_counter()
            try:
                response: Response = await inner(request)
            except RepriseError as error:
                name = "HTTPException" if isinstance(error, Refusal) else type(error).__name__
                response = _told(error.status, name, str(error), retry_s=error.retry_s)
            except RequestValidationError as error:
                response = _misfit(error)
            except Exception as error:
                log.exception("%s %s", request.method, request.url.path)
                response = _told(500, type(error).__name__, "", without_folders(error))
            response.headers["X-Process-Time"] = f"{time.perf_counter() - begin:.4f}"
            return response

        return answered


def _told(status: int, name: str, detail: Any, errors: str = "", *, retry_s: int = 0) -> Response:
    headers = {"retry-after": str(retry_s)} if retry_s else None
    return WholeJSON({"error": name, "detail": detail, "body": "", "errors": errors}, status, headers)


def _misfit(error: RequestValidationError) -> Response:
    """FastAPI's own list of what does not fit, without the values, which may be nothing that JSON can say."""
    detail = [{key: fault[key] for key in ("type", "loc", "msg")} for fault in error.errors()]
    return _told(422, "RequestValidationError", detail, detail[0]["msg"])

"""Lists all routes of the application and who may use each, for ``--list-routes`` and a test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fastapi.routing import iter_route_contexts

from webui.security.bodies import API
from webui.security.guard import CLOSED, OPEN
from webui.security.ownership import BODIES

ANYONE, ACCOUNTS, OWNER, NOBODY = "anyone", "accounts", "accounts, each their own", "nobody: closed"
OWNED = re.compile(rf"{API}/(queue/data|heartbeat/|upload|stream/|call/|file[=/])|.*{{job_id}}")


def routes_of(app: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Every path with its methods, including those of mounted applications."""
    for route in _walk(app.routes):
        yield route.path or "/", tuple(sorted(getattr(route, "methods", None) or {"GET"}))


def _walk(routes: Any) -> Iterator[Any]:
    for route in iter_route_contexts(routes):
        inner = getattr(route, "routes", None)
        if inner:
            yield from _walk(inner)
        elif getattr(route, "path", None) is not None:
            yield route


def who_may(path: str) -> str:
    """Who may use a path, as enforced by the guard and `Ownership`."""
    if path in OPEN:
        return ANYONE
    if CLOSED.match(path):
        return NOBODY
    return OWNER if OWNED.match(path) or BODIES.match(path) else ACCOUNTS


def table(app: Any) -> str:
    """The routes as text, one per line: who, methods, path."""
    rows = sorted({(who_may(path), " ".join(methods), path) for path, methods in routes_of(app)})
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{who:{widths[0]}}  {methods:{widths[1]}}  {path}" for who, methods, path in rows)

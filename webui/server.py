"""The web server: FastAPI with Gradio mounted, behind the guard. It never contacts another machine."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.responses import RedirectResponse, Response

from modules.errors import NotFound, RepriseError, UserError
from modules.gallery.outputs import Gallery
from webui import extension_routes
from webui.api import panel, router, sdapi
from webui.caching import Keeping
from webui.i18n import load_catalogues
from webui.security import login
from webui.security.access_log import AccessLog
from webui.security.auth import Visitors, visitor_of
from webui.security.bodies import Bodies, Events, no_events
from webui.security.connections import HEAD_S, TimedProtocol, Waiting
from webui.security.guard import Guard, refused
from webui.security.ownership import Claims, Files, Ownership
from webui.security.proxy import Proxied, network_of
from webui.security.rates import Rates
from webui.security.tls import Tls
from webui.services import Services

__all__ = ["Services", "create_app", "listen", "serve"]

STAY_AS_THEY_ARE = (*DEFAULT_EXCLUDED_CONTENT_TYPES, "application/json")
"""Besides what is small already: the answers of the APIs, which are mostly pictures, and whose readers are near."""


def create_app(services: Services, *, page: bool = True) -> FastAPI:
    """The whole web application, or without its ``page`` the APIs alone. The queue of ``services`` must run while it is
    served."""
    temp = _use_private_temp(services.data_dir)
    visitors = Visitors(services.accounts, always=services.login)
    files = Files(temp, services.outputs_dir, _ownership_of_images(services))
    app = FastAPI(title="Reprise", version=services.version, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(RepriseError, _as_json)
    app.add_exception_handler(RequestValidationError, _misfit)

    @app.get("/healthz")
    async def healthz(request: Request) -> dict[str, str]:
        """Answers while anything is alive, and says what the worker does to those who are logged in."""
        if visitor_of(request) is None:
            return {"status": "ok"}
        worker = services.queue.status()
        return {"status": "ok", "version": services.version, "worker": worker.state, "detail": worker.detail}

    catalogues = load_catalogues()

    @app.get("/locales/{language}.json")
    async def locale(language: str) -> dict[str, str]:
        """The texts of the page in a language, by their English."""
        if language not in catalogues:
            raise NotFound("there is no catalogue of that language")
        return catalogues[language].entries

    app.include_router(login.router(visitors, catalogues))
    app.include_router(router(services))
    app.include_router(sdapi.router(services))
    app.include_router(extension_routes.router(services))
    app.router.routes.append(extension_routes.Rooted(services))
    claims = Claims()
    events: Events = no_events
    if page:
        from webui import mount

        app.include_router(panel.router(services))
        events = mount.mount(app, services, catalogues, files, claims)
    else:
        app.add_api_route("/", _to_docs, include_in_schema=False)
    app.add_middleware(Ownership, files=files, claims=claims)
    app.add_middleware(Bodies, events=events)
    app.add_middleware(Keeping)
    app.add_middleware(GZipMiddleware, compresslevel=6, exclude_content_types=STAY_AS_THEY_ARE)
    if services.api.requests_per_minute:
        app.add_middleware(Rates, per_minute=services.api.requests_per_minute)
    app.add_middleware(
        Guard, hosts=services.allowed_hosts, visitors=visitors, policy=services.api
    )  # the last one added comes first
    app.add_middleware(AccessLog, folder=services.data_dir / "logs")
    app.add_middleware(Proxied, subpath=services.subpath, trusted=services.trusted_proxies)
    return app


def _to_docs(request: Request) -> RedirectResponse:
    """Where the page would be."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}/docs", 303)


def _ownership_of_images(services: Services) -> Callable[[str, Path], bool]:
    gallery = Gallery(services.outputs_dir.resolve())

    def is_image_of(name: str, path: Path) -> bool:
        if services.history.owns(name, path):
            return True
        job = gallery.job_of(path)  # it may be new, and not yet in the database
        try:
            return bool(job) and services.queue.get(job, name) is not None
        except NotFound:
            return False

    return is_image_of


def _use_private_temp(data_dir: Path) -> Path:
    """Move Gradio's temporary folder into the data folder, closed to other users of the machine."""
    temp = data_dir.resolve() / "tmp" / "gradio"
    temp.mkdir(parents=True, exist_ok=True, mode=0o700)
    temp.chmod(0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(temp)
    return temp


async def _as_json(request: Request, error: Exception) -> Response:
    assert isinstance(error, RepriseError)
    return refused(error)


async def _misfit(request: Request, error: Exception) -> Response:
    """The response to a request that fails a route's validation, as one of our errors; without the value, which may
    not be valid JSON.
    """
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return refused(UserError(f"{name} is not as it should be: {first['msg']}", hint="correct it", field=name))


def serve(
    app: FastAPI,
    listener: socket.socket,
    tls: Tls | None = None,
    *,
    trusted: Iterable[str] = (),
    head_s: float = HEAD_S,
) -> None:
    """Serve on ``listener`` until interrupted. ``trusted``: proxies, through which many visitors come; ``head_s``:
    the timeout for a request head.
    """
    waiting = Waiting(map(network_of, trusted), head_s=head_s)
    protocol: Any = partial(TimedProtocol, waiting)
    with contextlib.closing(listener):
        config = uvicorn.Config(
            app,
            http=protocol,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,  # `Proxied` sees to them
            ssl_keyfile=tls.keyfile if tls else None,
            ssl_certfile=tls.certfile if tls else None,
            timeout_graceful_shutdown=3,  # a page that stays open holds its event stream
        )
        server = uvicorn.Server(config)
        app.state.stop = partial(setattr, server, "should_exit", True)
        server.run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket, or raise one sentence on why that fails."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.EADDRINUSE:
            raise UserError(
                f"port {port} is in use by another program", hint="choose another with --port", field="port"
            ) from None
        raise UserError(
            f"cannot listen on {host} port {port} ({error})", hint="check --host and --port", field="port"
        ) from None
    return listener

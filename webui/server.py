"""FastAPI with Gradio mounted, behind the guard. Nothing here leaves the machine, at start or later."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from modules.errors import NotFound, RepriseError, UserError
from webui.api import router
from webui.guard import MAX_BODY, Guard
from webui.i18n import load_catalogues
from webui.page import ASSETS, build_page, theme
from webui.services import Services

__all__ = ["Services", "create_app", "listen", "serve"]

HEAD = """<meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="rp-languages" content="{languages}">
{scripts}"""


def create_app(services: Services) -> FastAPI:
    """The whole web application. The queue of ``services`` must run while it is served."""
    _use_private_temp(services.data_dir)
    app = FastAPI(title="Reprise", version=services.version, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(RepriseError, _as_json)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answers while anything is alive, and says what the worker does."""
        worker = services.queue.status()
        return {"status": "ok", "version": services.version, "worker": worker.state, "detail": worker.detail}

    catalogues = load_catalogues()

    @app.get("/locales/{language}.json")
    async def locale(language: str) -> dict[str, str]:
        """The texts of the page in a language, by their English."""
        if language not in catalogues:
            raise NotFound("there is no catalogue of that language")
        return catalogues[language].entries

    app.include_router(router(services))
    blocks = build_page(services, catalogues)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=theme(),
        css_paths=sorted(ASSETS.glob("*.css")),
        head=HEAD.format(languages=" ".join(catalogues), scripts=_scripts()),
        allowed_paths=[str(services.outputs_dir.resolve())],
        max_file_size=MAX_BODY,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        show_error=False,
    )
    # Until this is set, Gradio takes any path on the disk from any client as a file of its own.
    blocks.has_launched = True
    app.add_middleware(Guard, hosts=services.allowed_hosts)
    return app


def _scripts() -> str:
    """All our scripts, each an element of its own: what goes wrong in one leaves the others alone."""
    texts = (path.read_text(encoding="utf-8") for path in sorted(ASSETS.glob("*.js")))
    return "\n".join(f"<script>{text}</script>" for text in texts)


def _use_private_temp(data_dir: Path) -> None:
    """Gradio's temporary folder, inside the data folder and closed to other users of the machine."""
    temp = data_dir.resolve() / "tmp" / "gradio"
    temp.mkdir(parents=True, exist_ok=True, mode=0o700)
    temp.chmod(0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(temp)


async def _as_json(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RepriseError)
    return JSONResponse(error.as_json(), error.status)


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Answer on ``listener`` until interrupted."""
    with contextlib.closing(listener):
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=3,  # a page that stays open holds its event stream
        )
        uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, or one sentence on why there is none."""
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

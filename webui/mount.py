"""The page put into the application: Gradio mounted, and what it leaves open closed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request

from webui import extension_tabs as extending
from webui.i18n import Catalogue
from webui.page import ASSETS, build_page, theme
from webui.security import sessions
from webui.security.auth import visitor_of
from webui.security.guard import MAX_BODY
from webui.security.ownership import Claims, Files
from webui.services import Services

HEAD = """<meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="rp-languages" content="{languages}">
<style>{frame}</style>
{scripts}"""
IDLE_S = 0.05
"""How often Gradio's queue looks for events. Its own choice, a thousand times a second, takes 5% of a core."""


def mount(
    app: FastAPI, services: Services, catalogues: Mapping[str, Catalogue], files: Files, claims: Claims
) -> Callable[[int | str], int | None]:
    """Mount the page below "/", and say how many values each of its events takes."""
    blocks = build_page(services, catalogues, files, extending.build_tab)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=theme(),
        css_paths=[*sorted(ASSETS.glob("*.css")), *extending.assets(services, ".css")],
        head=HEAD.format(
            languages=" ".join(catalogues),
            frame=(ASSETS / "head" / "frame.css").read_text(encoding="utf-8"),
            scripts=_scripts(extending.assets(services, ".js")),
        ),
        allowed_paths=[str(services.outputs_dir.resolve())],
        max_file_size=MAX_BODY,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        ssr_mode=False,
        pwa=False,
        show_error=False,
        auth_dependency=_name_of_visitor,
    )
    files.publish(blocks.config)
    blocks.state_session_capacity = sessions.ALL
    blocks._queue.sleep_when_free = IDLE_S
    sessions.Sessions(claims.owner).take_over(app.routes[-1].app)  # type: ignore[attr-defined]
    # Until this is set, Gradio takes any path on the disk from any client as a file of its own.
    blocks.has_launched = True
    return _events_of(blocks)


def _scripts(others: Sequence[Path]) -> str:
    """All our scripts, then those of extensions, each an element: what goes wrong in one leaves the others alone."""
    texts = (path.read_text(encoding="utf-8") for path in [*sorted(ASSETS.glob("*.js")), *others])
    return "\n".join(f"<script>{text}</script>" for text in texts)


def _events_of(blocks: Any) -> Callable[[int | str], int | None]:
    """How many values each event of the page takes that the server has a part in."""

    def takes(which: int | str) -> int | None:
        if isinstance(which, int):
            found = blocks.fns.get(which)
        else:
            found = next((fn for fn in blocks.fns.values() if which and fn.api_name == which), None)
        return len(found.inputs) if found and found.fn else None

    return takes


def _name_of_visitor(request: Request) -> str | None:
    """For Gradio, which hands it to handlers as ``gr.Request.username``."""
    visitor = visitor_of(request)
    return visitor.name if visitor else None

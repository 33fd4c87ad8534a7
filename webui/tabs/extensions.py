"""The Extensions tab: the state of each extension, and buttons to switch and reload it and to install its packages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import gradio as gr

from modules.errors import RepriseError, UserError
from modules.extension.loader import Extension, Loader
from modules.extension.packages import COMMAND
from modules.jobs.watchdog import read_failures
from webui.context import Page
from webui.events import AT_ONCE, LONG
from webui.html.extensions import list_html
from webui.html.status import JobProgress, status_html
from webui.i18n import t
from webui.security.auth import is_at_this_machine

logger = logging.getLogger(__name__)

TAB = "extensions"


def build(page: Page) -> None:
    """Build the tab; without extensions it says so."""
    loader = page.services.extensions
    with gr.Row(elem_id="extensions_tools"):
        names = list(loader.extensions) if loader else []
        choice = gr.Dropdown(
            names, value=next(iter(names), None), label=t("Extension"), elem_id="extensions_choice", min_width=200
        )
        enable = gr.Button(t("Switch on"), elem_id="extensions_enable", elem_classes="rp-tool", min_width=110, scale=0)
        disable = gr.Button(
            t("Switch off"), elem_id="extensions_disable", elem_classes="rp-tool", min_width=110, scale=0
        )
        reload = gr.Button(t("Reload"), elem_id="extensions_reload", elem_classes="rp-tool", min_width=110, scale=0)
        install = gr.Button(
            t("Install its packages"),
            elem_id="extensions_install",
            elem_classes="rp-tool",
            min_width=150,
            scale=0,
            visible=_lacks_packages(loader),
        )
    status = gr.HTML(status_html(JobProgress()), elem_id="extensions_status", padding=False)
    shown = gr.HTML(_shown(page), elem_id="extensions_list", padding=False)
    if loader is None:
        return

    def handler(do: Callable[[Loader, str], Extension], *, installs: bool = False) -> Any:
        async def on_click(request: gr.Request, name: Any) -> list[Any]:
            try:
                if not await asyncio.to_thread(page.services.is_admin, page.owner(request)):
                    raise UserError("extensions are the owner's to switch", hint="ask an admin of this server")
                if installs and not _may_install(page, request):
                    raise UserError(
                        "packages are installed at the server's own machine",
                        hint=f"type there: {COMMAND} {name or 'NAME'}",
                    )
                one = await asyncio.to_thread(do, loader, str(name or ""))
            except RepriseError as error:
                return [status_html(JobProgress().failed(str(error))), gr.skip(), gr.skip()]
            await asyncio.to_thread(page.services.queue.restart_worker)
            said = f"{one.name}: {one.reason or t('at work')}. "
            said += t(
                "The worker takes it up before its next job; tabs and controls change when the program is started."
            )
            return [status_html(JobProgress(notes=(said,))), _shown(page), gr.update(visible=_lacks_packages(loader))]

        return on_click

    for button, do in (
        (enable, lambda loader, name: loader.enable(name, True)),
        (disable, lambda loader, name: loader.enable(name, False)),
        (reload, lambda loader, name: loader.reload(name)),
    ):
        button.click(handler(do), choice, [status, shown, install], **AT_ONCE)
    taken = install.click(lambda: status_html(JobProgress("waiting")), None, status, **AT_ONCE)
    installing = handler(lambda loader, name: loader.install(name), installs=True)
    taken.then(installing, choice, [status, shown, install], **LONG)
    page.tabs[TAB].select(lambda: _shown(page), None, shown, **AT_ONCE)


def _lacks_packages(loader: Loader | None) -> bool:
    return loader is not None and any(one.missing for one in loader.extensions.values())


def _may_install(page: Page, request: gr.Request) -> bool:
    """Whether the click came from this machine itself, not through a proxy."""
    services = page.services
    return not (services.subpath or services.trusted_proxies) and is_at_this_machine(request.request.scope)


def _shown(page: Page) -> str:
    loader = page.services.extensions
    if loader is None:
        return list_html((), {}, ())
    failures = read_failures(page.services.data_dir / "extensions" / "failures.json")
    found = loader.extensions.values()
    return list_html(found, failures, page.services.host.modifiers_in_order(), safe_mode=loader.safe_mode)

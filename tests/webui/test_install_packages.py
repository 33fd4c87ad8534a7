"""The button that installs an extension's packages."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from starlette.requests import Request

from modules.extension.loader import Extension, Loader
from tests.modules.extension.test_loader import ROOT, write
from tests.webui.fake_server import services
from webui.context import Page
from webui.services import Services
from webui.tabs import extensions as extensions_tab

HERE = "127.0.0.1"
CASES: list[tuple[dict[str, Any], str, dict[str, str], bool, bool]] = [
    ({}, HERE, {}, True, True),
    ({}, "192.0.2.7", {}, True, False),
    ({}, HERE, {"x-forwarded-for": "192.0.2.7"}, True, False),
    ({}, HERE, {"host": "studio.example"}, True, False),
    ({"subpath": "pictures"}, HERE, {}, True, False),
    ({"trusted_proxies": (HERE,)}, HERE, {}, True, False),
    ({}, HERE, {}, False, False),
]
"""Services, address, headers, whether the visitor is an administrator, whether packages are installed."""


def test_packages_are_installed_by_admins_at_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "ext", "hungry", "def register(host): pass\n", "", 'requirements = ["rp-not-there"]\n')
    installed: list[str] = []

    def install(self: Loader, name: str) -> Extension:
        installed.append(name)
        return self.extensions[name]

    monkeypatch.setattr(Loader, "install", install)
    with services(tmp_path / "data") as given:
        loader = Loader(tmp_path / "ext", tmp_path / "data", ROOT, process="server")
        loader.load_all(given.host)
        for changes, address, headers, is_admin, may in CASES:
            monkeypatch.setattr(Services, "is_admin", lambda self, owner, admin=is_admin: admin)
            with gr.Blocks() as blocks, gr.Tabs() as frame, gr.Tab("Extensions") as tab:
                here = replace(given, extensions=loader, **changes)
                extensions_tab.build(Page(here, blocks, {}, None, frame, None, tabs={"extensions": tab}))
            (button,) = [block for block in blocks.blocks.values() if block.elem_id == "extensions_install"]
            assert button.visible
            handler = next(fn.fn for fn in blocks.fns.values() if fn.trigger_after is not None)
            sent = {"host": f"{HERE}:7860", **headers}
            scope = {
                "type": "http",
                "client": (address, 1),
                "headers": [(key.encode(), value.encode()) for key, value in sent.items()],
            }
            request: Any = SimpleNamespace(request=Request(scope), username="local")
            said = asyncio.run(handler(request, "hungry"))[0]
            assert (installed == ["hungry"]) is may, (changes, address, headers)
            assert ("ackages are installed at the server" in said) is (is_admin and not may), said
            installed.clear()

"""The panel of networks: one element for the whole page, which `assets/networks.js` fills and opens from the right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from webui.events import AT_ONCE
from webui.html.networks import panel_html
from webui.services import Services

CLICKED = "(name, ...others) => [document.documentElement.dataset.checkpoint || '', ...others]"


class NetworkPanel:
    """Renders the panel, hidden, where it is created."""

    def __init__(self, services: Services) -> None:
        gr.HTML(panel_html(services.host.file_pages()), elem_id="rp_networks_home", padding=False)
        self._name = gr.Textbox(visible="hidden")
        self._choose = gr.Button("Choose", visible="hidden", elem_id="networks_choose")

    def chosen(self, handler: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Call ``handler(name, *inputs)`` when a person clicks on a checkpoint's card."""
        self._choose.click(handler, [self._name, *inputs], list(outputs), js=CLICKED, **AT_ONCE)

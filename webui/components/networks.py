"""The panel of networks: one element for the whole page, which `assets/networks.js` fills and opens from the right."""

from __future__ import annotations

from typing import Any

import gradio as gr

from webui.events import AT_ONCE
from webui.html.networks import panel_html
from webui.services import Services

CLICKED = "() => [document.documentElement.dataset.checkpoint || '']"


class NetworkPanel:
    """Renders the panel, hidden, where it is created."""

    def __init__(self, services: Services):
        self._services = services
        gr.HTML(panel_html(), elem_id="rp_networks_home", padding=False)
        self._name = gr.Textbox(visible="hidden")
        self._choose = gr.Button("Choose", visible="hidden", elem_id="networks_choose")

    def wire(self, checkpoint: Any) -> None:
        """A click on a checkpoint's card chooses it in the header."""

        def chosen(name: Any) -> Any:
            names = list(self._services.checkpoints())
            return gr.update(choices=names, value=name) if name in names else gr.skip()

        self._choose.click(chosen, self._name, checkpoint, js=CLICKED, **AT_ONCE)

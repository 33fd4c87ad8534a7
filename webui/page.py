"""The page: a header with what holds for every tab, and the tabs of the host below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from modules.options import options_of
from modules.params import GenerationParams
from webui.controls import control
from webui.services import Services
from webui.views import header_html, worker_html

ASSETS = Path(__file__).parent / "assets"
TMP_SWEEP_S, TMP_AGE_S = 3600, 86400


@dataclass(frozen=True)
class Page:
    """What a tab is built with: the services, the page it stands on and the choices above the tabs."""

    services: Services
    blocks: Any
    checkpoint: Any
    """The checkpoint selector, which all tabs share."""

    @staticmethod
    def owner(request: Any) -> str:
        """Whose jobs a visitor sees: the account's name; without accounts all visitors are one person."""
        return getattr(request, "username", None) or "local"


class LocalBlocks(gr.Blocks):
    """Blocks whose clients cannot make the server fetch addresses: Gradio downloads a ``FileData`` whose path is one,
    whatever component it was sent to."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        refuse_addresses(inputs)
        return await super().preprocess_data(block_fn, inputs, *args, **kwargs)


def refuse_addresses(value: Any) -> None:
    """Raise for a file in a client's data that lies elsewhere than on this machine's disk."""
    if isinstance(value, Mapping):
        path = value.get("path")
        if "meta" in value and isinstance(path, str) and "://" in path:
            raise gr.Error("files are uploaded, not fetched from an address", print_exception=False)
        value = list(value.values())
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for item in value:
            refuse_addresses(item)


def build_page(services: Services) -> Any:
    """All tabs of the host on one page."""
    with LocalBlocks(
        title="Reprise", analytics_enabled=False, delete_cache=(TMP_SWEEP_S, TMP_AGE_S), fill_width=True
    ) as blocks:
        with gr.Row(elem_id="rp_header"):
            gr.HTML(header_html(services.version), elem_id="rp_brand", padding=False)
            checkpoint = control(
                options_of(GenerationParams)["checkpoint"],
                services.tables(),
                elem_id="checkpoint",
                info=None,
                container=False,
                show_label=False,
                scale=1,
                min_width=120,
            )
            refresh = gr.Button("⟳", elem_id="refresh_checkpoints", elem_classes="rp-tool", min_width=40, scale=0)
            gr.HTML(worker_html(), elem_id="rp_worker", padding=False)
        page = Page(services, blocks, checkpoint)
        with gr.Tabs(elem_id="rp_tabs"):
            for spec in services.host.tabs:
                with gr.Tab(spec.label, id=spec.name, elem_id=f"tab_{spec.name}"):
                    spec.build(page)

        def refreshed(chosen: str | None) -> Any:
            names = list(services.checkpoints())
            return gr.update(choices=names, value=chosen if chosen in names else next(iter(names), None))

        for event in (refresh.click, blocks.load):
            event(refreshed, checkpoint, checkpoint, show_progress="hidden", preprocess=False, api_visibility="private")
    return blocks


def theme() -> Any:
    """A quiet theme on the system's own fonts; style.css does the rest."""
    fonts = ["system-ui", "sans-serif"]
    mono = ["ui-monospace", "monospace"]
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
        font=fonts,
        font_mono=mono,
    )

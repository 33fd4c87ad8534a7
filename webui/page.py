"""Builds the page: the header, and below it the tabs of the host."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gradio as gr

from modules.accounts import LOCAL
from modules.errors import NotFound, RepriseError
from modules.extension.host import TabSpec
from modules.imaging.files import open_header
from modules.prompt.styles import StyleBook
from webui.choices import choices_of
from webui.components.header import Header
from webui.components.networks import NetworkPanel
from webui.components.slots import place_slots, wire_slots
from webui.context import Page, Sent, Source
from webui.events import AT_ONCE
from webui.html.status import account_html, header_html, results_of, trouble_html, worker_html
from webui.html.workbench import strip_html
from webui.i18n import Catalogue, t
from webui.loading import wire_loads
from webui.security.characters import whole
from webui.security.ownership import Files
from webui.services import Services
from webui.tabs.style_editor import StyleEditor

logger = logging.getLogger(__name__)

ASSETS = Path(__file__).parent / "assets"
TMP_SWEEP_S, TMP_AGE_S = 3600, 86400
SAFE_MODE = "two starts did not come to an end, so an extension was left out; the Extensions tab says which"


class LocalBlocks(gr.Blocks):  # type: ignore[misc]
    """Gradio Blocks hardened against clients: no value can make the server fetch a URL (Gradio downloads any
    ``FileData`` whose path is one), or name another visitor's file.
    """

    files: Files | None = None
    """The visitors' files; None: no access checks."""

    async def process_api(
        self, block_fn: Any, inputs: list[Any], state: Any = None, request: Any = None, *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        name = getattr(request, "username", None) or LOCAL
        if self.files and not self.files.are_readable(name, inputs):
            raise gr.Error("there is no such file; upload it first", print_exception=False)
        answer: dict[str, Any] = await super().process_api(block_fn, inputs, state, request, *args, **kwargs)
        answer["data"] = whole(answer["data"])
        if self.files:
            self.files.give(answer["data"], name)
        return answer

    def get_config_file(self) -> Any:
        """The page's configuration. Lone surrogates in file names are replaced, or the page could not be encoded."""
        return whole(super().get_config_file())

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        refuse_addresses(inputs)
        return await super().preprocess_data(block_fn, inputs, *args, **kwargs)


def refuse_addresses(value: Any) -> None:
    """Raise if a client's data names a file that is not on this machine's disk."""
    if isinstance(value, Mapping):
        path = value.get("path")
        if "meta" in value and isinstance(path, str) and "://" in path:
            raise gr.Error("files are uploaded, not fetched from an address", print_exception=False)
        value = list(value.values())
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for item in value:
            refuse_addresses(item)


def build_page(
    services: Services,
    catalogues: Mapping[str, Catalogue] = MappingProxyType({}),
    files: Files | None = None,
    build_tab: Callable[[Page, TabSpec], None] = lambda page, spec: spec.build(page),
) -> Any:
    """Build all tabs of the host; ``build_tab`` creates the components of one."""
    with LocalBlocks(
        title="Reprise", analytics_enabled=False, delete_cache=(TMP_SWEEP_S, TMP_AGE_S), fill_width=True
    ) as blocks:
        with gr.Row(elem_id="rp_header"):
            gr.HTML(header_html(services.version), elem_id="rp_brand", padding=False)
            header = Header(services)
            beside = gr.Row(elem_id="rp_header_slots", min_height=0) if _has_slots(services, "header") else None
            gr.HTML(worker_html(), elem_id="rp_worker", padding=False)
            gr.HTML(account_html(), elem_id="rp_account", padding=False)
        if services.extensions and services.extensions.safe_mode:
            gr.HTML(trouble_html(t(SAFE_MODE)), elem_id="rp_safe_mode", padding=False)
        if services.settings.trouble:
            gr.HTML(trouble_html(services.settings.trouble), elem_id="rp_trouble", padding=False)
        with gr.Column(elem_id="rp_home", min_width=0) as home:
            gr.HTML("", visible="hidden")
        with gr.Column(elem_id="rp_card"):
            header.card(home)
        dropped = gr.UploadButton("Read a picture", visible="hidden", elem_id="rp_dropped", file_types=["image"])
        with gr.Tabs(elem_id="rp_tabs", overflow_behavior="wrap") as frame:  # in one row that scrolls: workbench.css
            page = Page(services, blocks, header.shared, dropped, frame, home, files=files)
            for spec in services.host.tabs:
                with gr.Tab(spec.label, id=spec.name, elem_id=f"tab_{spec.name}") as tab:
                    page.tabs[spec.name] = tab
                    build_tab(page, spec)
        gr.HTML(strip_html(), elem_id="rp_strip_home", padding=False)
        networks = NetworkPanel(services)
        if page.style_doors:
            StyleEditor(StyleBook(services.styles_path)).wire(page.style_doors)
        if beside:
            with beside:
                place_slots(page, "header")
        wire_slots(page)
        wire_sends(page)
        header.wire(page, networks)
        wire_loads(blocks, [*page.loads, *choices_of(blocks, catalogues)])
    blocks.files = files
    return blocks


def _has_slots(services: Services, place: str) -> bool:
    return any(spec.place == place for spec in services.host.slots)


def wire_sends(page: Page) -> None:
    """Connect every source's buttons to every target."""
    views = [Source(view.send, _result(page), [view.shown, view.chosen]) for view in page.views.values()]
    outputs = [page.frame, *(output for target in page.targets.values() for output in target.outputs)]
    # Those above the tabs are part of several forms.
    places = list({id(output): output for output in outputs}.values())
    for source in (*views, *page.sources):
        source.buttons.wish.change(
            _sender(page, source, places), [source.buttons.wish, *source.inputs], places, **AT_ONCE
        )


def _sender(page: Page, source: Source, places: Sequence[Any]) -> Any:
    async def on_send(request: gr.Request, wish: Any, *values: Any) -> list[Any]:
        name = str(wish or "").partition(" ")[0]
        target = page.targets.get(name)
        try:
            sent = await source.find(request, *values) if target else None
            if target and sent is not None:
                size = await asyncio.to_thread(lambda: open_header(sent.path).size)
                filled = dict(zip(map(id, target.outputs), target.shown(sent, size), strict=True))
                filled[id(page.frame)] = gr.update(selected=name)
                return [filled.get(id(place), gr.skip()) for place in places]
        except RepriseError:
            logger.warning("a picture that was to be sent cannot be read")
        return [gr.skip()] * len(places)

    return on_send


def _result(page: Page) -> Any:
    """The image in view of a generation tab: a job, and the index of one of its results."""

    async def find(request: Any, job_id: Any, chosen: Any) -> Sent | None:
        try:
            job = await asyncio.to_thread(page.services.queue.get, job_id=str(job_id or ""), owner=page.owner(request))
        except NotFound:
            return None
        results = results_of(job)
        if not (isinstance(chosen, int) and 0 <= chosen < len(results)):
            return None
        made, params = results[chosen], dict(job.spec.get("params") or {})
        if "prompt" not in params:  # what Extras did is no request
            return Sent(Path(made.path), {})
        return Sent(Path(made.path), params | ({"seed": made.seed} if made.seed is not None else {}))

    return find


def theme() -> Any:
    """The Gradio theme: quiet colours, system fonts. Layout is in style.css, which uses these colours."""
    base = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        text_size=gr.themes.sizes.text_md,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
    return base.set(**LOOK)


LOOK: dict[str, str] = {
    "body_background_fill": "#f5f5f2",
    "body_background_fill_dark": "#131416",
    "background_fill_primary": "#ffffff",
    "background_fill_primary_dark": "#1b1d20",
    "background_fill_secondary": "#f0f0ec",
    "background_fill_secondary_dark": "#17191b",
    "body_text_color": "#23241f",
    "body_text_color_dark": "#e7e6e1",
    "body_text_color_subdued": "#66675f",
    "body_text_color_subdued_dark": "#a3a39b",
    "border_color_primary": "#dddcd5",
    "border_color_primary_dark": "#313439",
    "border_color_accent": "#1f6f65",
    "border_color_accent_dark": "#58c3b3",
    "color_accent": "#1f6f65",
    "color_accent_soft": "#dcebe8",
    "color_accent_soft_dark": "#1d3a36",
    "link_text_color": "#1f6f65",
    "link_text_color_dark": "#58c3b3",
    "block_background_fill": "transparent",
    "block_background_fill_dark": "transparent",
    "block_border_width": "0px",
    "block_border_width_dark": "0px",
    "block_padding": "0px",
    "block_label_text_color": "#66675f",
    "block_title_text_color": "#4a4b45",
    "block_title_text_color_dark": "#bdbcb4",
    "block_title_text_size": "13px",
    "block_title_text_weight": "500",
    "block_info_text_color": "#66675f",
    "block_info_text_color_dark": "#96968e",
    "block_info_text_size": "12px",
    "block_shadow": "none",
    "input_background_fill": "#ffffff",
    "input_background_fill_dark": "#202327",
    "input_background_fill_focus": "#ffffff",
    "input_background_fill_focus_dark": "#202327",
    "input_border_color": "#d8d7cf",
    "input_border_color_dark": "#373b41",
    "input_border_color_focus": "#1f6f65",
    "input_border_color_focus_dark": "#58c3b3",
    "input_border_width": "1px",
    "input_border_width_dark": "1px",
    "input_shadow": "none",
    "input_shadow_focus": "0 0 0 3px #1f6f6526",
    "input_shadow_focus_dark": "0 0 0 3px #58c3b333",
    "input_padding": "8px 10px",
    "input_placeholder_color": "#7b7c74",
    "input_placeholder_color_dark": "#85857d",
    "slider_color": "#1f6f65",
    "slider_color_dark": "#58c3b3",
    "checkbox_background_color_selected": "#1f6f65",
    "checkbox_background_color_selected_dark": "#58c3b3",
    "button_primary_background_fill": "#1f6f65",
    "button_primary_background_fill_hover": "#185a52",
    "button_primary_background_fill_dark": "#58c3b3",
    "button_primary_background_fill_hover_dark": "#70d2c3",
    "button_primary_text_color": "#ffffff",
    "button_primary_text_color_dark": "#0b2320",
    "button_primary_border_color": "transparent",
    "button_primary_border_color_dark": "transparent",
    "button_secondary_background_fill": "#ffffff",
    "button_secondary_background_fill_hover": "#eeeee9",
    "button_secondary_background_fill_dark": "#25282c",
    "button_secondary_background_fill_hover_dark": "#2f3338",
    "button_secondary_text_color": "#33342e",
    "button_secondary_text_color_dark": "#dcdbd5",
    "button_secondary_border_color": "#d8d7cf",
    "button_secondary_border_color_dark": "#3a3e44",
    "button_border_width": "1px",
    "button_transition": "background-color .12s, border-color .12s",
    "button_large_text_weight": "600",
    "panel_background_fill": "transparent",
    "panel_background_fill_dark": "transparent",
    "panel_border_width": "0px",
    "layout_gap": "14px",
    "form_gap_width": "0px",
}

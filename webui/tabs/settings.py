"""The Settings tab: the owner's settings and those of extensions, built from their declarations, and the settings of
this browser.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr

from modules.errors import RepriseError, UserError
from modules.params.options import Shape, options_of, values_of
from modules.params.settings import Settings
from webui.context import Page
from webui.events import AT_ONCE, QUIET
from webui.fields import Fields
from webui.forms import Form
from webui.html.status import JobProgress, browser_settings_html, status_html
from webui.i18n import t
from webui.loading import Load

SHOW_THEME = "(theme) => { window.reprise?.theme(theme) }"


def build(page: Page) -> None:
    """Lay out the tab and wire it."""
    settings, fields = page.services.settings, page.fields("settings")
    form = Form(Shape(Settings), page.services.tables(), fields=fields)
    options = options_of(Settings)
    with gr.Column(elem_id="settings_body"):
        with gr.Row(elem_id="settings_tools"):
            gr.Textbox(
                label=t("Search"),
                placeholder=t("Search the settings"),
                show_label=False,
                container=False,
                elem_id="settings_search",
                scale=1,
            )
            save = gr.Button(t("Save settings"), variant="primary", elem_id="settings_save", scale=0, min_width=140)
        said = gr.HTML(status_html(JobProgress()), elem_id="settings_said", padding=False)
        with fields.panel():
            for group in dict.fromkeys(option.group for option in options.values()):
                fields.put(f'<div class="rp-settings-group"><h4>{escape(t(group))}</h4>')
                for name, option in options.items():
                    if option.group == group:
                        _add(form, name, locked=name in settings.locked)
                fields.put("</div>")
        places, parts = [], []
        for name, cls in page.services.host.settings.items():
            with gr.Column(elem_classes="rp-settings-part") as place:
                parts.append((name, _part(page, fields, name, cls)))
            places.append(place)
        gr.HTML(browser_settings_html(), elem_id="settings_browser", elem_classes="rp-settings-group", padding=False)
    theme = gr.Textbox(visible="hidden", elem_id="settings_chosen_theme")

    def on_load(request: gr.Request) -> list[Any]:
        now, is_admin = settings.current(), page.services.is_admin(page.owner(request))
        values = form.own(values_of(now))
        if is_admin:  # extensions keep here what is for nobody else: keys, addresses
            for name, part in parts:
                values |= part.own(_shown(part, settings.part(name)))
        return [fields.begin(values), *(gr.update(visible=is_admin) for _ in places), now.theme]

    def on_save(request: gr.Request, state: Any) -> list[Any]:
        try:
            if not page.services.is_admin(page.owner(request)):
                raise UserError("settings are for administrators to change")
            chosen = form.read([state])
            read = [(name, _kept(part, values_of(part.read([state])), settings.part(name))) for name, part in parts]
            now = settings.change(values_of(chosen))
            for name, said_of_it in read:
                settings.change_part(name, said_of_it)
        except RepriseError as error:
            return [status_html(JobProgress().failed(str(error), error.field)), gr.skip()]
        return [status_html(JobProgress(notes=(t("the settings are saved"),))), now.theme]

    fields.wire()
    page.loads.append(Load(on_load, (), [fields.given, *places, theme]))
    save.click(on_save, fields.state, [said, theme], **AT_ONCE)
    theme.change(None, theme, None, js=SHOW_THEME, **QUIET)


def _shown(part: Form[Any], kept: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an extension's settings as sent to the page: secrets are left out."""
    return {name: "" if name in part.options and part.options[name].secret else kept[name] for name in kept}


def _kept(part: Form[Any], said: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The values to store: an empty secret keeps the old one, a blank one deletes it."""
    new = dict(said)
    for name, option in part.options.items():
        if option.secret and name in new:
            old = before.get(name, option.default)
            new[name] = new[name].strip() if new[name] else old
    return new


def _add(form: Form[Settings], name: str, *, locked: bool) -> None:
    facts: dict[str, Any] = {"elem_id": f"settings_{name}", "elem_classes": "rp-setting"}
    if locked:
        facts |= {"interactive": False, "info": t("Locked: the command line fixes it")}
    form.add(name, **facts)


def _part(page: Page, fields: Fields, name: str, cls: type) -> Form[Any]:
    """The settings of an extension, under its name."""
    form: Form[Any] = Form(Shape(cls), page.services.tables(), fields=fields, prefix=f"{name}.")
    with fields.panel():
        fields.put(f'<div class="rp-settings-group"><h4 translate="no">{escape(name)}</h4>')
        fields.put(f"<p>{escape(t('Of an extension; a change holds from the next start on.'))}</p>")
        for option in form.options:
            form.add(option, elem_id=f"settings_{name}_{option}", elem_classes="rp-setting")
        fields.put("</div>")
    return form

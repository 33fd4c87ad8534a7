"""The Settings tab: the owner's settings and those of extensions, built from their declarations, and the settings of
this browser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from modules.errors import RepriseError, UserError
from modules.params.options import Shape, options_of, values_of
from modules.params.settings import Settings
from webui.context import Page
from webui.events import AT_ONCE, QUIET
from webui.forms import Form
from webui.html.status import JobProgress, browser_settings_html, status_html
from webui.i18n import t

SHOW_THEME = "(theme) => { window.reprise?.theme(theme) }"


def build(page: Page) -> None:
    """Lay out the tab and wire it."""
    settings, form = page.services.settings, Form(Shape(Settings), page.services.tables())
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
        for group in dict.fromkeys(option.group for option in options.values()):
            with gr.Column(elem_classes="rp-settings-group"):
                gr.Markdown(f"#### {t(group)}")
                for name, option in options.items():
                    if option.group == group:
                        _add(form, name, locked=name in settings.locked)
        places, parts = [], []
        for name, cls in page.services.host.settings.items():
            with gr.Column(elem_classes="rp-settings-group") as place:
                parts.append((name, _part(page, name, cls)))
            places.append(place)
        gr.HTML(browser_settings_html(), elem_id="settings_browser", elem_classes="rp-settings-group", padding=False)
    theme = gr.Textbox(visible="hidden", elem_id="settings_chosen_theme")

    def on_load(request: gr.Request) -> list[Any]:
        now, is_admin = settings.current(), page.services.is_admin(page.owner(request))
        others = [gr.skip()] * sum(len(part.components) for _, part in parts)
        if is_admin:  # extensions keep here what is for nobody else: keys, addresses
            others = [value for name, part in parts for value in part.begin(_shown(part, settings.part(name)))]
        others += [gr.update(visible=is_admin) for _ in places]
        return [*form.begin(values_of(now)), *others, now.theme]

    def on_save(request: gr.Request, *values: Any) -> list[Any]:
        try:
            if not page.services.is_admin(page.owner(request)):
                raise UserError("settings are for administrators to change")
            chosen, rest = form.read(values[: len(form.components)]), list(values[len(form.components) :])
            read = []
            for name, part in parts:
                own, rest = rest[: len(part.components)], rest[len(part.components) :]
                read.append((name, _kept(part, values_of(part.read(own)), settings.part(name))))
            now = settings.change(values_of(chosen))
            for name, said_of_it in read:
                settings.change_part(name, said_of_it)
        except RepriseError as error:
            return [status_html(JobProgress().failed(str(error), error.field)), gr.skip()]
        return [status_html(JobProgress(notes=(t("the settings are saved"),))), now.theme]

    components = [*form.components, *(component for _, part in parts for component in part.components)]
    loaded = page.blocks.load(on_load, None, [*components, *places, theme], **AT_ONCE)
    saved = save.click(on_save, components, [said, theme], **AT_ONCE)
    for event in (loaded, saved):
        event.then(None, theme, None, js=SHOW_THEME, **QUIET)


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


def _part(page: Page, name: str, cls: type) -> Form[Any]:
    """The settings of an extension, under its name."""
    form: Form[Any] = Form(Shape(cls), page.services.tables())
    gr.Markdown(f"#### {name}")
    gr.Markdown(t("Of an extension; a change holds from the next start on."))
    for option in form.options:
        form.add(option, elem_id=f"settings_{name}_{option}", elem_classes="rp-setting")
    return form

"""Fills forms from metadata: from an image file, or from infotext in the prompt box (A1111's arrow)."""

from __future__ import annotations

from typing import Any

from modules.errors import RepriseError
from modules.params.generation import GenerationParams
from webui.context import Page
from webui.events import AT_ONCE
from webui.forms import Form
from webui.html.status import JobProgress, status_html
from webui.recorded import kept, settings_in_file, settings_of, settings_of_text

__all__ = ["kept", "settings_in_file", "settings_of", "settings_of_text", "wire_paste"]


def wire_paste(page: Page, form: Form[GenerationParams], button: Any, infotext: Any, status: Any) -> None:
    """Let ``button`` read the prompt box or, if that is empty, the last ``infotext``."""

    def on_paste(prompt: Any, last: Any) -> list[Any]:
        text = next((given for given in (prompt, last) if isinstance(given, str) and given.strip()), "")
        if not text:
            hint = "paste a generation text into the prompt box first"
            return [*form.show({}), status_html(JobProgress().failed(hint))]
        try:
            paste = kept(page.services, settings_of_text(page.services, text))
        except RepriseError as error:
            return [*form.show({}), status_html(JobProgress().failed(str(error)))]
        return [
            *form.show(paste.changes),
            status_html(JobProgress(notes=("settings were read from the text", *paste.notes))),
        ]

    button.click(on_paste, [form["prompt"], infotext], [*form.outputs, status], **AT_ONCE)

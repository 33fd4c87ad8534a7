"""Settings on their way into a form: from a picture's texts, or from the prompt box, as A1111's arrow reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from modules.checkpoints.vaes import AUTOMATIC, OWN
from modules.errors import RepriseError
from modules.infotext import Paste, read
from modules.metadata import Metadata, settings_in
from modules.params import GenerationParams
from webui.context import Page
from webui.controls import Form
from webui.events import AT_ONCE
from webui.services import Services
from webui.views import Run, status_html


def settings_of(services: Services, found: Metadata) -> Paste:
    """What a picture's texts ask for, with the names of our own samplers and checkpoints."""

    def find_checkpoint(name: str, sha256: str) -> str | None:
        wanted = name.rpartition("/")[2].casefold()
        return next((ours for ours in services.checkpoints() if ours.rpartition("/")[2].casefold() == wanted), None)

    def find_vae(name: str, sha256: str) -> str | None:
        """A pickle may have been converted since."""
        if name in (AUTOMATIC, OWN):
            return name
        wanted = name.casefold(), f"{name.rpartition('.')[0]}.safetensors".casefold()
        return next((ours for ours in services.vaes() if ours.casefold() in wanted), None)

    host = services.host
    paste = settings_in(found, host.samplers, host.schedulers, find_checkpoint, find_vae, host.modifiers)
    return replace(paste, notes=(*paste.notes, *_lost_embeddings(services, found, paste)))


def _lost_embeddings(services: Services, found: Metadata, paste: Paste) -> Iterator[str]:
    """On each embedding that the text names and the model has not."""
    told = str(read(found["infotext"] or found["stealth_infotext"] or "").get("TI hashes", ""))
    suited = services.embeddings(str(paste.changes.get("checkpoint", "")))
    here = {re.sub("[:,]", "", file.name).casefold() for file in suited.files}
    for name in filter(None, (entry.partition(":")[0].strip() for entry in told.split(","))):
        if name.casefold() not in here:
            yield f"there is no embedding {name} for this model here"


def settings_of_text(services: Services, text: str) -> Paste:
    return settings_of(services, {"infotext": text, "recipe": None, "items": {}, "stealth_infotext": None})


def settings_in_file(services: Services, found: Metadata) -> dict[str, Any]:
    """The settings that a picture's texts tell, none where they tell nothing."""
    if not (found["infotext"] or found["recipe"] or found["stealth_infotext"]):
        return {}
    return dict(settings_of(services, found).changes)


def wire_paste(page: Page, form: Form[GenerationParams], button: Any, infotext: Any, status: Any) -> None:
    """``button`` reads the prompt box, or where that is empty the last ``infotext``."""

    def on_paste(prompt: Any, last: Any) -> list[Any]:
        text = next((given for given in (prompt, last) if isinstance(given, str) and given.strip()), "")
        if not text:
            hint = "paste a generation text into the prompt box first"
            return [*form.show({}), status_html(Run().failed(hint))]
        try:
            paste = settings_of_text(page.services, text)
        except RepriseError as error:
            return [*form.show({}), status_html(Run().failed(str(error)))]
        return [*form.show(paste.changes), status_html(Run(notes=("settings were read from the text", *paste.notes)))]

    button.click(on_paste, [form["prompt"], infotext], [*form.components, status], **AT_ONCE)

"""Pictures on their way from anywhere to anywhere: a `Source` has buttons and says which picture is meant, a `Target`
is a tab that takes one. Each source's buttons lead to every target."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from webui.i18n import t

if TYPE_CHECKING:
    from modules.params import GenerationParams
    from webui.controls import Form

logger = logging.getLogger(__name__)

ALONG = (
    "prompt",
    "negative_prompt",
    "sampler",
    "scheduler",
    "steps",
    "cfg_scale",
    "clip_skip",
    "vae",
)
"""What goes along with a picture."""
TARGETS = {"txt2img": "txt2img", "img2img": "img2img", "inpaint": "Inpaint", "extras": "Extras"}
"""Tabs that take something, and what they are called."""


@dataclass(frozen=True)
class Sent:
    """A picture that is sent, and the settings that made it, as far as they are known."""

    path: Path
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """``find(request, *values) -> Sent`` for the values of ``inputs``; None where there is no picture."""

    buttons: Mapping[str, Any]
    find: Callable[..., Awaitable[Sent | None]]
    inputs: Sequence[Any]


@dataclass(frozen=True)
class Target:
    """A tab that takes a picture into ``component``, as ``value(path)``, or its settings alone."""

    form: Form[GenerationParams] | None = None
    component: Any = None
    value: Callable[[str], Any] = str

    @property
    def outputs(self) -> list[Any]:
        return [*([self.component] if self.component else []), *(self.form.components if self.form else [])]

    def shown(self, sent: Sent, size: tuple[int, int]) -> list[Any]:
        """What ``outputs`` become: all settings where the picture itself is not taken, else those that suit it."""
        taken = [self.value(str(sent.path))] if self.component else []
        if self.form is None:
            return taken
        if not self.component:
            return self.form.show({key: value for key, value in sent.params.items() if key != "init"})
        width, height = (min(side, 2048) // 8 * 8 for side in size)
        params = {key: value for key, value in sent.params.items() if key in ALONG}
        return [*taken, *self.form.show(params | {"width": width, "height": height})]


def send_buttons(prefix: str) -> dict[str, Any]:
    """A button for each target, to be rendered where they belong."""
    return {
        name: gr.Button(
            f"→ {t(label)}", elem_id=f"{prefix}_to_{name}", elem_classes="rp-tool", min_width=60, scale=0, render=False
        )
        for name, label in TARGETS.items()
    }


def shown(path: str) -> str:
    """What the field of a canvas is given to show a picture of the outputs; never twice the same."""
    return json.dumps({"shown": path, "number": secrets.token_hex(4)})


def uploaded(value: Any) -> Path | None:
    """The file behind a component's value: only one that was uploaded, in Gradio's own folder."""
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str) or "\0" in path or not os.environ.get("GRADIO_TEMP_DIR"):
        return None
    home, found = Path(os.environ["GRADIO_TEMP_DIR"]).resolve(), Path(path).resolve()
    if not found.is_relative_to(home) or not found.is_file():
        logger.warning("a page named a file that it had not uploaded")
        return None
    return found

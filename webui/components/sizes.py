"""Width and height controls: swap, aspect ratios, aspect lock, and the checkpoint's native sizes."""

from __future__ import annotations

from typing import Any

import gradio as gr

from modules.params.generation import GenerationParams
from webui.context import Page
from webui.events import AT_ONCE, QUIET
from webui.forms import Form
from webui.i18n import t

SHAPES = ("1:1", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16")
NATIVE = {"square": (1.0, 1.0), "portrait": (1.0, 1.5), "landscape": (1.5, 1.0), "large": (1.5, 1.5)}
"""Sizes in parts of the side that a checkpoint was trained for."""
GRID = 8
"""Pixels; the sides are multiples of it."""


class SizeTools:
    """Width and height with their tools, rendered where it is created."""

    def __init__(self, page: Page, form: Form[GenerationParams], tab: str):
        size = page.services.native_size("")
        with gr.Row(elem_classes="rp-size"):
            with gr.Column(min_width=180):
                sides = [form.add(side, value=size, elem_id=f"{tab}_{side}") for side in ("width", "height")]
            swap = gr.Button("⇅", elem_id=f"{tab}_swap", elem_classes="rp-tool", min_width=40, scale=0)
        with gr.Row(elem_classes="rp-shapes", elem_id=f"{tab}_shapes"):
            shapes = [self._chip(shape, f"{tab}_shape_{shape.replace(':', '_')}") for shape in SHAPES]
            lock = gr.Checkbox(
                False, label=t("Keep shape"), elem_id=f"{tab}_keep_shape", container=False, min_width=90, scale=0
            )
        with gr.Row(elem_classes="rp-shapes", elem_id=f"{tab}_natives"):
            labels = (t("Model's square"), t("Portrait"), t("Landscape"), t("1.5 times"))
            natives = [self._chip(label, f"{tab}_{name}") for label, name in zip(labels, NATIVE, strict=True)]

        told = [*sides, lock]
        swap.click(None, sides, sides, js="(width, height) => [height, width]", **QUIET)
        for shape, button in zip(SHAPES, shapes, strict=True):
            js = f"(width, height) => window.reprise.shaped('{tab}', '{shape}', width, height)"
            button.click(None, sides, sides, js=js, **QUIET)
        for name, button in zip(NATIVE, natives, strict=True):
            button.click(_sized(page, *NATIVE[name]), form["checkpoint"], sides, **AT_ONCE)
        lock.change(None, told, None, js=f"(...args) => window.reprise.keepShape('{tab}', ...args)", **QUIET)
        for side, other in (sides, sides[::-1]):
            js = f"(...args) => window.reprise.follow('{tab}', '{other.elem_id}', ...args)"
            side.input(None, told, other, js=js, **QUIET)

    def _chip(self, label: str, elem_id: str) -> Any:
        return gr.Button(label, elem_id=elem_id, elem_classes="rp-chip-button", size="sm", min_width=20, scale=0)


def _sized(page: Page, width: float, height: float) -> Any:
    def on_click(checkpoint: Any) -> list[int]:
        return native_sides(page.services.native_size(str(checkpoint or "")), width, height)

    return on_click


def native_sides(native: int, width: float, height: float) -> list[int]:
    """A size given in units of a checkpoint's native side, rounded to the grid.

    >>> native_sides(512, *NATIVE["landscape"]), native_sides(128, *NATIVE["large"])
    ([768, 512], [192, 192])
    """
    return [round(native * part / GRID) * GRID for part in (width, height)]

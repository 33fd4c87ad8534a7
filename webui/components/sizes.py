"""Width and height controls: swap, aspect ratios, aspect lock, and the checkpoint's native sizes."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from modules.params.generation import GenerationParams
from webui.context import Page
from webui.forms import Form
from webui.html.controls import do_button
from webui.i18n import t

SHAPES = ("1:1", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16")
NATIVE = {"square": (1.0, 1.0), "portrait": (1.0, 1.5), "landscape": (1.5, 1.0), "large": (1.5, 1.5)}
"""Sizes in parts of the side that a checkpoint was trained for."""
GRID = 8
"""Pixels; the sides are multiples of it."""
CHIP = "rp-chip-button"


def size_tools(page: Page, form: Form[GenerationParams], tab: str) -> None:
    """Width and height with their tools, in the open panel."""
    fields = form.fields
    assert fields
    size = page.services.native_size("")
    with fields.row("rp-size"):
        fields.put(f'<span class="rp-name">{escape(t("Size"))}</span>')
        form.add("width", value=size, elem_id=f"{tab}_width")
        fields.put(do_button("swap", "⇄", f"{tab}_swap", title=t("Swap width and height")))
        form.add("height", value=size, elem_id=f"{tab}_height")
    fields.put(f'<div class="rp-shapes" id="{tab}_shapes" role="group" aria-label="{escape(t("Shape"))}">')
    for shape in SHAPES:
        fields.put(do_button(f"shape {shape}", shape, f"{tab}_shape_{shape.replace(':', '_')}", CHIP))
    lock = escape(t("Keep shape"))
    fields.put(f'<label id="{tab}_keep_shape"><input type="checkbox" data-act="keep"><span>{lock}</span></label></div>')
    fields.put(f'<div class="rp-shapes" id="{tab}_natives" role="group" aria-label="{escape(t("Native size"))}">')
    labels = (t("Model's square"), t("Portrait"), t("Landscape"), t("1.5 times"))
    for name, label in zip(NATIVE, labels, strict=True):
        fields.put(do_button(f"native {name}", label, f"{tab}_{name}", CHIP))
    fields.put("</div>")

    def sized(request: Any, wish: Mapping[str, Any], values: Mapping[str, Any], checkpoint: Any) -> dict[str, int]:
        part = NATIVE.get(str(wish.get("name")), NATIVE["square"])
        width, height = native_sides(page.services.native_size(str(checkpoint or "")), *part)
        return {"width": width, "height": height}

    fields.answer("native", sized, [form["checkpoint"]])


def native_sides(native: int, width: float, height: float) -> list[int]:
    """A size given in units of a checkpoint's native side, rounded to the grid.

    >>> native_sides(512, *NATIVE["landscape"]), native_sides(128, *NATIVE["large"])
    ([768, 512], [192, 192])
    """
    return [round(native * part / GRID) * GRID for part in (width, height)]

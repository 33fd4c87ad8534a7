"""A button in each tab that shows what a unit's preprocessor makes of its picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from modules import Host, UserError

from . import hints
from .preprocessors import preprocessed
from .registry import LABELS

TABS = ("txt2img", "img2img", "inpaint")
_FIELDS = ("image", "mask", "module", "processor_res", "threshold_a", "threshold_b", "pixel_perfect", "resize_mode")


def add_previews(host: Host, count: int) -> None:
    for tab in TABS:
        host.slot(f"{tab}.parameters", lambda slot: _build(slot, count))


def fields_of(number: int) -> Sequence[str]:
    return [f"ext.controlnet.units_{number}_{name}" for name in _FIELDS]


def _build(slot: Any, count: int) -> None:
    import gradio as gr

    with gr.Row():
        labels = [f"Unit {number}" for number in range(1, count + 1)]
        unit = gr.Dropdown(labels, value=labels[0], label="ControlNet unit", min_width=120)
        button = gr.Button("Preview its preprocessor", size="sm")
    shown = gr.HTML("", padding=False)

    def show(values: Mapping[str, Any], chosen: str) -> tuple[None, str]:
        number = labels.index(chosen) + 1 if chosen in labels else 1
        prefix = f"ext.controlnet.units_{number}_"
        own = {name: values[f"{prefix}{name}"] for name in _FIELDS}
        return None, preview(slot, own, (int(values["width"]), int(values["height"])))

    needed = [name for number in range(1, count + 1) for name in fields_of(number)]
    slot.on(button.click, show, [unit], [shown], fields=["width", "height", *needed])


def preview(slot: Any, unit: Mapping[str, Any], size: tuple[int, int]) -> str:
    """HTML of the preprocessed picture. Raises `UserError`."""
    if not unit["image"]:
        raise UserError("the unit has no image", hint="choose one in its section")
    module = LABELS[unit["module"]]
    mask = slot.stored(unit["mask"]) if unit["mask"] and module.takes_mask else None
    x = hints.with_mask(slot.stored(unit["image"]), mask)
    x = x if mask is not None else x[..., :3]
    resolution = float(unit["processor_res"])
    if unit["pixel_perfect"] and module.resolution:
        width, height = size
        resolution = hints.pixel_perfect(x.shape[0], x.shape[1], height, width, unit["resize_mode"])
    found = preprocessed(module, x, resolution, float(unit["threshold_a"]), float(unit["threshold_b"]))
    return f'<img alt="{escape(module.label)}" style="max-width: 100%" src="data:image/png;base64,{encoded(found)}">'


def encoded(x: hints.Pixels) -> str:
    """A picture as PNG in base64; a mask shows as what is see-through."""
    from PIL import Image

    if x.shape[2] == 4:
        x = x.copy()
        x[..., 3] = 255 - x[..., 3] // 2
    file = io.BytesIO()
    Image.fromarray(x).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")

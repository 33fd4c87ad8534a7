"""The drawing canvas: its HTML, and its value as read by handlers.

The canvas is HTML of our own and `assets/canvas.js`. Its value is JSON in a hidden field, ``{"picture": {"path": path},
"strokes": {"path": path}, "mode": mode}``, where both are uploads; handlers read it with `Painting.read`, to which
`Page.uploads` gives those of the visitor.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from modules.errors import UserError
from modules.imaging.files import open_image
from modules.imaging.masks import grey_mask, inpaint_sketch, sketched
from webui.events import QUIET
from webui.i18n import t
from webui.security.guard import MAX_BODY

MASK, COLOURS, VIEW = "mask", "colours", "view"
ROOM = 4096
"""Bytes of an upload's body besides the file itself."""
LOADED = "document.dispatchEvent(new CustomEvent('reprise:canvas', { detail: element }))"
SENT = (
    "(value) => {{ document.dispatchEvent(new CustomEvent('reprise:sent', {{ detail: {{ tab: '{tab}', value }} }})) }}"
)
SETTLED = "async (...values) => window.repriseCanvas ? window.repriseCanvas('{tab}', {index}, values) : values"
PALETTE = {
    "Black": "#000000",
    "White": "#ffffff",
    "Grey": "#7f7f7f",
    "Red": "#d93a2b",
    "Orange": "#f0a01e",
    "Yellow": "#f5e04a",
    "Green": "#3d9a4b",
    "Blue": "#2f6fd0",
    "Violet": "#7a4ab8",
    "Brown": "#a8703f",
}

ICONS = {
    "brush": "M3 17c3 0 4-1 4-3 0-1.7 1-2.5 2-2.5M9 11.5 16.5 3.5M9 11.5a2 2 0 0 1 1 2",
    "eraser": "M7 16.5h9M3.5 12.5l8-8 4.5 4.5-7.5 7.5H7zM7.5 8.5l4.5 4.5",
    "hand": "M10 3v14M3 10h14M8 5l2-2 2 2M8 15l2 2 2-2M5 8l-2 2 2 2M15 8l2 2-2 2",
    "pick": "M4 16l1-3 6.5-6.5 2 2L7 15zM10.5 5.5l4 4M13 7l2-2a1.4 1.4 0 0 0-2-2l-2 2",
    "undo": "M7 4 3.5 7.5 7 11M3.5 7.5H12a4.5 4.5 0 0 1 0 9H8",
    "redo": "M13 4l3.5 3.5L13 11M16.5 7.5H8a4.5 4.5 0 0 0 0 9h4",
    "clear": "M4 5.5h12M8 5.5V3.5h4v2M5.5 5.5l.7 11h7.6l.7-11M8.5 8.5v5M11.5 8.5v5",
    "fill": "M4 9.5 10 3.5l6 6-6 6zM4 9.5h12M17 13c1 1.6 1 3 0 3s-1-1.4 0-3",
    "invert": "M10 3a7 7 0 1 0 0 14zM10 3a7 7 0 0 1 0 14",
    "mask-file": "M4 13v3.5h12V13M10 3.5v9M6.5 7 10 3.5 13.5 7",
    "fit": "M3.5 7V3.5H7M13 3.5h3.5V7M16.5 13v3.5H13M7 16.5H3.5V13",
}


class Canvas:
    """The canvas of a tab. ``field`` holds its value: an input of handlers, and an output of those that send an
    image there (`send.shown`).
    """

    def __init__(self, tab: str, *modes: str):
        self.tab = tab
        gr.HTML(canvas_html(tab, modes), js_on_load=LOADED, elem_id=f"{tab}_image", padding=False)
        self.field = gr.Textbox(visible="hidden", elem_id=f"{tab}_canvas")
        self.field.change(None, self.field, js=SENT.format(tab=tab), **QUIET)

    def settled(self, inputs: Sequence[Any]) -> str:
        """The ``js`` of an event that reads the field in ``inputs``: it waits until all strokes are uploaded."""
        index = next(number for number, component in enumerate(inputs) if component is self.field)
        return SETTLED.format(tab=self.tab, index=index)


@dataclass(frozen=True)
class Painting:
    """The content of a canvas, from files that this visitor uploaded. ``strokes`` has the size of ``picture``."""

    path: Path
    picture: Image.Image
    """RGB or RGBA, upright."""
    strokes: Image.Image | None
    """RGBA, or RGB in mode `MASK`: there, white is masked."""
    mode: str

    @classmethod
    def read(cls, value: Any, find: Callable[[Any], Path | None]) -> Painting:
        """Read a field's value, whose files ``find`` looks up; raises `UserError` if there is no image, `ImageError`
        if it is invalid.
        """
        said = _said(value)
        if isinstance(problem := said.get("problem"), str):
            raise UserError(problem, hint="try again", field="init.image")
        path = find(said.get("picture"))
        if path is None:
            raise UserError(
                "there is no start picture", hint="drop one onto the page or choose one", field="init.image"
            )
        picture, strokes = open_image(path), None
        if (painted := find(said.get("strokes"))) is not None:
            strokes = open_image(painted)
            if strokes.size != picture.size:
                hint = "save the picture upright and choose it again"
                raise UserError("what is painted is not as large as the picture", hint=hint, field="init.mask.image")
        return cls(path, picture, strokes, str(said.get("mode")))

    def start(self) -> Image.Image:
        """The init image: the picture with the strokes that belong to it."""
        if self.strokes is None or self.mode != COLOURS:
            return self.picture
        return sketched(self.picture, self.strokes)

    def inpainted(self, blur: float) -> tuple[Image.Image, Image.Image]:
        """Init image and mask; raises `UserError` if nothing is painted. ``blur``: the mask's, in pixels."""
        if self.strokes is None:
            raise UserError("nothing is masked", hint="paint over what should change", field="init.mask.image")
        if self.mode == COLOURS:
            return inpaint_sketch(self.picture, self.strokes, blur)
        return self.picture, grey_mask(self.strokes)


def chosen(value: Any, find: Callable[[Any], Path | None]) -> Path | None:
    """The file of the image on a canvas, if one was uploaded."""
    return find(_said(value).get("picture"))


def _said(value: Any) -> Mapping[str, Any]:
    try:
        said = json.loads(value)
    except (ValueError, TypeError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def canvas_html(tab: str, modes: tuple[str, ...]) -> str:
    """The HTML of a tab's canvas and its tools. Tools of one mode have it in ``data-of``; the style sheet shows
    them.
    """
    words = json.dumps(_words())
    facts = f'data-tab="{escape(tab)}" data-mode="{modes[0]}" data-max-bytes="{MAX_BODY - ROOM}"'
    return (
        f'<div class="rp-canvas" {facts} data-words="{escape(words)}">'
        f'<div class="rp-canvas-bar">{_modes(tab, modes)}<span class="rp-canvas-gap"></span>'
        f"{_button('choose', t('Choose…'), t('Choose a picture'))}{_button('blank', t('Blank…'), t('Blank canvas'))}"
        f"{_icon_button('remove', t('Remove the picture'), '×')}</div>"
        f"{_tools(tab)}{_blank()}"
        f'<div class="rp-canvas-view"><canvas tabindex="0" role="application" aria-label="{_t("Canvas")}" '
        f'aria-describedby="{escape(tab)}_canvas_keys"></canvas><div class="rp-ring" hidden></div>'
        f'<div class="rp-canvas-empty"><p>{_t("Drop a picture here, paste one, or")}</p>'
        f'<button type="button" data-do="choose" data-part="choose">{_t("choose a file")}</button></div>'
        f'<div class="rp-canvas-zoom">{_icon_button("further", t("Zoom out"), "−")}'
        f'<output data-part="zoom" translate="no"></output>{_icon_button("closer", t("Zoom in"), "+")}'
        f"{_icon_button('fit', t('Fit into view (0)'))}</div></div>"
        f'<div class="rp-canvas-foot"><p class="rp-canvas-said" role="status"></p>'
        f'<details class="rp-canvas-keys"><summary>{_t("Keys")}</summary><p id="{escape(tab)}_canvas_keys">'
        f"{escape(_keys())}</p></details></div>"
        f"{_file_input('file', t('Picture'))}{_file_input('mask-file', t('Mask: white is painted anew'))}</div>"
    )


def _words() -> dict[str, str]:
    """The texts that the script displays."""
    return {
        "type": t("PNG, JPEG, WebP, AVIF, GIF and BMP are accepted"),
        "large": t("this file is larger than 32 MB; make it smaller first"),
        "pixels": t("this picture has more than 32 megapixels; make it smaller first"),
        "unreadable": t("this is not a picture that can be read"),
        "first": t("choose a picture first"),
        "resized": t("the mask was fitted to the picture"),
        "lost": t("the picture did not reach the server: {why}"),
        "painted": t("{share} painted"),
        "at": t("brush at {place}"),
    }


def _keys() -> str:
    return t(
        "Wheel zooms, Ctrl+wheel and [ ] size the brush, Space or the middle button moves the picture. "
        "Keys: B brush, E eraser, H move, arrows walk, Shift+arrows paint, Enter dabs, Ctrl+Z undoes, Ctrl+Y redoes."
    )


def _modes(tab: str, modes: tuple[str, ...]) -> str:
    names = {MASK: t("Mask"), COLOURS: t("Coloured strokes"), VIEW: t("Picture as it is")}
    radios = "".join(
        f'<label><input type="radio" name="{escape(tab)}_canvas_mode" data-mode="{mode}"'
        f"{' checked' if mode == modes[0] else ''}><span>{escape(names[mode])}</span></label>"
        for mode in modes
    )
    return f'<div class="rp-segments" role="radiogroup" aria-label="{_t("What strokes do")}">{radios}</div>'


def _tools(tab: str) -> str:
    tools = {"brush": t("Brush (B)"), "eraser": t("Eraser (E)"), "hand": t("Move the picture (H)")}
    kinds = "".join(_tool(tab, name, label) for name, label in tools.items())
    swatches = "".join(
        f'<button type="button" class="rp-swatch" data-do="swatch" data-colour="{colour}" aria-pressed="false" '
        f'aria-label="{_t(name)}" title="{_t(name)}" style="background:{colour}"></button>'
        for name, colour in PALETTE.items()
    )
    return (
        f'<div class="rp-canvas-bar rp-canvas-tools" role="toolbar" aria-label="{_t("Painting tools")}">'
        f'<div class="rp-segments" role="radiogroup" aria-label="{_t("Tool")}">{kinds}'
        f"{_tool(tab, 'pick', t('Take a colour from the picture (I)'), of=COLOURS)}</div>"
        f'<label class="rp-canvas-range">{_t("Size")}<input type="range" data-part="size" min="1" max="256" value="24">'
        f'<output data-part="size-said" translate="no">24 px</output></label>'
        f'<label class="rp-canvas-tick"><input type="checkbox" data-part="soft">{_t("Soft edge")}</label>'
        f'<div class="rp-canvas-group">{_icon_button("undo", t("Undo (Ctrl+Z)"), needs="undo")}'
        f"{_icon_button('redo', t('Redo (Ctrl+Y)'), needs='redo')}{_icon_button('clear', t('Clear'))}"
        f"{_icon_button('fill', t('Fill'))}{_icon_button('invert', t('Invert'), of=MASK)}"
        f"{_icon_button('mask-file', t('Mask from a file'), of=MASK)}</div>"
        f'<div class="rp-canvas-group" data-of="{COLOURS}" role="group" aria-label="{_t("Colour")}">{swatches}'
        f'<input type="color" data-part="colour" aria-label="{_t("Any colour")}" value="#000000">'
        f'<label class="rp-canvas-range">{_t("Opacity")}<input type="range" data-part="opacity" min="1" max="100" '
        f'value="100"><output data-part="opacity-said" translate="no">100%</output></label></div></div>'
    )


def _blank() -> str:
    sides = "".join(
        f'<label>{_t(label)}<input type="number" name="{name}" min="64" max="4096" value="512" required></label>'
        for name, label in (("width", "Width"), ("height", "Height"))
    )
    return (
        f'<form class="rp-canvas-bar rp-canvas-blank" hidden aria-label="{_t("Blank canvas")}">{sides}'
        f'<label>{_t("Colour")}<input type="color" name="ground" value="#ffffff"></label>'
        f'<button type="submit">{_t("Make it")}</button></form>'
    )


def _tool(tab: str, name: str, label: str, of: str = "") -> str:
    said = escape(label)
    return (
        f'<label title="{said}"{_of(of)}><input type="radio" name="{escape(tab)}_canvas_tool" data-tool="{name}" '
        f'aria-label="{said}"><span>{_icon(name)}</span></label>'
    )


def _button(do: str, label: str, title: str) -> str:
    said = escape(title)
    return f'<button type="button" data-do="{do}" aria-label="{said}" title="{said}">{escape(label)}</button>'


def _icon_button(do: str, label: str, sign: str = "", needs: str = "picture", of: str = "") -> str:
    said = escape(label)
    face = escape(sign) or _icon(do)
    return (
        f'<button type="button" class="rp-canvas-icon" data-do="{do}" aria-label="{said}" title="{said}"'
        f"{_needs(needs)}{_of(of)}>{face}</button>"
    )


def _needs(what: str) -> str:
    return f' data-needs="{what}" disabled' if what else ""


def _of(mode: str) -> str:
    return f' data-of="{mode}"' if mode else ""


def _icon(name: str) -> str:
    return f'<svg viewBox="0 0 20 20" aria-hidden="true"><path d="{ICONS[name]}"/></svg>'


def _file_input(part: str, label: str) -> str:
    said = escape(label)
    kinds = ",".join(f"image/{kind}" for kind in ("png", "jpeg", "webp", "avif", "gif", "bmp"))  # what browsers draw
    return f'<input type="file" data-part="{part}" accept="{kinds}" aria-label="{said}" tabindex="-1" hidden>'


def _t(text: str) -> str:
    return escape(t(text))

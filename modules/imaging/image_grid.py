"""Draws image grids with column and row labels, with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

INK, PAPER, FAINT = "#1c1d1a", "#ffffff", "#8a8b84"
LARGEST_TEXT, SMALLEST_TEXT = 28, 11
MAX_SIDE = 16_384
"""Pixel limit of a whole grid; a larger one is scaled down."""


@dataclass(frozen=True)
class Words:
    """A label wrapped to a width, at the largest font size that fits."""

    lines: tuple[str, ...]
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont

    @property
    def line_height(self) -> int:
        _, top, _, bottom = self.font.getbbox("Ág")
        return round((bottom - top) * 1.35)

    @property
    def height(self) -> int:
        return self.line_height * len(self.lines)


def fitted(text: str, width: int, height: int) -> Words:
    """Wrap ``text`` to ``width`` pixels, in a size that fits ``height``; excess text is cut."""
    for size in range(LARGEST_TEXT, SMALLEST_TEXT - 1, -1):
        font = ImageFont.load_default(size)
        words = Words(_broken(text, font, width), font)
        if words.height <= height and all(font.getlength(line) <= width for line in words.lines):
            return words
    most = max(1, height // words.line_height)
    lines = [_cut(line, font, width) for line in words.lines[:most]]
    if len(words.lines) > most:
        lines[-1] = _cut(lines[-1] + " …", font, width)
    return Words(tuple(lines), font)


def _broken(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> tuple[str, ...]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return tuple(lines)


def _cut(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "…") > width:
        line = line[:-1]
    return line.rstrip() + "…"


def table(
    cells: Sequence[Sequence[Image.Image | None]],
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    *,
    title: str = "",
    margin: int = 0,
) -> Image.Image:
    """Draw the images row by row on white, ``margin`` pixels apart, with labels above the columns and left of the
    rows.

    A cell is as large as the largest picture; a smaller one stands in its middle, and where there is none it is empty.
    """
    sizes = [image.size for row in cells for image in row if image is not None] or [(64, 64)]
    width, height = max(w for w, _ in sizes), max(h for _, h in sizes)
    across = max(len(row) for row in cells)
    scale = min(1.0, MAX_SIDE / (across * (width + margin)), MAX_SIDE / (len(cells) * (height + margin)))
    width, height = max(1, int(width * scale)), max(1, int(height * scale))
    left = _side_width(rows, width)
    heads = [fitted(text, width - 8, max(height // 3, 40)) for text in columns] if any(columns) else []
    top_title = fitted(title, left + across * (width + margin) - 16, 60) if title else None
    above = (top_title.height + 16 if top_title else 0) + (max(words.height for words in heads) + 16 if heads else 0)
    sheet = Image.new(
        "RGB",
        (left + across * width + (across - 1) * margin, above + len(cells) * height + (len(cells) - 1) * margin),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    if top_title:
        _write(draw, top_title, (0, 0, sheet.width, top_title.height + 16), FAINT)
    for i, words in enumerate(heads):
        x = left + i * (width + margin)
        _write(draw, words, (x, top_title.height + 16 if top_title else 0, x + width, above))
    for j, row in enumerate(cells):
        y = above + j * (height + margin)
        if left:
            _write(draw, fitted(rows[j], left - 16, height - 8), (0, y, left, y + height))
        for i, image in enumerate(row):
            if image is None:
                continue
            if scale < 1:
                image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
            x = left + i * (width + margin)
            sheet.paste(image, (x + (width - image.width) // 2, y + (height - image.height) // 2))
    return sheet


def _side_width(rows: Sequence[str], width: int) -> int:
    """The width of the row labels: the longest word or half the longest text, at most three quarters of an image."""
    if not any(rows):
        return 0
    font = ImageFont.load_default(min(LARGEST_TEXT, 20))
    longest = max(font.getlength(word) for text in rows for word in (text.split() or [""]))
    half = max(font.getlength(text) for text in rows) / 2
    return int(min(max(longest, half) + 24, max(width * 3 // 4, 96)))


def _write(draw: ImageDraw.ImageDraw, words: Words, box: tuple[int, int, int, int], ink: str = INK) -> None:
    """Draw lines of text centred in a box."""
    left, top, right, bottom = box
    y = top + (bottom - top - words.height) / 2
    for line in words.lines:
        draw.text((left + (right - left - words.font.getlength(line)) / 2, y), line, fill=ink, font=words.font)
        y += words.line_height

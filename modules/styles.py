"""Styles: named pieces of text that are merged into a prompt, and found again in one."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from modules import atomic
from modules.errors import NotFound, OutputError, UserError

MAX_NAME = 100
COLUMNS = ("name", "prompt", "negative_prompt")


class Style(NamedTuple):
    """``{prompt}`` in either text stands for the person's own; without it the text is added behind a comma."""

    name: str
    prompt: str = ""
    negative_prompt: str = ""


def merge(style_text: str, prompt: str) -> str:
    """One style text and one prompt.

    >>> merge("cinematic, {prompt}, film grain", "a cat")
    'cinematic, a cat, film grain'
    >>> merge("anime style", "a cat")
    'a cat, anime style'
    """
    if "{prompt}" in style_text:
        return style_text.replace("{prompt}", prompt)
    return ", ".join(text for text in (prompt.strip(), style_text.strip()) if text)


def apply(styles: Iterable[Style], prompt: str, negative_prompt: str) -> tuple[str, str]:
    """Both prompts with ``styles`` merged in, one after another."""
    for style in styles:
        prompt, negative_prompt = merge(style.prompt, prompt), merge(style.negative_prompt, negative_prompt)
    return prompt, negative_prompt


def find(styles: Sequence[Style], prompt: str, negative_prompt: str) -> tuple[list[str], str, str]:
    """The names of the styles that were merged into these prompts, and the prompts without them.

    Styles are peeled off from the outside: the first of the list that fits, again and again.
    """
    found: list[str] = []
    left = [style for style in styles if style.prompt or style.negative_prompt]
    while True:
        for style in left:
            bare = _without(style.prompt, prompt)
            bare_negative = _without(style.negative_prompt, negative_prompt)
            if bare is not None and bare_negative is not None:
                break
        else:
            return found[::-1], prompt, negative_prompt
        prompt, negative_prompt = bare, bare_negative
        found.append(style.name)
        left.remove(style)


def _without(style_text: str, prompt: str) -> str | None:
    """``prompt`` before ``style_text`` was merged into it, or None where it was not."""
    text, prompt_text = style_text.strip(), prompt.strip()
    if "{prompt}" in text:
        before, _, after = text.partition("{prompt}")
        fits = prompt_text.startswith(before) and prompt_text.endswith(after)
        return prompt_text[len(before) : len(prompt_text) - len(after)] if fits else None
    if not prompt_text.endswith(text):
        return None
    return prompt_text[: len(prompt_text) - len(text)].removesuffix(", ")


def _named(style: Style) -> Style:
    """With a name that can be listed."""
    name = " ".join(style.name.split())
    if not name or name.startswith("#"):
        raise UserError("a style needs a name that does not begin with #", field="style")
    if len(name) > MAX_NAME:
        raise UserError(f"the name of a style has at most {MAX_NAME} characters", field="style")
    return style._replace(name=name)


def _refuse_twin(name: str, others: Iterable[Style]) -> None:
    if any(other.name == name for other in others):
        raise UserError(f"there is a style {name} already", hint="choose it to change it", field="style")


class StyleBook:
    """The styles of a ``styles.csv`` as A1111 writes it: UTF-8 with a byte order mark, ``name, prompt,
    negative_prompt`` (once ``text``). Rows whose name begins with # are separators, which are kept and not listed."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()

    def styles(self) -> tuple[Style, ...]:
        """As they are in the file now; none if there is no file."""
        return tuple(style for style in self._read() if not style.name.startswith("#"))

    def chosen(self, names: Iterable[str]) -> list[Style]:
        """The styles of these names, in this order. Names that are not there mean nothing, as in A1111."""
        known = {style.name: style for style in self.styles()}
        return [known[name] for name in names if name in known]

    def save(self, style: Style) -> None:
        """Add ``style``, or put it in the place of the one with its name."""
        style = _named(style)
        with self._lock:
            rows = self._read()
            if any(row.name == style.name for row in rows):
                rows = [style if row.name == style.name else row for row in rows]
            else:
                rows.append(style)
            self._write(rows)

    def add(self, style: Style) -> Style:
        """A new one; refused where there is one of its name. Gives it as it was written."""
        style = _named(style)
        with self._lock:
            rows = self._read()
            _refuse_twin(style.name, rows)
            self._write([*rows, style])
        return style

    def change(self, name: str, style: Style) -> Style:
        """Put ``style``, which may have another name, in the place of the one called ``name``."""
        style = _named(style)
        with self._lock:
            rows = self._read()
            if all(row.name != name for row in rows):
                raise NotFound(f"there is no style {name} any more", hint="choose another one", field="style")
            _refuse_twin(style.name, [row for row in rows if row.name != name])
            self._write([style if row.name == name else row for row in rows])
        return style

    def delete(self, name: str) -> None:
        with self._lock:
            self._write([row for row in self._read() if row.name != name])

    def _read(self) -> list[Style]:
        try:
            text = self.path.read_text(encoding="utf-8-sig")
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        except FileNotFoundError:
            return []
        except (OSError, UnicodeError, csv.Error) as error:
            raise UserError(
                f"the styles in {self.path.name} cannot be read: {error}", hint="save the file as CSV in UTF-8"
            ) from error
        return [
            Style(row["name"], row.get("prompt") or row.get("text") or "", row.get("negative_prompt") or "")
            for row in rows
            if row.get("name")
        ]

    def _write(self, rows: Iterable[Style]) -> None:
        out = io.StringIO(newline="")
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        # A lone surrogate, which a browser can send, has no place in UTF-8.
        writer.writerows([text.encode("utf-8", "replace").decode() for text in row] for row in rows)
        try:
            atomic.make_folder(self.path.parent)
            atomic.write(self.path, out.getvalue().encode("utf-8-sig"))
        except OSError as error:
            raise OutputError(f"the style could not be written to {self.path.name}: {error.strerror}") from error

"""Styles: reads and writes styles.csv, merges styles into prompts and finds them again."""

from __future__ import annotations

import codecs
import csv
import io
import re
import string
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from modules.errors import NotFound, OutputError, UserError
from modules.prompt.stages import strip_comments
from modules.storage import atomic

MAX_NAME = 100
COLUMNS = ("name", "prompt", "negative_prompt")
PLACE = "{prompt}"
DELIMITERS = ",;\t|"
BACKUP = ".bak"
"""Added to the file's name: the file as it was before it was last written, as A1111 keeps it."""
_KNOWN = {"name": "name", "prompt": "prompt", "text": "text", "negativeprompt": "negative_prompt"}
_MARKS = {  # UTF-32's begins as UTF-16's does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SEPARATOR = re.compile(r"\s*\"?sep=([,;|:\t])\"?[ \t]*(?:\r\n?|\n|$)", re.IGNORECASE)
"""Excel's first line, which names the delimiter."""


class Style(NamedTuple):
    """A named pair of texts. ``{prompt}`` in a text stands for the user's prompt; without it the text is appended
    after a comma.
    """

    name: str
    prompt: str = ""
    negative_prompt: str = ""


def merge(style_text: str, prompt: str) -> str:
    """Merge one style text into one prompt.

    >>> merge("cinematic, {prompt}, film grain", "a cat")
    'cinematic, a cat, film grain'
    >>> merge("anime style", "a cat")
    'a cat, anime style'
    """
    if PLACE in style_text:
        return style_text.replace(PLACE, prompt)
    return ", ".join(text for text in (prompt.strip(), style_text.strip()) if text)


def apply(styles: Iterable[Style], prompt: str, negative_prompt: str) -> tuple[str, str]:
    """Merge ``styles`` into both prompts, one after another. Comments are removed first, so that they cannot hide a
    style.
    """
    for style in styles:
        prompt = _merged(style.prompt, prompt)
        negative_prompt = _merged(style.negative_prompt, negative_prompt)
    return prompt, negative_prompt


def _merged(style_text: str, prompt: str) -> str:
    """Merge a style text into a prompt.

    >>> _merged("{prompt}, anime # the best", "a cat # Tom")
    'a cat, anime'
    """
    return merge(uncommented(style_text), uncommented(prompt)) if style_text.strip() else prompt


def uncommented(text: str) -> str:
    """``text`` without comments and the blanks before them; unchanged if it has none."""
    return strip_comments(text).strip() if "#" in text else text


def find(styles: Sequence[Style], prompt: str, negative_prompt: str) -> tuple[list[str], str, str]:
    """Find the styles that were merged into these prompts; returns their names and the prompts without them.

    Styles are peeled off from the outside: the first of the list that fits, again and again. `apply` with the styles
    found gives these prompts again, but for blanks at their ends.
    """
    found: list[str] = []
    left = [style for style in styles if style.prompt or style.negative_prompt]
    bare, bare_negative = prompt.strip(), negative_prompt.strip()
    while True:
        for style in left:
            before = _without(style.prompt, bare, outermost=not found)
            before_negative = _without(style.negative_prompt, bare_negative, outermost=not found)
            if before is not None and before_negative is not None:
                break
        else:
            return (found[::-1], bare, bare_negative) if found else ([], prompt, negative_prompt)
        bare, bare_negative = before, before_negative
        found.append(style.name)
        left.remove(style)


def _without(style_text: str, prompt: str, *, outermost: bool = False) -> str | None:
    """The prompt from which `apply` makes ``prompt`` with this text, or None if there is none. The ``outermost``
    text may have lost blanks at its ends.

    >>> _without("{prompt} on {prompt}", "ice on ice"), _without("a, {prompt}, b", "a, b"), _without("at", "cat")
    ('ice', None, None)
    """
    if not style_text.strip():
        return prompt
    text = uncommented(style_text)
    if places := text.count(PLACE):
        text = text.strip() if outermost else text
        length, rest = divmod(len(prompt) - len(text) + places * len(PLACE), places)
        start = text.index(PLACE)
        bare = prompt[start : start + length]
        fits = rest == 0 <= length and text.replace(PLACE, bare) == prompt
    else:
        bare = prompt[: max(len(prompt) - len(text.strip()), 0)].removesuffix(", ")
        fits = merge(text, bare) == prompt
    return bare if fits and uncommented(bare) == bare else None


def _named(style: Style) -> Style:
    """The style with its name stripped; raises `UserError` if the name cannot be listed."""
    name = " ".join(style.name.split())
    if not name or name.startswith("#"):
        raise UserError("a style needs a name that does not begin with #", field="style")
    if len(name) > MAX_NAME:
        raise UserError(f"the name of a style has at most {MAX_NAME} characters", field="style")
    return style._replace(name=name)


def _refuse_twin(name: str, others: Iterable[Style]) -> None:
    if any(other.name == name for other in others):
        raise UserError(f"there is a style {name} already", hint="choose it to change it", field="style")


@dataclass(frozen=True)
class _Row:
    """A line of the file. A style without a name is kept but not listed."""

    style: Style
    rest: tuple[str, ...] = ()
    """The cells of unknown columns, and those beyond the last column."""

    @property
    def is_listed(self) -> bool:
        return bool(self.style.name) and not self.style.name.startswith("#")


@dataclass(frozen=True)
class _Table:
    """A parsed styles file: its rows, and the names of unknown columns."""

    rows: tuple[_Row, ...] = ()
    others: tuple[str, ...] = ()

    def put(self, style: Style, name: str) -> _Table:
        """The table with ``style`` replacing the one called ``name``, or appended; unknown cells are kept."""
        if any(row.style.name == name for row in self.rows):
            return replace(self, rows=tuple(replace(r, style=style) if r.style.name == name else r for r in self.rows))
        return replace(self, rows=(*self.rows, _Row(style)))

    def to_csv(self) -> bytes:
        """Encode as A1111 does: UTF-8 with a byte order mark."""
        out = io.StringIO(newline="")
        lines = [(*COLUMNS, *self.others), *((*row.style, *row.rest) for row in self.rows)]
        # A lone surrogate, which a browser can send, has no place in UTF-8.
        csv.writer(out).writerows([cell.encode("utf-8", "replace").decode() for cell in line] for line in lines)
        return out.getvalue().encode("utf-8-sig")


def _decoded(data: bytes) -> str:
    """Decode UTF-8, or UTF-16 and UTF-32 as spreadsheets save "Unicode text". Raises `UnicodeError`."""
    encoding = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and 0 in data[:2]:  # UTF-16 without a mark
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
    return data.decode(encoding)


def _table(text: str) -> _Table:
    """Parse any variant of the file that spreadsheets and people produce. Raises `UserError` if no column holds
    names, and `csv.Error`.
    """
    declared = _SEPARATOR.match(text)
    text = text[declared.end() :] if declared else text
    if not text.strip(string.whitespace + "\u00a0" + DELIMITERS + '"'):
        return _Table()
    delimiters = declared[1] if declared else DELIMITERS
    headings = {delimiter: _heading(text, delimiter) for delimiter in delimiters}
    delimiter, header = max(headings.items(), key=lambda item: len({*map(_column, item[1])} - {""}))
    columns = [_column(cell) for cell in header]
    if "name" not in columns:
        raise UserError("no column is called name", hint="begin the file with name,prompt,negative_prompt")
    name, negative = columns.index("name"), _place("negative_prompt", columns)
    prompt = _place("prompt" if "prompt" in columns else "text", columns)
    others = [i for i in range(len(header)) if i not in (name, prompt, negative)]
    rows = []
    for line in _lines(text, delimiter)[1:]:
        cells = line + [""] * (len(header) - len(line))
        style = Style(cells[name].strip(), *("" if i is None else cells[i] for i in (prompt, negative)))
        rows.append(_Row(style, (*(cells[i] for i in others), *cells[len(header) :])))
    return _Table(tuple(rows), tuple(header[i] for i in others))


def _place(column: str, columns: Sequence[str]) -> int | None:
    return columns.index(column) if column in columns else None


def _column(cell: str) -> str:
    """The column that a heading means: ``Negative Prompt`` is negative_prompt."""
    return _KNOWN.get(re.sub(r"[\s_-]", "", cell.casefold()), "")


def _heading(text: str, delimiter: str) -> list[str]:
    """The first line that is not blank."""
    return next(_filled(text, delimiter), [])


def _lines(text: str, delimiter: str) -> list[list[str]]:
    """The lines that are not blank. Blanks after delimiters belong to the texts, unless the heading has them too, or
    the lines without them are no longer than the heading.
    """
    plain = list(_filled(text, delimiter))
    width = len(plain[0])
    if all(cell == cell.lstrip() for cell in plain[0][1:]) and max(map(len, plain)) <= width:
        return plain
    tight = list(_filled(text, delimiter, tight=True))
    return tight if max(map(len, tight)) <= width or plain[0] != tight[0] else plain


def _filled(text: str, delimiter: str, *, tight: bool = False) -> Iterator[list[str]]:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=tight)
    return (line for line in lines if any(cell.strip() for cell in line))


class StyleBook:
    """A ``styles.csv`` file in A1111's format: UTF-8 with a byte order mark, ``name, prompt, negative_prompt``
    (formerly ``text``). Rows whose name begins with # are separators, which are kept and not listed.

    Read is also what spreadsheets make of such a file. What cannot be read is never written over.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()

    def styles(self) -> tuple[Style, ...]:
        """The styles currently in the file; none if there is no file."""
        return tuple(row.style for row in self._read().rows if row.is_listed)

    def chosen(self, names: Iterable[str]) -> list[Style]:
        """The styles of these names, in this order. Unknown names are ignored, as in A1111."""
        known = {style.name: style for style in self.styles()}
        return [known[name] for name in names if name in known]

    def save(self, style: Style) -> None:
        """Add ``style``, or replace the one with its name."""
        style = _named(style)
        with self._lock:
            self._write(self._read().put(style, style.name))

    def add(self, style: Style) -> Style:
        """Add a style; raises if the name is taken. Returns it as it was written."""
        style = _named(style)
        with self._lock:
            table = self._read()
            _refuse_twin(style.name, (row.style for row in table.rows))
            self._write(table.put(style, style.name))
        return style

    def change(self, name: str, style: Style) -> Style:
        """Replace the style called ``name`` by ``style``, which may have another name."""
        style = _named(style)
        with self._lock:
            table = self._read()
            if all(row.style.name != name for row in table.rows):
                raise NotFound(f"there is no style {name} any more", hint="choose another one", field="style")
            _refuse_twin(style.name, (row.style for row in table.rows if row.style.name != name))
            self._write(table.put(style, name))
        return style

    def delete(self, name: str) -> None:
        with self._lock:
            table = self._read()
            kept = tuple(row for row in table.rows if not row.style.name or row.style.name != name)
            self._write(replace(table, rows=kept))

    def _read(self) -> _Table:
        try:
            return _table(_decoded(self.path.read_bytes()))
        except FileNotFoundError:
            return _Table()
        except UserError as error:
            raise UserError(
                f"the styles in {self.path.name} cannot be read: {error.message}", hint=error.hint
            ) from error
        except (OSError, UnicodeError, csv.Error) as error:
            raise UserError(
                f"the styles in {self.path.name} cannot be read: {error}", hint="save the file as CSV in UTF-8"
            ) from error

    def _write(self, table: _Table) -> None:
        try:
            atomic.make_folder(self.path.parent)
            if self.path.exists():
                atomic.write(self.path.with_name(self.path.name + BACKUP), self.path.read_bytes())
            atomic.write(self.path, table.to_csv())
        except OSError as error:
            raise OutputError(f"the style could not be written to {self.path.name}: {error.strerror}") from error

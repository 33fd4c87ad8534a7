"""Bracket matching: one pass decides which brackets, colons and bars belong to a well-formed construct.

The rule: at each ( or [ from the left take the construct that starts there if it is well formed up to its
closing bracket, with everything inside well formed too; else the character is text. Because a construct's brackets must
pair up, its closing bracket is known from a stack, and whether it is well formed from what the stack collected. Linear
in the length, without recursion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_MARK = re.compile(r"\\[^\n]|[\\\[\]():|]")
_WHEN = re.compile(r"\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")
_NUMBER_LIKE = re.compile(r"\s*[+-]?[.\d]+\s*")
_OPENING = {")": "(", "]": "["}
_MAX_PROBLEMS = 50
"""Limit of reported problems."""


@dataclass(frozen=True)
class Scan:
    """The result of a scan: (offset, terminal) of each mark that belongs to a construct, in order, and the problems."""

    marks: list[tuple[int, str]]
    whens: dict[int, re.Match[str]]
    """Colon offset -> the number behind it."""
    problems: list[tuple[int, str]]


@dataclass(slots=True)
class _Frame:
    """An open bracket."""

    bracket: str
    start: int
    colons: list[int] = field(default_factory=list)
    bars: list[int] = field(default_factory=list)
    sound: bool = True
    """Everything inside is well formed so far."""


def scan(text: str) -> Scan:
    """Find the constructs of ``text``. If nothing may be expanded at all, there are no marks and one problem says
    why.
    """
    scanner = _Scanner(text)
    scanner.run()
    if scanner.blocked:
        return Scan([], {}, [scanner.blocked])
    problems = sorted(scanner.problems)[:_MAX_PROBLEMS]
    return Scan(sorted(scanner.marks), scanner.whens, problems)


class _Scanner:
    def __init__(self, text: str):
        self.text = text
        self.marks: list[tuple[int, str]] = []
        self.whens: dict[int, re.Match[str]] = {}
        self.problems: list[tuple[int, str]] = []
        self.blocked: tuple[int, str] | None = None
        self.stack: list[_Frame] = []
        self.open: dict[str, list[int]] = {"(": [], "[": []}
        """Open brackets as emphasis sees them: each kind for itself."""

    def run(self) -> None:
        for match in _MARK.finditer(self.text):
            mark, at = match[0], match.start()
            if mark in "([":
                self.stack.append(_Frame(mark, at))
                self.open[mark].append(at)
            elif mark in ")]":
                self._close(mark, at)
            elif mark == ":":
                if self.stack:
                    self.stack[-1].colons.append(at)
            elif mark == "|":
                if self.stack:
                    self.stack[-1].bars.append(at)
                else:
                    self._block(
                        at, "| outside [ ]: taken literally, and so is every edit and alternation of this prompt"
                    )
            elif mark == "\\":
                self._block(
                    at,
                    "\\ with nothing behind it: every edit and alternation of this prompt is taken literally;"
                    " write \\\\ for a backslash",
                )
        self._abandon(self.stack)
        for at in self.open["("]:
            self._report(at, "unclosed (: everything after it is emphasised")
        for at in self.open["["]:
            self._report(at, "unclosed [: taken literally, no edit begins here; everything after it is de-emphasised")

    def _close(self, mark: str, at: int) -> None:
        bracket = _OPENING[mark]
        alone = not self.open[bracket]
        if not alone:
            self.open[bracket].pop()
        if self.stack and self.stack[-1].bracket == bracket:
            self._judge(self.stack.pop(), at)
            return
        if alone:
            self._report(at, f"stray {mark}: taken literally")
        elif self.stack:
            self._report(at, f"{mark} closes a {bracket} across another bracket: they count as emphasis only")
        self._abandon(self.stack)  # no bracket around a wrong one is well formed
        self.stack.clear()

    def _judge(self, frame: _Frame, end: int) -> None:
        terminals = self._construct(frame, end) if frame.sound else None
        if terminals is not None:
            kind, inner = terminals
            self.marks.append((frame.start, kind))
            self.marks += inner
            self.marks.append((end, f"{kind}_END"))
            return
        if self.stack:
            self.stack[-1].sound = False
        self._abandon([frame])
        if frame.bracket == "[" and frame.colons:
            self._report(frame.start, self._reason(frame, end))

    def _construct(self, frame: _Frame, end: int) -> tuple[str, list[tuple[int, str]]] | None:
        """The terminal and the inner marks of a bracket pair, if it is well formed."""
        colons, bars = frame.colons, frame.bars
        if frame.bracket == "(":
            if bars or len(colons) > 1:
                return None
            if colons and not _WHEN.fullmatch(self.text, colons[0] + 1, end):
                self._doubt_number(colons[0] + 1, end)
            return "ROUND", [(at, "COLON") for at in colons]
        if bars:
            return ("ALTERNATE", [(at, "BAR") for at in bars]) if not colons else None
        if not colons:
            return "SQUARE", []
        when = _WHEN.fullmatch(self.text, colons[-1] + 1, end)
        if len(colons) > 2 or not when:
            return None
        self.whens[colons[-1]] = when
        return "EDIT", [(at, "COLON") for at in colons]

    def _doubt_number(self, start: int, end: int) -> None:
        if _NUMBER_LIKE.fullmatch(self.text, start, end):
            try:
                float(self.text[start:end])
            except ValueError:
                self._report(start, "this is no number: taken literally, and the brackets weigh 1.1")

    def _reason(self, frame: _Frame, end: int) -> str:
        if frame.bars:
            return "[ ] with both : and |: taken literally; put one inside brackets of its own"
        if len(frame.colons) > 2:
            return "an edit has at most two colons: taken literally as de-emphasis; write \\: for a colon in the text"
        if not frame.sound:
            return "this edit holds a bracket that is not well formed: taken literally as de-emphasis"
        return "no number behind the last colon: this is de-emphasis, not an edit; an edit reads [before:after:0.5]"

    def _abandon(self, frames: list[_Frame]) -> None:
        """Give up brackets that form no construct; a bar in them belongs to no alternation."""
        for frame in frames:
            for at in frame.bars:
                self._block(
                    at, "| outside a well-formed [ ]: every edit and alternation of this prompt is taken literally"
                )

    def _block(self, at: int, problem: str) -> None:
        if self.blocked is None or at < self.blocked[0]:
            self.blocked = (at, problem)

    def _report(self, at: int, problem: str) -> None:
        self.problems.append((at, problem))


def runs(text: str, marks: list[tuple[int, str]]) -> Iterator[tuple[int, int, str]]:
    """(start, end, terminal) over the whole text: the marks, and the text between them as TEXT."""
    done = 0
    for at, terminal in marks:
        if at > done:
            yield done, at, "TEXT"
        yield at, at + 1, terminal
        done = at + 1
    if done < len(text):
        yield done, len(text), "TEXT"

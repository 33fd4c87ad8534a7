"""Emphasis: parses brackets into the weight of each piece of text."""

from __future__ import annotations

import re
from dataclasses import dataclass

ROUND, SQUARE = 1.1, 1 / 1.1
"""The factor of one pair of brackets."""

_TOKEN = re.compile(r"\\[()\[\]\\]|[\\()\[\]]|:\s*(?P<weight>[+-]?[.\d]+)\s*\)|:|[^\\()\[\]:]+")
_BREAK = re.compile(r"\bBREAK\b")
_EXACT = 64
"""Up to this many nested brackets a weight equals the reference's bit for bit."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of text and its weight; ``BREAK`` with -1 is a break."""

    text: str
    weight: float

    @property
    def is_break(self) -> bool:
        return self.weight == -1 and self.text == "BREAK"


def attention(text: str) -> tuple[Piece, ...]:
    """Split a text into weighted pieces.

    >>> for p in attention("a (red:1.3) [fox] in ((snow)), \\\\(really\\\\)"): print(f"{p.weight:.2f}|{p.text}")
    1.00|a\N{SPACE}
    1.30|red
    1.00|\N{SPACE}
    0.91|fox
    1.00| in\N{SPACE}
    1.21|snow
    1.00|, (really)
    >>> attention("a BREAK b")
    (Piece(text='a', weight=1.0), Piece(text='BREAK', weight=-1.0), Piece(text='b', weight=1.0))
    """
    reader = _Reader()
    for match in _TOKEN.finditer(text):
        reader.read(match)
    return reader.pieces()


@dataclass(slots=True)
class _Bracket:
    """A pair of brackets, whose factor is known when it closes."""

    outer: _Bracket | None
    depth: int
    factor: float = 1.0
    closed: int = 0
    """Its position in the order of closing."""
    product: float = 1.0
    """The product of the factors from here outwards."""


class _Reader:
    """Reads brackets. Round and square ones have separate stacks and may cross, so a piece stores its innermost one
    of each.
    """

    def __init__(self) -> None:
        self.found: list[tuple[str, float, _Bracket | None, _Bracket | None]] = []
        self.brackets: list[_Bracket] = []
        self.round: _Bracket | None = None
        self.square: _Bracket | None = None
        self.closed = 0

    def read(self, match: re.Match[str]) -> None:
        mark = match[0]
        if mark == "(":
            self.round = self._opened(self.round)
        elif mark == "[":
            self.square = self._opened(self.square)
        elif mark == ")" and self.round:
            self.round = self._closed(self.round, ROUND)
        elif mark == "]" and self.square:
            self.square = self._closed(self.square, SQUARE)
        elif mark[0] == "\\":
            self._add(mark[1:])
        elif match["weight"] and self.round:
            weight = _number(match["weight"])
            if weight is None:  # the reference fails on (a:1.3.5); here the number is text and the bracket weighs 1.1
                self._words(mark[:-1])
            self.round = self._closed(self.round, ROUND if weight is None else weight)
        else:
            self._words(mark)

    def pieces(self) -> tuple[Piece, ...]:
        self._close_all()
        for bracket in self.brackets:  # outer ones come first
            bracket.product = bracket.factor * (bracket.outer.product if bracket.outer else 1.0)
        joined: list[tuple[list[str], float]] = []
        for text, weight, round_, square in self.found:
            weight *= _weight(round_, square)
            if joined and joined[-1][1] == weight:
                joined[-1][0].append(text)
            else:
                joined.append(([text], weight))
        return tuple(Piece("".join(texts), weight) for texts, weight in joined) or (Piece("", 1.0),)

    def _words(self, text: str) -> None:
        parts = _BREAK.split(text)
        for i, part in enumerate(parts):
            if i:
                self._add("BREAK", -1.0)
                part = part.lstrip()
            self._add(part.rstrip() if i < len(parts) - 1 else part)

    def _add(self, text: str, weight: float = 1.0) -> None:
        self.found.append((text, weight, self.round, self.square))

    def _opened(self, outer: _Bracket | None) -> _Bracket:
        bracket = _Bracket(outer, outer.depth + 1 if outer else 1)
        self.brackets.append(bracket)
        return bracket

    def _closed(self, bracket: _Bracket, factor: float) -> _Bracket | None:
        self.closed += 1
        bracket.factor, bracket.closed = factor, self.closed
        return bracket.outer

    def _close_all(self) -> None:
        """Close the brackets still open at the end, the outer ones first."""
        for innermost, factor in ((self.round, ROUND), (self.square, SQUARE)):
            for bracket in reversed(_outwards(innermost)):
                self._closed(bracket, factor)


def _outwards(bracket: _Bracket | None) -> list[_Bracket]:
    chain = []
    while bracket:
        chain.append(bracket)
        bracket = bracket.outer
    return chain


def _weight(round_: _Bracket | None, square: _Bracket | None) -> float:
    """The product of the brackets around a piece, multiplied in the order in which they closed."""
    depth = (round_.depth if round_ else 0) + (square.depth if square else 0)
    if depth > _EXACT:  # in another order, which may change the last digits, but in constant time
        return (round_.product if round_ else 1.0) * (square.product if square else 1.0)
    weight = 1.0
    for bracket in sorted(_outwards(round_) + _outwards(square), key=lambda bracket: bracket.closed):
        weight *= bracket.factor
    return weight


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

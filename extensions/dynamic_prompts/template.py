"""Prompt templates: ``{a|b}``, ``{2$$a|b|c}``, ``{1-2$$ and $$a|b}`` and ``__name__``, nested at will.

>>> words = Wildcards(Path("/nowhere"))
>>> fill("a {red|blue} fox", "1", words) in ("a red fox", "a blue fox")
True
>>> fill("a [cat:dog:0.5] (fox:1.2)", "1", words)
'a [cat:dog:0.5] (fox:1.2)'
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from modules import UserError, files_below

DEEPEST = 20
"""Nesting limit of choices, and of wildcards whose lines name wildcards."""
MOST = 5_000
"""Limit of draws per prompt: lines that name wildcards may multiply."""
LONGEST = 1_000_000
"""Limit of characters processed per prompt: choices count once per depth, wildcard lines when drawn."""
_MARK = re.compile(r"__([^\W_][\w./-]*?)__|\{")
_COUNT = re.compile(r"(\d+)(?:-(\d+))?\$\$")
_WEIGHT = re.compile(r"(\d+(?:\.\d+)?)::")
_BARS = re.compile(r"[{}|]")
_UNIT = 10**9
"""Weights are counted in billionths, so that sums of them are exact."""
_HEAVIEST = 10**9


class Wildcards:
    """Wildcard files of a folder, one choice per line; ``#`` begins a comment. ``animal`` is ``animal.txt``."""

    def __init__(self, folder: Path):
        self.folder = folder

    def lines(self, name: str) -> list[str]:
        """The choices of a wildcard. Raises `UserError` if there is no such file."""
        text = self._text(name)
        if text is None:
            files = files_below(self.folder, (".txt",))
            there = sorted(path.relative_to(self.folder).with_suffix("").as_posix() for path in files)
            listed = ", ".join(there[:8]) or "none"
            raise UserError(f"there is no wildcard file {name!r}", hint=f"there are {listed}", field="prompt")
        lines = (line.strip() for line in text.splitlines())
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise UserError(f"the wildcard file {name!r} has no choice in it", hint="write one a line", field="prompt")
        return found

    def _text(self, name: str) -> str | None:
        try:
            path = (self.folder / f"{name}.txt").resolve()
            if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
                return None
            return path.read_text(encoding="utf-8", errors="replace")
        except (OSError, RuntimeError) as error:  # a name too long for the disk, links in a ring, no right to read
            reason = getattr(error, "strerror", None) or "it leads back to itself"
            raise UserError(
                f"the wildcard file {name[:60]!r} cannot be read: {reason}", hint="name another", field="prompt"
            ) from error


class Draws:
    """A random generator that depends on a seed alone, in every version of Python: SHA-256 in counter mode."""

    def __init__(self, seed: str):
        self._seed = seed
        self._count = 0
        self.read = 0

    def part(self) -> float:
        """A number from 0 to below 1."""
        self._count += 1
        if self._count > MOST:
            raise UserError(f"this prompt asks for more than {MOST:,} choices", hint="simplify it", field="prompt")
        digest = sha256(f"{self._seed}/{self._count}".encode()).digest()
        return int.from_bytes(digest[:6]) / 2**48

    def below(self, n: int) -> int:
        return int(self.part() * n)

    def through(self, text: str) -> str:
        """Account for ``text``, which is about to be expanded."""
        self.read += len(text)
        if self.read > LONGEST:
            raise UserError(
                f"this prompt grows beyond {LONGEST:,} characters", hint="shorten its choices", field="prompt"
            )
        return text


class Urn:
    """Weighted sampling without replacement in O(log n) per draw: the sums of Fenwick (1994), "A new data structure
    for cumulative frequency tables". Weights are positive integers.
    """

    def __init__(self, weights: Sequence[int]):
        self.left = sum(weights)
        self._weights = weights
        self._sums = [0, *weights]
        for i in range(1, len(self._sums)):
            if (above := i + (i & -i)) < len(self._sums):
                self._sums[above] += self._sums[i]

    def take(self, part: float) -> int:
        """Draw the item at ``part``, from 0 to below 1, of the remaining weights laid end to end."""
        place, at = min(int(part * self.left), self.left - 1), 0
        for bit in reversed(range(len(self._weights).bit_length())):
            further = at + (1 << bit)
            if further < len(self._sums) and self._sums[further] <= place:
                at, place = further, place - self._sums[further]
        weight, i = self._weights[at], at + 1
        self.left -= weight
        while i < len(self._sums):
            self._sums[i] -= weight
            i += i & -i
        return at


@dataclass
class _Filling:
    """The expansion of one prompt."""

    draws: Draws
    wildcards: Wildcards
    known: dict[str, list[str]] = field(default_factory=dict)

    def lines(self, name: str) -> list[str]:
        if name not in self.known:
            self.known[name] = self.wildcards.lines(name)
        return self.known[name]

    def filled(self, text: str, depth: int = 0) -> str:
        if depth > DEEPEST:
            raise UserError(
                "the choices of this prompt lie too deep within each other", hint="simplify it", field="prompt"
            )
        pieces: list[str] = []
        closings, at = _closings(self.draws.through(text)), 0
        while mark := _MARK.search(text, at):
            pieces.append(text[at : mark.start()])
            at = mark.end()
            if name := mark[1]:
                lines = self.lines(name)
                pieces.append(self.filled(lines[self.draws.below(len(lines))], depth + 1))
            elif mark.start() in closings:
                pieces.append(self.chosen(text[at : closings[mark.start()]], depth))
                at = closings[mark.start()] + 1
            else:
                pieces.append("{")
        return "".join([*pieces, text[at:]])

    def chosen(self, inner: str, depth: int) -> str:
        """Expand a choice. ``2$$a|b|c``: two different ones, joined by a comma; ``2$$ and $$a|b`` by "and";
        ``3::a|b``: a three times as often as b.
        """
        least = most = 1
        joint = ", "
        if count := _COUNT.match(inner):
            least, most = _whole(count[1]), _whole(count[2] or count[1])
            inner = inner[count.end() :]
            head, dollars, rest = inner.partition("$$")
            if dollars and "|" not in head:
                joint, inner = head, rest
        options = [_weighted(option) for option in _split(inner)]
        wanted = min(least + self.draws.below(max(most - least, 0) + 1), len(options))
        urn = Urn([weight for weight, _ in options])
        picked = [options[urn.take(self.draws.part())][1] for _ in range(wanted)]
        return joint.join(self.filled(one, depth + 1) for one in picked)


def fill(text: str, seed: str, wildcards: Wildcards) -> str:
    """``text`` with every choice made."""
    return _Filling(Draws(seed), wildcards).filled(text)


def _closings(text: str) -> dict[int, int]:
    """The closing offset of each bracket; an unclosed one is text."""
    found, opened = {}, []
    for mark in _BARS.finditer(text):
        if mark[0] == "{":
            opened.append(mark.start())
        elif mark[0] == "}" and opened:
            found[opened.pop()] = mark.start()
    return found


def _split(inner: str) -> list[str]:
    """Split at the bars that are outside inner brackets."""
    found, depth, start = [], 0, 0
    for mark in _BARS.finditer(inner):
        depth += {"{": 1, "}": -1, "|": 0}[mark[0]]
        if mark[0] == "|" and depth == 0:
            found.append(inner[start : mark.start()])
            start = mark.end()
    return [*found, inner[start:]]


def _whole(digits: str) -> int:
    """A count as an integer, within limits: Python refuses numbers of thousands of digits."""
    return int(digits) if len(digits) < 10 else 10**9


def _weighted(option: str) -> tuple[int, str]:
    """The weight in billionths, at least one, and the text."""
    weight = _WEIGHT.match(option)
    if weight is None:
        return _UNIT, option
    return max(round(min(float(weight[1]), _HEAVIEST) * _UNIT), 1), option[weight.end() :]

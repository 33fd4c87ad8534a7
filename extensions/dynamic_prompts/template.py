"""The templates: text with ``{a|b}``, ``{2$$a|b|c}``, ``{1-2$$ and $$a|b}`` and ``__name__``, nested at will.

>>> words = Wildcards(Path("/nowhere"))
>>> fill("a {red|blue} fox", "1", words) in ("a red fox", "a blue fox")
True
>>> fill("a [cat:dog:0.5] (fox:1.2)", "1", words)
'a [cat:dog:0.5] (fox:1.2)'
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from modules import UserError, files_below

DEEPEST = 20
"""Choices within choices, and wildcards whose lines name wildcards."""
MOST = 5_000
"""Draws of one prompt: lines that name wildcards may multiply."""
_NAME = re.compile(r"__([^\W_][\w./-]*?)__")
_COUNT = re.compile(r"(\d+)(?:-(\d+))?\$\$")
_WEIGHT = re.compile(r"(\d+(?:\.\d+)?)::")


class Wildcards:
    """Files of a folder, one choice a line; ``#`` begins a remark. ``animal`` is ``animal.txt``."""

    def __init__(self, folder: Path):
        self.folder = folder

    def lines(self, name: str) -> list[str]:
        """The choices of a wildcard. `UserError` where there is no such file."""
        path = (self.folder / f"{name}.txt").resolve()
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            there = sorted(
                p.relative_to(self.folder).with_suffix("").as_posix() for p in files_below(self.folder, (".txt",))
            )
            listed = ", ".join(there[:8]) or "none"
            raise UserError(f"there is no wildcard file {name!r}", hint=f"there are {listed}", field="prompt")
        lines = (line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise UserError(f"the wildcard file {name!r} has no choice in it", hint="write one a line", field="prompt")
        return found


class Draws:
    """Numbers that follow from a seed alone, in every version of Python: SHA-256 in counter mode."""

    def __init__(self, seed: str):
        self._seed = seed
        self._count = 0

    def part(self) -> float:
        """From 0 to below 1."""
        self._count += 1
        if self._count > MOST:
            raise UserError(f"this prompt asks for more than {MOST:,} choices", hint="simplify it", field="prompt")
        digest = sha256(f"{self._seed}/{self._count}".encode()).digest()
        return int.from_bytes(digest[:6]) / 2**48

    def below(self, n: int) -> int:
        return int(self.part() * n)


def fill(text: str, seed: str, wildcards: Wildcards) -> str:
    """``text`` with every choice made."""
    return _filled(text, Draws(seed), wildcards, 0)


def _filled(text: str, draws: Draws, wildcards: Wildcards, depth: int) -> str:
    if depth > DEEPEST:
        raise UserError("the choices of this prompt lie too deep within each other", hint="simplify it", field="prompt")
    pieces: list[str] = []
    closings = _closings(text)
    at = 0
    while at < len(text):
        name = _NAME.match(text, at)
        if name:
            lines = wildcards.lines(name[1])
            pieces.append(_filled(lines[draws.below(len(lines))], draws, wildcards, depth + 1))
            at = name.end()
        elif at in closings:
            pieces.append(_chosen(text[at + 1 : closings[at]], draws, wildcards, depth))
            at = closings[at] + 1
        else:
            pieces.append(text[at])
            at += 1
    return "".join(pieces)


def _closings(text: str) -> dict[int, int]:
    """Where each bracket is closed; one that is not is text."""
    found, opened = {}, []
    for at, letter in enumerate(text):
        if letter == "{":
            opened.append(at)
        elif letter == "}" and opened:
            found[opened.pop()] = at
    return found


def _chosen(inner: str, draws: Draws, wildcards: Wildcards, depth: int) -> str:
    """``2$$a|b|c``: two of them, no one twice, joined by a comma; ``2$$ and $$a|b`` by "and"; ``3::a|b``: a thrice as
    often as b."""
    least = most = 1
    joint = ", "
    if count := _COUNT.match(inner):
        least, most = int(count[1]), int(count[2] or count[1])
        inner = inner[count.end() :]
        head, dollars, rest = inner.partition("$$")
        if dollars and "|" not in head:
            joint, inner = head, rest
    options = [_weighted(option) for option in _split(inner)]
    wanted = min(least + draws.below(max(most - least, 0) + 1), len(options))
    picked = []
    for _ in range(wanted):
        place = draws.part() * sum(weight for weight, _ in options)
        index = next((i for i in range(len(options)) if place < sum(w for w, _ in options[: i + 1])), -1)
        picked.append(options.pop(index)[1])
    return joint.join(_filled(one, draws, wildcards, depth + 1) for one in picked)


def _split(inner: str) -> list[str]:
    """At the bars that are in no inner bracket."""
    found, depth = [""], 0
    for letter in inner:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "|" and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return found


def _weighted(option: str) -> tuple[float, str]:
    weight = _WEIGHT.match(option)
    return (float(weight[1]) or 1e-9, option[weight.end() :]) if weight else (1.0, option)

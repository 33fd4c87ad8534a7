"""Parses a prompt to a tree. Never raises: malformed constructs are text, and are reported with their column.

>>> parsed = parse("a [cat:dog:0.5] in snow AND fog:0.4 <lora:ink:0.7>")
>>> [(part.text, part.weight) for part in parsed.tree.parts]
[('a [cat:dog:0.5] in snow', 1.0), (' fog', 0.4)]
>>> parsed.tree.parts[0].items[1].when, parsed.tree.networks[0].kind
('0.5', 'lora')

>>> for warning in parse("a [cat:dog] ] on \\\\(grass").warnings: print(warning)
column 3: no number behind the last colon: this is de-emphasis, not an edit; an edit reads [before:after:0.5]
column 13: stray ]: taken literally
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from lark import Lark, Token, Transformer, v_args
from lark.lexer import Lexer

from modules.prompt.brackets import Scan, runs, scan
from modules.prompt.stages import Source, and_parts, remove_comments, take_networks
from modules.prompt.tree import Alternate, Break, Edit, Group, NetworkTag, Node, Parsed, Part, Prompt, Text, Warning

_WORDS = re.compile(r"(?P<BREAK>\bBREAK\b)|(?P<TEXT>(?:(?!\bBREAK\b).)+)", re.DOTALL)


def parse(text: str, *, negative: bool = False, comments: bool = True) -> Parsed:
    """Parse a whole prompt. In a negative one AND and network tags are text."""
    source = remove_comments(Source(text)) if comments else Source(text)
    tags: tuple[NetworkTag, ...] = ()
    if not negative:
        source, tags = take_networks(source)
    parts = [(0, source.text, 1.0)] if negative else and_parts(source.text)
    warnings: list[Warning] = []
    tokens: list[Iterable[Token]] = [[Token("NETWORK", tag) for tag in tags]]
    for start, part, weight in parts:
        tokens += _part(part, weight, start, source, warnings), [Token("AND", "AND")]
    tree: Prompt = _grammar().parse(chain.from_iterable(tokens[:-1]), start="prompt")
    return Parsed(tree, tuple(warnings))


def parse_part(text: str) -> tuple[Node, ...]:
    """Parse one AND part, from which comments and tags are already removed."""
    items: tuple[Node, ...] = _grammar().parse(_terminals(text, scan(text), lambda at: at + 1), start="items")
    return items


def _part(text: str, weight: float, start: int, source: Source, warnings: list[Warning]) -> Iterator[Token]:
    """The terminals of the part that begins at ``start`` of ``source``; problems are added to ``warnings``."""

    def column(at: int) -> int:
        return source.column(start + at)

    found = scan(text)
    warnings += [Warning(column(at), problem) for at, problem in found.problems]
    return chain(_terminals(text, found, column), [Token("WEIGHT", _Header(text, weight, column(0)))])


def _terminals(text: str, found: Scan, column: Callable[[int], int]) -> Iterator[Token]:
    number = -1
    for start, end, terminal in runs(text, found.marks):
        if start == number:
            yield Token("WHEN", found.whens[start - 1][1], column(start))
        elif terminal == "TEXT":
            for match in _WORDS.finditer(text, start, end):
                yield Token(match.lastgroup, match[0], column(match.start()))
        else:
            yield Token(terminal, text[start:end], column(start))
            if start in found.whens:
                number = start + 1


@dataclass(frozen=True)
class _Header:
    """The value of the terminal at the end of a part."""

    text: str
    weight: float
    column: int

    def __str__(self) -> str:
        return str(self.weight)


class _Scanned(Lexer):  # type: ignore[misc]
    """A lark lexer that passes on the scanner's terminals."""

    def __init__(self, _conf: Any):
        pass

    def lex(self, terminals: Iterator[Token]) -> Iterator[Token]:
        return terminals


@v_args(inline=True)
class _Build(Transformer):  # type: ignore[misc]
    """Builds nodes while the parser reduces, so that deep nesting needs no recursive second pass."""

    def prompt(self, *children: Any) -> Prompt:
        networks = tuple(child.value for child in children if _is(child, "NETWORK"))
        return Prompt(tuple(child for child in children if isinstance(child, Part)), networks)

    def part(self, items: tuple[Node, ...], end: Token) -> Part:
        header: Any = end.value
        return Part(header.text, header.weight, items, header.column)

    def items(self, *nodes: Node) -> tuple[Node, ...]:
        return nodes

    def text(self, token: Token) -> Text:
        return Text(token.value, token.start_pos)

    def word_break(self, token: Token) -> Break:
        return Break(token.start_pos)

    def round(self, start: Token, items: tuple[Node, ...], *rest: Any) -> Group:
        return Group("(", items, rest[1] if len(rest) == 3 else None, start.start_pos)

    def square(self, start: Token, items: tuple[Node, ...], _end: Token) -> Group:
        return Group("[", items, None, start.start_pos)

    def edit(self, start: Token, *children: Any) -> Edit:
        *texts, when, _end = (child for child in children if not _is(child, "COLON"))
        before, after = texts if len(texts) == 2 else ((), texts[0])
        return Edit(before, after, when.value, start.start_pos)

    def alternate(self, start: Token, *children: Any) -> Alternate:
        return Alternate(tuple(child for child in children if not isinstance(child, Token)), start.start_pos)


def _is(child: Any, terminal: str) -> bool:
    return isinstance(child, Token) and child.type == terminal


@cache
def _grammar() -> Lark:
    text = Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8")
    return Lark(text, parser="lalr", lexer=_Scanned, transformer=_Build(), start=["prompt", "items"])

"""The first stages of a prompt: removes comments, extracts network tags, splits at AND.

Each stage works on the text that the one before it left, as A1111 does; a `Source` remembers the columns.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import count

from modules.prompt.tree import NetworkTag

_LINE_COMMENT = re.compile(r"(?:^|\n)#[^\n]*(?:\n|$)")
_COMMENT = re.compile(r"#[^\n]*(?:\n|$)")
_NETWORK = re.compile(r"<(\w+):([^>]+)>")
_FIRST_MARK = 0xF0000
"""Characters from here on have no meaning of their own."""
_AND = re.compile(r"\bAND\b")
_WEIGHT = re.compile(r"\s*([-+]?(?:\d+\.?|\d*\.\d+))")


@dataclass(frozen=True)
class Source:
    """A text with the offsets of its characters in the original."""

    text: str
    starts: tuple[int, ...] = (0,)
    """Ascending offsets in ``text`` from which on ``origins`` hold."""
    origins: tuple[int, ...] = (0,)
    parent: Source | None = None

    def offset(self, position: int) -> int:
        """The offset in the original of the character at ``position``."""
        at = bisect_right(self.starts, position) - 1
        position += self.origins[at] - self.starts[at]
        return self.parent.offset(position) if self.parent else position

    def column(self, position: int) -> int:
        return self.offset(position) + 1

    def without(self, matches: Iterable[re.Match[str]], replacement: str = "") -> Source:
        """The text with every match replaced."""
        pieces, starts, origins = [], [0], [0]
        done = length = 0
        for match in matches:
            pieces += [self.text[done : match.start()], replacement]
            length += match.start() - done + len(replacement)
            done = match.end()
            starts.append(length)
            origins.append(done)
        return Source("".join([*pieces, self.text[done:]]), tuple(starts), tuple(origins), self)


def remove_comments(source: Source) -> Source:
    source = source.without(_LINE_COMMENT.finditer(source.text), "\n")
    return source.without(_COMMENT.finditer(source.text), "\n")


def take_networks(source: Source) -> tuple[Source, tuple[NetworkTag, ...]]:
    # Nothing behind the last > can match, and looking there would take quadratic time.
    matches = list(_NETWORK.finditer(source.text, 0, source.text.rfind(">") + 1))
    return source.without(matches), tuple(_tag(match, source.column(match.start())) for match in matches)


def _tag(match: re.Match[str], column: int) -> NetworkTag:
    arguments = match[2].split(":")
    named = tuple((key, value) for key, _, value in (a.partition("=") for a in arguments if a.count("=") == 1))
    return NetworkTag(match[1], tuple(a for a in arguments if a.count("=") != 1), named, column, match[2])


def kept_tags(text: str, kinds: Collection[str]) -> Iterator[tuple[int, str]]:
    """The offsets and beginnings of what looks like a tag of ``kinds`` in a text from which tags are taken: A1111 keeps
    it as words where the > is missing, or the colon, or a letter stands for either that only looks like it.

    >>> list(kept_tags("a <lora:ink:0.8, a fox <lora> < 3", ["lora"]))
    [(2, '<lora:ink:0.8'), (23, '<lora>')]
    """
    names = "|".join(re.escape(kind) for kind in kinds)
    for match in (
        re.finditer(rf"[<＜〈]\s*(?:{names})\b[^\s,<>＞〉]{{0,40}}[>＞〉]?", text, re.IGNORECASE) if names else ()
    ):
        yield match.start(), match[0]


def mark_networks(text: str) -> str:
    """``text`` without comments, each network tag replaced by `network_mark` of its number: its place in the brackets.

    >>> mark_networks("[<lora:ink:1>:fox:5]") == f"[{network_mark(0)}:fox:5]"
    True
    """
    source, numbers = remove_comments(Source(text)), count()
    return _NETWORK.sub(lambda _: network_mark(next(numbers)), source.text)


def network_mark(number: int) -> str:
    """A character that no text has."""
    return chr(_FIRST_MARK + number)


def and_parts(text: str) -> list[tuple[int, str, float]]:
    """(offset, text, weight) of each AND part. Trailing white space and the weight are cut, leading space is kept."""
    bounds = [0, *(bound for match in _AND.finditer(text) for bound in match.span()), len(text)]
    return [(start, *_weighted(text[start:end])) for start, end in zip(bounds[::2], bounds[1::2], strict=True)]


def _weighted(part: str) -> tuple[str, float]:
    part = part.rstrip()
    head, colon, tail = part.rpartition(":")
    weight = _WEIGHT.fullmatch(tail) if colon else None
    return (head.rstrip(), float(weight[1])) if weight else (part, 1.0)


def strip_comments(text: str) -> str:
    """``text`` without comments: a ``#`` and the rest of its line become a line break.

    >>> strip_comments("a cat # not a dog")
    'a cat \\n'
    """
    return remove_comments(Source(text)).text


def extract_networks(text: str) -> tuple[str, tuple[NetworkTag, ...]]:
    """``text`` without its ``<kind:arguments>`` tags, and the tags.

    >>> text, tags = extract_networks("a fox <lora:watercolour:0.8:te=0.5> in snow")
    >>> text
    'a fox  in snow'
    >>> tags[0].kind, tags[0].positional, tags[0].named
    ('lora', ('watercolour', '0.8'), (('te', '0.5'),))
    """
    source, tags = take_networks(Source(text))
    return source.text, tags


def split_and(text: str) -> tuple[tuple[str, float], ...]:
    """The AND parts of a text, each with its weight.

    >>> split_and("a cat :1.2 AND a dog AND fog:-0.5")
    (('a cat', 1.2), (' a dog', 1.0), (' fog', -0.5))
    """
    return tuple((part, weight) for _, part, weight in and_parts(text))

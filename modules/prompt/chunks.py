"""Splits weighted text into chunks of 75 tokens for the text encoder.

>>> from modules.prompt.tokens import default_tokenizer
>>> chunked = chunk("a (red:1.3) fox BREAK in snow", default_tokenizer())
>>> [(c.ids[:6], c.weights[:5]) for c in chunked.chunks]  # doctest: +NORMALIZE_WHITESPACE
[((49406, 320, 736, 3240, 49407, 49407), (1.0, 1.0, 1.3, 1.0, 1.0)),
 ((49406, 530, 2583, 49407, 49407, 49407), (1.0, 1.0, 1.0, 1.0, 1.0))]
>>> chunked.count, chunked.limit
(77, 150)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from modules.prompt.emphasis import Piece, attention
from modules.prompt.tokens import COMMA, END, START, Tokenizer

LENGTH = 75
"""Tokens of the text in a chunk; 77 with start and end."""

Emphasis = Literal["Original", "No norm", "Ignore", "None"]
EMPHASIS: tuple[Emphasis, ...] = ("Original", "No norm", "Ignore", "None")
"""Emphasis modes: restore the mean, use weights as they are, ignore weights, or do not parse the syntax."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The place of an embedding: its ``vectors`` vectors begin at token ``offset`` of the chunk, not counting the
    start token.
    """

    offset: int
    name: str
    vectors: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """77 ids and their weights: the start token, ``length`` tokens of the text, end tokens."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    marks: tuple[Mark, ...]
    length: int
    moved: int = 0
    """The number of tokens moved here from the previous chunk by the comma rule."""


EMPTY = Chunk((START,) + (END,) * (LENGTH + 1), (1.0,) * (LENGTH + 2), (), 0)
"""The chunk of an empty text."""


@dataclass(frozen=True, slots=True)
class Chunked:
    """The chunks of a text; at least one."""

    chunks: tuple[Chunk, ...]
    count: int
    """What the token counter shows: 75 for each chunk but the last, whose own tokens count."""

    @property
    def limit(self) -> int:
        """The capacity that the token counter shows: 75 for each chunk."""
        return -(-max(self.count, 1) // LENGTH) * LENGTH


class Embeddings:
    """Finds embedding names in token ids: in any case, within words too, the longest first."""

    def __init__(self, tokenizer: Tokenizer, lengths: Iterable[tuple[str, int]] = ()):
        self._by_first: dict[int, list[tuple[tuple[int, ...], str, int]]] = {}
        for name, vectors in lengths:
            if ids := tuple(tokenizer.ids(name)):
                self._by_first.setdefault(ids[0], []).append((ids, name, min(vectors, LENGTH)))
        for candidates in self._by_first.values():
            candidates.sort(key=lambda candidate: len(candidate[0]), reverse=True)

    def at(self, ids: Sequence[int], position: int) -> tuple[str, int, int] | None:
        """(name, vectors, tokens taken by the name) of the embedding named at ``position``."""
        for name_ids, name, vectors in self._by_first.get(ids[position], ()):
            if tuple(ids[position : position + len(name_ids)]) == name_ids:
                return name, vectors, len(name_ids)
        return None


def chunk(
    text: str,
    tokenizer: Tokenizer,
    *,
    embeddings: Embeddings | None = None,
    emphasis: Emphasis = "Original",
    backtrack: int = 20,
) -> Chunked:
    """Split the text of one schedule entry into chunks.

    Where a chunk is full, the phrase behind a comma among its last ``backtrack`` tokens moves to the next; 0: never.
    """
    pieces = (Piece(text, 1.0),) if emphasis == "None" else attention(text)
    chunker = _Chunker(backtrack)
    for piece in pieces:
        if piece.is_break:
            chunker.close()
            continue
        ids = tokenizer.ids(piece.text)
        position = 0
        while position < len(ids):
            chunker.make_room(ids[position])
            found = embeddings.at(ids, position) if embeddings else None
            if found:
                name, vectors, taken = found
                chunker.insert(name, vectors, piece.weight)
                position += taken
            else:
                chunker.append(ids[position], piece.weight)
                position += 1
    return chunker.finish()


@dataclass
class _Chunker:
    """Builds chunks: the one being filled, and those that are full."""

    backtrack: int
    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    comma: int = -1
    """The position of the last comma in this chunk."""
    moved: int = 0
    done: list[Chunk] = field(default_factory=list)

    def make_room(self, token: int) -> None:
        """Start a new chunk if needed before ``token``, or before the embedding that begins with it."""
        full = len(self.ids) == LENGTH
        if token == COMMA:
            self.comma = len(self.ids)
        elif full and self.backtrack and self.comma != -1 and LENGTH - self.comma <= self.backtrack:
            behind = self.comma + 1
            ids, weights = self.ids[behind:], self.weights[behind:]
            del self.ids[behind:], self.weights[behind:]  # marks stay, as in the reference
            self.close()
            self.ids, self.weights, self.moved = ids, weights, len(ids)
        if len(self.ids) == LENGTH:
            self.close()

    def append(self, token: int, weight: float) -> None:
        self.ids.append(token)
        self.weights.append(weight)

    def insert(self, name: str, vectors: int, weight: float) -> None:
        if len(self.ids) + vectors > LENGTH:
            self.close()
        self.marks.append(Mark(len(self.ids), name, vectors))
        self.ids += [0] * vectors
        self.weights += [weight] * vectors

    def close(self) -> None:
        length = len(self.ids)
        ids = (START, *self.ids, *[END] * (LENGTH + 1 - length))
        weights = (1.0, *self.weights, *[1.0] * (LENGTH + 1 - length))
        self.done.append(Chunk(ids, weights, tuple(self.marks), length, self.moved))
        self.ids, self.weights, self.marks, self.comma, self.moved = [], [], [], -1, 0

    def finish(self) -> Chunked:
        count = LENGTH * len(self.done) + len(self.ids)
        if self.ids or not self.done:
            self.close()
        return Chunked(tuple(self.done), count)

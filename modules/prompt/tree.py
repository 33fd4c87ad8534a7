"""What a prompt is made of, as frozen nodes. Columns count characters of the person's own text from 1."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Warning:
    """Something that will not do what it looks like."""

    column: int
    message: str

    def __str__(self) -> str:
        return f"column {self.column}: {self.message}"


@dataclass(frozen=True, slots=True)
class Text:
    """Letters as typed, escapes included."""

    text: str
    column: int


@dataclass(frozen=True, slots=True)
class Break:
    """The word BREAK, which begins a new chunk of 75 tokens."""

    column: int


@dataclass(frozen=True, slots=True)
class Group:
    """``(items)``, ``(items:tail)`` or ``[items]``: brackets that weigh, and that the schedule leaves as they are."""

    bracket: str
    """The opening one: ( or [."""
    items: tuple[Node, ...]
    tail: tuple[Node, ...] | None
    """What follows the colon, in most cases a number; None without colon."""
    column: int


@dataclass(frozen=True, slots=True)
class Edit:
    """``[before:after:when]``: before, up to and including step ``when``, then after."""

    before: tuple[Node, ...]
    after: tuple[Node, ...]
    when: str
    """The number as written: a point in it makes it a fraction of the steps."""
    column: int


@dataclass(frozen=True, slots=True)
class Alternate:
    """``[a|b|]``: another choice at each step, in turn."""

    choices: tuple[tuple[Node, ...], ...]
    column: int


Node = Text | Break | Group | Edit | Alternate


@dataclass(frozen=True, slots=True)
class NetworkTag:
    """``<kind:argument:name=value>``: an extra network that is active for the image."""

    kind: str
    positional: tuple[str, ...]
    named: tuple[tuple[str, str], ...]
    column: int = 1
    arguments: str = ""
    """All of them as written: brackets may hold colons that part nothing."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of the texts that AND joins."""

    text: str
    weight: float
    items: tuple[Node, ...]
    column: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """A whole prompt: its texts, and the networks it names."""

    parts: tuple[Part, ...]
    networks: tuple[NetworkTag, ...] = ()


@dataclass(frozen=True, slots=True)
class Parsed:
    """The tree of a prompt and what was taken literally in it."""

    tree: Prompt
    warnings: tuple[Warning, ...]

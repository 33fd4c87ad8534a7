"""The syntax tree of a prompt, as frozen nodes. Columns count characters of the original text from 1."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Warning:
    """A warning about text that does not do what it looks like."""

    column: int
    message: str

    def __str__(self) -> str:
        return f"column {self.column}: {self.message}"


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text as typed, escapes included."""

    text: str
    column: int


@dataclass(frozen=True, slots=True)
class Break:
    """The word BREAK, which begins a new chunk of 75 tokens."""

    column: int


@dataclass(frozen=True, slots=True)
class Group:
    """``(items)``, ``(items:tail)`` or ``[items]``: emphasis brackets, which the schedule leaves as they are."""

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
    """``[a|b|]``: alternates between the choices from step to step."""

    choices: tuple[tuple[Node, ...], ...]
    column: int


Node = Text | Break | Group | Edit | Alternate


@dataclass(frozen=True, slots=True)
class NetworkTag:
    """``<kind:argument:name=value>``: an extra network that is active for the whole image."""

    kind: str
    positional: tuple[str, ...]
    named: tuple[tuple[str, str], ...]
    column: int = 1
    arguments: str = ""
    """All of them as written: brackets may hold colons that part nothing."""


@dataclass(frozen=True, slots=True)
class Part:
    """One AND part of a prompt."""

    text: str
    weight: float
    items: tuple[Node, ...]
    column: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """A whole prompt: its AND parts, and the networks it names."""

    parts: tuple[Part, ...]
    networks: tuple[NetworkTag, ...] = ()


@dataclass(frozen=True, slots=True)
class Parsed:
    """The result of parsing: the tree, and warnings about what was taken literally."""

    tree: Prompt
    warnings: tuple[Warning, ...]

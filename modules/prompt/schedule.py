"""Prompt schedules: expands edits and alternations to the text at each step.

>>> for segment in schedule("a [cat:dog:0.5] in snow", 20): print(segment)
until 10: a cat in snow
until 20: a dog in snow
>>> for segment in schedule("a [big :5]cat[ with a hat::12]", 20): print(segment)
until 5: a cat with a hat
until 12: a big cat with a hat
until 20: a big cat
>>> for segment in schedule("a [red|blue] fox", 4): print(segment)
until 1: a red fox
until 2: a blue fox
until 3: a red fox
until 4: a blue fox

Constructs nest; each number counts steps of the whole run.

>>> for segment in schedule("[[oak:pine:4]:palm:8] at dawn", 10): print(segment)
until 4: oak at dawn
until 8: pine at dawn
until 10: palm at dawn

The second pass of hires fix goes on counting: fractions from 1.0 to 2.0, steps from the first pass's last.

>>> for segment in schedule("a [cat:dog:1.5]", 10, base_steps=20, second_pass=True): print(segment)
until 5: a cat
until 10: a dog
>>> for segment in schedule("a [cat:dog:0.5]", 10, base_steps=20, second_pass=True): print(segment)
until 10: a dog

Emphasis stays in the text, and what is no construct is text.

>>> for segment in schedule("(a [cat]:1.2) [dog:bird] ]", 20): print(segment)
until 20: (a [cat]:1.2) [dog:bird] ]
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from modules.params.profile import Profile
from modules.prompt.parse import parse_part
from modules.prompt.tree import Alternate, Break, Edit, Group, Node, Text


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the schedule: ``text`` holds up to and including step ``until``; steps count from 1."""

    until: int
    text: str

    def __str__(self) -> str:
        return f"until {self.until}: {self.text}"


@dataclass(frozen=True)
class Pass:
    """How a pass counts steps: its own, and those of the first pass of hires fix."""

    steps: int
    base_steps: int
    second: bool = False
    old: bool = False
    """A1111's setting ``use_old_scheduling``: below 1 a fraction, else a step of the first pass, in both passes."""

    @property
    def end(self) -> int:
        return self.base_steps if self.old else self.steps

    def when(self, number: str) -> int:
        """The last step before a switch, from a number as written. 0 or less: the switch comes before the first
        step.

        >>> [Pass(20, 20).when(number) for number in ("0.5", "5", "5.", "-3", "1e1")]
        [10, 5, 20, -3, 10]
        """
        value = float(number)
        if self.old:
            value = value * self.base_steps if value < 1 else value
        elif "." in number:
            value = (value - 1 if self.second else value) * self.steps
        elif self.second:
            value -= self.base_steps
        return int(max(min(value, self.end), -1e9))


def schedule(
    text: str, steps: int, *, base_steps: int | None = None, second_pass: bool = False, old: bool = False
) -> tuple[Segment, ...]:
    """The schedule of a prompt over ``steps`` steps. ``base_steps``: those of the first pass, if this is the second.

    Steps are those of the sampler, doubled by the caller where a profile says so.
    """
    return schedule_nodes(parse_part(text), Pass(steps, base_steps or steps, second_pass, old))


def schedule_nodes(items: Sequence[Node], run: Pass) -> tuple[Segment, ...]:
    """The schedule of a parsed prompt."""
    program = _Program(items, run)
    return tuple(Segment(end, program.at(end)) for end in program.ends())


def entry_at(segments: Sequence[Segment], call: int, profile: Profile) -> int:
    """The index of the segment that holds at network call ``call``, counted from 0 in each pass.

    A1111 compares ``call <= until``, so the first segment lasts a call longer than its number says, and after the last
    segment the first returns. The exact profile counts ``call`` in steps from 0 and switches after step ``until``.

    >>> from modules.params.profile import A1111, EXACT
    >>> cat_dog = schedule("[cat:dog:0.5]", 4)
    >>> [cat_dog[entry_at(cat_dog, call, A1111)].text for call in range(4)]
    ['cat', 'cat', 'cat', 'dog']
    >>> [cat_dog[entry_at(cat_dog, call, EXACT)].text for call in range(4)]
    ['cat', 'cat', 'dog', 'dog']
    """
    step = call if profile.late_edits else call + 1
    found = bisect_left(segments, step, key=lambda segment: segment.until)
    if found < len(segments):
        return found
    return 0 if profile.late_edits else len(segments) - 1


@dataclass(slots=True)
class _Switch:
    """Op: continue after this op while ``step <= when``, else at ``after``."""

    when: int
    after: int = 0


@dataclass(slots=True)
class _Choice:
    """Op: continue at one of ``starts`` in turn."""

    starts: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Jump:
    """Op: continue at ``to``."""

    to: int = 0


_Op = str | _Switch | _Choice | _Jump


class _Program:
    """A tree compiled to a list of texts and jumps: no recursion at any depth, and the text at a step is found in
    one loop.
    """

    def __init__(self, items: Sequence[Node], run: Pass):
        self.run = run
        self.ops: list[_Op] = []
        self._compile(items)
        self.whens = sorted({op.when for op in self.ops if isinstance(op, _Switch)})
        self.periods = sorted({len(op.starts) for op in self.ops if isinstance(op, _Choice)})
        self._known: dict[tuple[int, ...], str] = {}

    def ends(self) -> list[int]:
        """The last steps of all segments."""
        if self.periods:
            return list(range(1, self.run.end + 1))
        return sorted({when for when in self.whens if when >= 1} | {self.run.end})

    def at(self, step: int) -> str:
        """The text at a step. Steps with equal choices share one string."""
        choices = (bisect_left(self.whens, step), *((step - 1) % period for period in self.periods))
        if choices not in self._known:
            self._known[choices] = "".join(self._texts(step))
        return self._known[choices]

    def _texts(self, step: int) -> Iterator[str]:
        at = 0
        while at < len(self.ops):
            op = self.ops[at]
            at += 1
            if isinstance(op, str):
                yield op
            elif isinstance(op, _Jump):
                at = op.to
            elif isinstance(op, _Choice):
                at = op.starts[(step - 1) % len(op.starts)]
            elif step > op.when:
                at = op.after

    def _compile(self, items: Sequence[Node]) -> None:
        """Compile iteratively: pending nodes are on a stack, with notes of jump targets to fill in once known."""
        waiting: list[Node | str | _Jump | _Here] = [*reversed(items)]
        while waiting:
            node = waiting.pop()
            if isinstance(node, _Here):
                node.note(len(self.ops))
            elif isinstance(node, (str, _Jump)):
                self.ops.append(node)
            elif isinstance(node, Text):
                self.ops.append(node.text)
            elif isinstance(node, Break):
                self.ops.append("BREAK")
            else:
                waiting += reversed(self._parts(node))

    def _parts(self, node: Group | Edit | Alternate) -> list[Node | str | _Jump | _Here]:
        if isinstance(node, Group):
            tail = [] if node.tail is None else [":", *node.tail]
            return [node.bracket, *node.items, *tail, ")" if node.bracket == "(" else "]"]
        end = _Jump()
        if isinstance(node, Edit):
            switch = _Switch(self.run.when(node.when))
            self.ops.append(switch)
            return [*node.before, end, _Here(switch), *node.after, _Here(end)]
        choice = _Choice()
        self.ops.append(choice)
        parts: list[Node | str | _Jump | _Here] = []
        for items in node.choices:
            parts += [_Here(choice), *items, end]
        return [*parts, _Here(end)]


@dataclass(slots=True)
class _Here:
    """A marker on the stack for a jump target."""

    op: _Switch | _Choice | _Jump

    def note(self, place: int) -> None:
        if isinstance(self.op, _Switch):
            self.op.after = place
        elif isinstance(self.op, _Choice):
            self.op.starts.append(place)
        else:
            self.op.to = place

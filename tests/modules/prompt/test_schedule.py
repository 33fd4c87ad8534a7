"""Schedules against the specification's grammar, parsed in the plainest way; and hostile texts."""

from __future__ import annotations

import re
import time
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modules.params.profile import A1111, EXACT
from modules.prompt.emphasis import attention
from modules.prompt.parse import parse
from modules.prompt.schedule import Segment, entry_at, schedule

Eval = Callable[[int], str]
NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*\]")
STEPS = 10


class Plain:
    """Recursive descent over the grammar of editing, for short texts: at each bracket it tries what may start there."""

    def __init__(self, text: str):
        self.text = text
        self.ends = {STEPS}

    def schedule(self) -> list[tuple[int, str]]:
        parts: list[Eval] = []
        at = 0
        while at < len(self.text):
            found = self.construct(at) if self.text[at] in "([" else None
            if found is None:
                end = self.escape(at) if self.text[at] == "\\" else at + 1
                if end is None or self.text[at] == "|":
                    return [(STEPS, self.text)]
                found = self.literal(at, end)
            at = found[0]
            parts.append(found[1])
        self.ends = {STEPS}
        for part in parts:
            part(0)  # notes the end points
        ends = sorted(end for end in self.ends if 1 <= end <= STEPS)
        return [(end, "".join(part(end) for part in parts)) for end in ends]

    def literal(self, start: int, end: int) -> tuple[int, Eval]:
        return end, lambda _: self.text[start:end]

    def escape(self, at: int) -> int | None:
        return at + 2 if at + 1 < len(self.text) and self.text[at + 1] != "\n" else None

    def prompt(self, at: int) -> tuple[int, Eval] | None:
        """As much as can be read; what follows is a colon, a bar, a closing bracket or the end."""
        parts: list[Eval] = []
        while at < len(self.text) and self.text[at] not in ":|)]":
            if self.text[at] in "([":
                found = self.construct(at)
            else:
                end = self.escape(at) if self.text[at] == "\\" else at + 1
                found = self.literal(at, end) if end else None
            if found is None:
                return None
            at = found[0]
            parts.append(found[1])
        return at, lambda step: "".join(part(step) for part in parts)

    def construct(self, at: int) -> tuple[int, Eval] | None:
        texts: list[Eval] = []
        marks = ""
        colon = at
        here = at + 1
        while True:
            found = self.prompt(here)
            if found is None or found[0] == len(self.text):
                return None
            texts.append(found[1])
            mark = self.text[found[0]]
            here = found[0] + 1
            if mark in ")]":
                break
            marks += mark
            colon = found[0]
        if (self.text[at] == "(") != (mark == ")"):
            return None
        if self.text[at] == "(":
            return (here, lambda step: "(" + ":".join(t(step) for t in texts) + ")") if marks in ("", ":") else None
        if not marks:
            return here, lambda step: "[" + texts[0](step) + "]"
        if set(marks) == {"|"}:
            return here, lambda step: self.choice(texts, step)
        number = NUMBER.fullmatch(self.text, colon + 1, here)
        if marks not in (":", "::") or not number:
            return None
        when = float(number[1]) * STEPS if "." in number[1] else float(number[1])
        last = int(min(when, STEPS))
        before: Eval = texts[0] if marks == "::" else lambda _: ""
        return here, lambda step: self.edit(before, texts[-2], last, step)

    def choice(self, texts: list[Eval], step: int) -> str:
        if step == 0:
            self.ends.update(range(1, STEPS + 1))
            for text in texts:
                text(0)
            return ""
        return texts[(step - 1) % len(texts)](step)

    def edit(self, before: Eval, after: Eval, last: int, step: int) -> str:
        if step == 0:
            self.ends.add(last)
            before(0), after(0)
            return ""
        return before(step) if step <= last else after(step)


PIECES = [
    "[",
    "]",
    "[",
    "]",
    "(",
    ")",
    ":",
    ":",
    "|",
    "a",
    "b ",
    "0.5",
    ":3]",
    ":.8 ]",
    "\\",
    "\\]",
    "\n",
    ":1e1]",
    "[c:d:4]",
    "[x|y]",
]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
@example("[a [b:c:5]")
@example("(a:[b:c:5]:d:e)")
@example("[[a:b:2]:[c|d]:0.7]")
@example("[a|(b|c)]")
@example("[a:b|c:5]")
@example("x\\\n[a:b:3]")
def test_schedules_follow_the_grammar_of_the_specification(text: str) -> None:
    assert [(segment.until, segment.text) for segment in schedule(text, STEPS)] == Plain(text).schedule()


def test_whole_numbers_beyond_the_range_of_floats_are_the_last_step() -> None:
    assert schedule("[a:b:" + "9" * 400 + "]", 10) == (Segment(10, "a"),)
    assert schedule("[a:b:-1e999]", 10) == (Segment(10, "b"),)


def test_the_a1111_profile_switches_a_call_late_and_wraps_around() -> None:
    segments = schedule("[a:b:3]", 6)
    texts = "".join(segments[entry_at(segments, call, A1111)].text for call in range(9))
    assert texts == "aaaa" + "bbb" + "aa"


def test_the_exact_profile_switches_after_the_step_and_stays() -> None:
    segments = schedule("[a:b:3]", 6)
    assert "".join(segments[entry_at(segments, step, EXACT)].text for step in range(9)) == "aaa" + "bbbbbb"


HOSTILE = {
    "nested square": "[" * 10_000 + "a" + "]" * 10_000,
    "nested round": "(" * 10_000 + "a" + ":1.1)" * 10_000,
    "unclosed": "([" * 50_000,
    "stray": "])" * 50_000,
    "crossing": "([)]" * 25_000,
    "edits": "[a:b:0.5]" * 1_000,
    "nested edits": "[" * 5_000 + "a" + ":b:0.5]" * 5_000,
    "alternations": "[a|b]" * 1_000,
    "nested alternations": "[" * 10_000 + "a" + "|]" * 10_000,
    "bars": "[" + "|" * 50_000 + "]",
    "words": "a cat, " * 14_000,
    "blanks": "BREAK" + " " * 100_000 + "BREAK",
    "tags": "<a:" * 33_000,
    "and": "a AND " * 5_000,
    "surrogates": "\ud800[\0:\u202e:3]" * 2_000,
    "backslashes": "\\" * 99_999,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_takes_no_quadratic_time(name: str) -> None:
    """A second or so on a free core, where time by the square of the length would be hours."""
    text = HOSTILE[name]
    parse("warm")
    start = time.process_time()
    parse(text)
    schedule(text, 20)
    attention(text)
    assert time.process_time() - start < 30.0


@pytest.mark.parametrize("name", ["nested square", "nested edits", "edits", "unclosed", "surrogates"])
def test_memory_is_under_a_kilobyte_a_character(name: str) -> None:
    """100,000 characters: under 100 MB."""
    text = HOSTILE[name]
    parse("warm")
    tracemalloc.start()
    try:
        parse(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1000 * len(text)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=200))
def test_no_text_raises(text: str) -> None:
    for part in parse(text).tree.parts:
        schedule(part.text, 7, base_steps=5, second_pass=True)
    attention(text)

"""Emphasis against the rule of the specification, carried out literally."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modules.prompt.emphasis import ROUND, SQUARE, attention

TEXTS = st.lists(
    st.sampled_from(
        ["(", ")", "[", "]", ":", "1.3", "-.5", "0", "a", " ", "BREAK", "\\", "\\(", "x BREAK y", "\n", ":1.2)"]
    ),
    max_size=40,
).map("".join)


def literally(text: str) -> list[tuple[str, float]]:
    """Spec 1.6, step by step, in quadratic time."""
    pieces: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(start: int, factor: float) -> None:
        pieces[start:] = [(piece, weight * factor) for piece, weight in pieces[start:]]

    at = 0
    while at < len(text):
        numbered = re.compile(r":\s*([+-]?\d*\.?\d*)\s*\)").match(text, at)
        if text[at] == "\\":
            escaped = text[at + 1 : at + 2] if text[at + 1 : at + 2] in tuple("()[]\\") else ""
            pieces.append((escaped, 1.0))
            at += 1 + len(escaped)
        elif text[at] in "([":
            opened[text[at]].append(len(pieces))
            at += 1
        elif text[at] == ")" and opened["("]:
            multiply(opened["("].pop(), 1.1)
            at += 1
        elif text[at] == "]" and opened["["]:
            multiply(opened["["].pop(), 1 / 1.1)
            at += 1
        elif text[at] == ":" and opened["("] and numbered and re.search(r"\d", numbered[1]):
            multiply(opened["("].pop(), float(numbered[1]))
            at = numbered.end()
        else:
            end = at + 1
            while text[at] not in "()[]:" and end < len(text) and text[end] not in "\\()[]:":
                end += 1
            words = re.split(r"\s*\bBREAK\b\s*", text[at:end])
            for i, word in enumerate(words):
                pieces += [("BREAK", -1.0)] if i else []
                pieces.append((word, 1.0))
            at = end
    for start in opened["("]:
        multiply(start, 1.1)
    for start in opened["["]:
        multiply(start, 1 / 1.1)
    joined: list[tuple[str, float]] = []
    for piece, weight in pieces or [("", 1.0)]:
        if joined and joined[-1][1] == weight:
            joined[-1] = (joined[-1][0] + piece, weight)
        else:
            joined.append((piece, weight))
    return joined


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("([a)b]c")
@example("(a:1.2)(b:1.2)[[[c")
@example("(a:0)(b BREAK c:2)\\d")
def test_weights_are_those_of_the_specification_to_the_last_bit(text: str) -> None:
    assert [(piece.text, piece.weight) for piece in attention(text)] == literally(text)


def test_malformed_weight_is_text_and_its_brackets_weigh() -> None:
    (piece,) = attention("(a:1.3.5)")
    assert (piece.text, piece.weight) == ("a:1.3.5", ROUND)


def test_break_with_another_weight_is_a_word() -> None:
    assert [piece.is_break for piece in attention("a BREAK b")] == [False, True, False]
    assert not any(piece.is_break for piece in attention("(a BREAK b)"))


@pytest.mark.parametrize("depth", [60, 64, 65, 100, 3000])
def test_depth_multiplies(depth: int) -> None:
    (piece,) = attention("(" * depth + "a" + ")" * depth)
    assert piece.weight == pytest.approx(ROUND**depth, rel=1e-12)
    (piece,) = attention("[" * depth + "a")
    assert piece.weight == pytest.approx(SQUARE**depth, rel=1e-12)
    assert [p.weight for p in attention("(" * depth + "a" + ":0)" * depth)] == [0.0]

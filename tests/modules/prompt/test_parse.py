"""The tree of a prompt, and what is said about text that is no construct."""

from __future__ import annotations

import pytest

from modules.prompt.parse import parse, parse_part
from modules.prompt.stages import Source, remove_comments, take_networks
from modules.prompt.tree import Alternate, Break, Edit, Group, NetworkTag, Text


def warned(text: str) -> list[tuple[int, str]]:
    return [(warning.column, warning.message.split(":")[0]) for warning in parse(text).warnings]


def test_tree_has_every_construct_of_the_language() -> None:
    assert parse_part("a (b:1.3) BREAK [c|[d:e:5]|]") == (
        Text("a ", 1),
        Group("(", (Text("b", 4),), (Text("1.3", 6),), 3),
        Text(" ", 10),
        Break(11),
        Text(" ", 16),
        Alternate(
            ((Text("c", 18),), (Edit((Text("d", 21),), (Text("e", 23),), "5", 20),), ()),
            17,
        ),
    )


def test_tags_are_taken_out_and_the_parts_of_and_are_apart() -> None:
    tree = parse("a <lora:x:0.5:te=1>cat:1.5 AND dog").tree
    assert tree.networks == (NetworkTag("lora", ("x", "0.5"), (("te", "1"),), 3, "x:0.5:te=1"),)
    assert [(part.text, part.weight) for part in tree.parts] == [("a cat", 1.5), (" dog", 1.0)]


def test_negative_prompts_keep_and_and_tags() -> None:
    tree = parse("a <lora:x> AND b", negative=True).tree
    assert [part.text for part in tree.parts] == ["a <lora:x> AND b"]
    assert tree.networks == ()


def test_columns_count_in_the_text_as_typed() -> None:
    text = "# hello\na <lora:x:1>cat AND\n<lora:y:1> [dog:bird:x]"
    (warning,) = parse(text).warnings
    assert text[warning.column - 1 :].startswith("[dog")
    assert [text[part.column - 1 :][:2] for part in parse(text).tree.parts] == ["# ", "\n<"]
    assert text[parse(text).tree.networks[1].column - 1 :].startswith("<lora:y")


def test_offsets_survive_every_stage() -> None:
    source = Source("a#x\n<b:c>d # e\n#f\ng<h:i>j")
    cut, _ = take_networks(remove_comments(source))
    assert cut.text == "a\nd \ngj"
    assert [source.text[cut.offset(i)] for i, letter in enumerate(cut.text) if letter != "\n"] == list("ad gj")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat, [dog", [(8, "unclosed [")]),
        ("a (cat", [(3, "unclosed (")]),
        ("a cat]", [(6, "stray ]")]),
        ("a \\[cat\\)", []),
        ("[cat:dog]", [(1, "no number behind the last colon")]),
        ("[a:b:c:5]", [(1, "an edit has at most two colons")]),
        ("[a:b|c:5]", [(5, "| outside a well-formed [ ]")]),
        ("[a:(b:c:d):5]", [(1, "this edit holds a bracket that is not well formed")]),
        ("a | [b:c:5]", [(3, "| outside [ ]")]),
        ("[b:c:5] \\", [(9, "\\ with nothing behind it")]),
        ("(a:1.3.5)", [(4, "this is no number")]),
        ("([a)b]", [(4, ") closes a ( across another bracket")]),
        ("(a:1.3), [b], [c:d:0.5], [e|f], :), :(", [(34, "stray )"), (38, "unclosed (")]),
    ],
)
def test_what_is_taken_literally_is_reported_with_its_column(text: str, expected: list[tuple[int, str]]) -> None:
    assert warned(text) == expected


def test_a_flood_of_problems_is_cut() -> None:
    assert len(parse("[" * 10_000).warnings) == 50

"""What the inspector is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.params.profile import A1111, EXACT
from modules.prompt.chunks import Embeddings
from modules.prompt.explain import explain, kept_message
from modules.prompt.tokens import default_tokenizer


def ruler(told: dict[str, Any], run: int = 0) -> list[tuple[int, int, str]]:
    segments = told["parts"][0]["passes"][run]["segments"]
    return [(s["from"], s["to"], told["texts"][s["text"]]["text"]) for s in segments]


def messages(told: dict[str, Any]) -> str:
    return "\n".join(warning["message"] for warning in told["warnings"])


def test_ruler_shows_what_truly_happens_under_each_profile() -> None:
    assert ruler(explain("[cat:dog:0.5]", steps=8)) == [(1, 5, "cat"), (6, 8, "dog")]
    assert ruler(explain("[cat:dog:0.5]", steps=8, profile=EXACT)) == [(1, 4, "cat"), (5, 8, "dog")]


def test_samplers_that_call_twice_stretch_whole_numbers_in_a1111_alone() -> None:
    assert ruler(explain("[cat:dog:4]", steps=8, calls_per_step=2))[0] == (1, 3, "cat")  # calls 0 to 4
    told = explain("[cat:dog:4]", steps=8, calls_per_step=2)
    assert "calls the model twice per step" in messages(told)
    told = explain("[cat:dog:4]", steps=8, calls_per_step=2, profile=EXACT)
    assert ruler(told)[0] == (1, 4, "cat")
    assert told["warnings"] == []


def test_both_passes_have_a_ruler() -> None:
    told = explain("[cat:dog:1.5]", steps=8, hires_steps=4, profile=EXACT)
    assert ruler(told, 0) == [(1, 8, "cat")]
    assert ruler(told, 1) == [(1, 2, "cat"), (3, 4, "dog")]
    assert told["warnings"] == []


@pytest.mark.parametrize(
    ("prompt", "profile", "steps", "never"),
    [
        ("[cat:dog:0.9]", A1111, 8, True),
        ("[cat:dog:0.9]", EXACT, 8, False),
        ("[cat:dog:7]", A1111, 8, True),
        ("[cat:dog:6]", A1111, 8, False),
        ("[cat:dog:1.3]", EXACT, 8, True),
        ("a [[cat:dog:99]|bird]", EXACT, 8, True),
    ],
)
def test_edits_that_never_happen_are_told(prompt: str, profile: Any, steps: int, never: bool) -> None:
    told = explain(prompt, steps=steps, profile=profile)
    assert ("never happens" in messages(told)) == never
    if "[[" not in prompt:
        assert never == (len(ruler(told)) == 1)


def test_texts_that_never_show_are_told() -> None:
    assert "its first text never shows" in messages(explain("[cat:dog:0]", steps=8))


def test_tokens_come_by_chunk_with_weights_and_embeddings() -> None:
    tokenizer = default_tokenizer()
    embeddings = Embeddings(tokenizer, [("mystyle", 2), ("other", 1)])
    told = explain("a (red:1.3) mystyle other BREAK fox", steps=5, embeddings=embeddings)
    first, second = told["texts"][0]["chunks"]
    assert [(t["text"], t["weight"], t["embedding"]) for t in first["tokens"]] == [
        ("a", 1.0, None),
        ("red", 1.3, None),
        ("mystyle", 1.0, "mystyle"),
        ("mystyle", 1.0, "mystyle"),
        ("other", 1.0, "other"),
    ]
    assert [t["text"] for t in second["tokens"]] == ["fox"]
    assert (told["count"], told["limit"]) == (76, 150)


def test_borders_of_chunks_are_told() -> None:
    assert "is cut behind 'cat'" in messages(explain("cat " * 80, steps=5))
    assert "the phrase beginning dog dog dog" in messages(explain("cat " * 70 + ", " + "dog " * 10, steps=5))


def test_networks_and_parts_are_listed() -> None:
    told = explain("a cat:1.2 AND dog <lora:ink:0.7:te=0.5>", steps=5)
    assert [(p["text"], p["weight"]) for p in told["parts"]] == [("a cat", 1.2), (" dog", 1.0)]
    assert told["networks"] == [
        {
            "kind": "lora",
            "name": "ink",
            "positional": ["ink", "0.7"],
            "named": {"te": "0.5"},
            "column": 19,
            "applied": True,
        }
    ]


def test_networks_that_nothing_handles_are_told() -> None:
    told = explain("a fox <lora:ink:1> <hypernet:x> <lyco>", steps=5, kinds=["hypernet"])
    assert [(n["kind"], n["applied"]) for n in told["networks"]] == [("lora", False), ("hypernet", True)]
    assert [(w["column"], w["message"]) for w in told["warnings"]] == [
        (7, "lora ink is not applied: nothing here handles such networks")
    ]
    assert told["parts"][0]["text"].strip() == "a fox   <lyco>"


@pytest.mark.parametrize(
    ("prompt", "column", "beginning"),
    [
        ("a fox <lora:ink:0.8, in snow", 7, "<lora:ink:0.8"),  # no >
        ("# <lora:no\na <lora:ink:0.8", 14, "<lora:ink:0.8"),
        ("a <lora> fox", 3, "<lora>"),
        ("a <lora:> fox", 3, "<lora:>"),
        ("<lora:ink:[0:1:0.5]", 1, "<lora:ink:[0:1:0.5]"),
        ("< lora:ink:1>", 1, "< lora:ink:1>"),
        ("<lora ink 1>", 1, "<lora"),
        ("＜lora：ink：1＞", 1, "＜lora：ink：1＞"),
        ("a <lora:wet:1> b <LoRA:ink", 18, "<LoRA:ink"),
    ],
)
def test_what_looks_like_a_tag_and_is_text_is_told(prompt: str, column: int, beginning: str) -> None:
    for negative in (False, True):
        told = explain(prompt, steps=5, negative=negative, kinds=["lora"])
        assert {"column": column, "message": kept_message(beginning)} in told["warnings"]


def test_signs_that_are_no_tags_are_left_alone() -> None:
    told = explain("i <3 you <loran> a < b > c <lora_x> <pad:1", steps=5, kinds=["lora"])
    assert not told["warnings"]


def test_a_tag_that_swallows_another_is_told() -> None:
    told = explain("<lora:ink, a fox <lora:wet:1>", steps=5, kinds=["lora"])
    assert [(w["column"], "> before" in w["message"]) for w in told["warnings"]] == [(1, True)]


def test_a_network_tag_in_a_negative_prompt_is_told_to_be_text() -> None:
    told = explain("blur <lora:ink:1> # <lora:b:1>", steps=5, negative=True, kinds=["lora"])
    assert [(w["column"], w["message"].partition(":")[0]) for w in told["warnings"]] == [
        (6, "a network tag in a negative prompt is plain text")
    ]


def test_long_texts_give_json_of_bounded_size() -> None:
    told = explain("[a:b:3] word " * 1000 + "[" + "|".join(map(str, range(149))) + "]", steps=150)
    assert len(told["texts"]) > 100
    assert sum(bool(text["chunks"]) for text in told["texts"]) == 12
    assert len(json.dumps(told)) < 8e6


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("[]():|,\\ab5.\0\u202e\ud800")), max_size=200))
def test_no_text_raises_and_all_that_is_told_is_json(text: str) -> None:
    for negative in (False, True):
        told = explain(text, steps=7, hires_steps=3, calls_per_step=2, negative=negative)
        assert json.loads(json.dumps(told)) == told
        for part in told["parts"]:
            for run in part["passes"]:
                covered = [step for s in run["segments"] for step in range(s["from"], s["to"] + 1)]
                assert covered == list(range(1, run["steps"] + 1))
        assert all(w["column"] is None or 1 <= w["column"] <= len(text) for w in told["warnings"])


@pytest.mark.parametrize("piece", ["[", "(", "[a:b:0.5]", "[a|", "\ud800\0\u202e", "a AND ", "<a:b>", "\\"])
def test_texts_of_the_servers_full_length_are_told(piece: str) -> None:
    told = explain((piece * 20_000)[:20_000], steps=20)
    assert len(told["warnings"]) <= 60
    assert told["count"] <= 20_000


def test_an_embedding_that_the_model_cannot_take_is_told_where_it_stands() -> None:
    told = explain("a cat, (Tall hat:1.2) by [x:tall:9]", steps=5, skipped={"tall": "it is too wide", "low": "no"})
    (warning,) = (w for w in told["warnings"] if "embedding" in w["message"])
    assert warning == {"column": 9, "message": "the embedding tall is left out: it is too wide"}
    assert all(token["embedding"] is None for token in told["texts"][0]["chunks"][0]["tokens"])

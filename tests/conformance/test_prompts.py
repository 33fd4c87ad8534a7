"""The prompt language against the reference's own answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modules.prompt.emphasis import attention
from modules.prompt.parse import parse
from modules.prompt.schedule import schedule
from modules.prompt.stages import extract_networks, split_and, strip_comments


@pytest.mark.golden("prompts.json", "cases")
def test_emphasis(case: dict[str, Any], differs: Callable[[str], None]) -> None:
    if "error" in case["attention"]:
        differs("where a malformed weight makes the reference fail, it is text and its brackets weigh 1.1")
        assert [piece.weight for piece in attention(case["prompt"])] == [1.1]
        return
    assert [[piece.text, piece.weight] for piece in attention(case["prompt"])] == case["attention"]


@pytest.mark.golden("prompts.json", "cases")
def test_schedule(case: dict[str, Any], golden_file: Any) -> None:
    """Every variant of steps and passes. Where the reference's answer changes between runs, one of its answers."""
    for name, expected in case["schedules"].items():
        run = golden_file["schedule_variants"][name]
        found = schedule(
            case["prompt"],
            run["hires_steps"] or run["base_steps"],
            base_steps=run["base_steps"],
            second_pass=run["hires_steps"] is not None,
            old=run["use_old_scheduling"],
        )
        answers = [[[until, case["texts"][text]] for until, text in expected]]
        if name == "10":
            answers += case.get("variants_10", [])
        assert [[segment.until, segment.text] for segment in found] in answers, name


@pytest.mark.golden("prompts.json", "cases")
def test_parts_of_and(case: dict[str, Any]) -> None:
    assert [list(part) for part in split_and(case["prompt"])] == case["multicond"]


@pytest.mark.golden("prompts.json", "cases")
def test_whole_prompt_has_the_same_parts(case: dict[str, Any]) -> None:
    tree = parse(case["prompt"]).tree
    text, _ = extract_networks(strip_comments(case["prompt"]))
    assert [(part.text, part.weight) for part in tree.parts] == list(split_and(text))


@pytest.mark.golden("prompts.json", "cases", having="extra_networks")
def test_extra_networks(case: dict[str, Any]) -> None:
    text, tags = extract_networks(case["prompt"])
    networks: dict[str, list[dict[str, Any]]] = {}
    for tag in tags:
        networks.setdefault(tag.kind, []).append({"positional": list(tag.positional), "named": dict(tag.named)})
    assert {"text": text, "networks": networks} == case["extra_networks"]


@pytest.mark.golden("prompts.json", "cases", having="comments_stripped")
def test_comments(case: dict[str, Any]) -> None:
    assert strip_comments(case["prompt"]) == case["comments_stripped"]

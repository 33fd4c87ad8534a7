"""The inspector's HTML: what it says, and that a prompt stays text in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modules.builtin import register
from modules.checkpoints.networks.shelf import NetworkShelf
from modules.extension.host import Host
from modules.params.generation import GenerationParams
from modules.params.profile import EXACT
from modules.pipeline.explain import explain_request
from modules.prompt.explain import explain
from tests.webui.html.test_status import HOSTILE, tags
from webui.html.inspector import (
    EMPTY,
    differences,
    inspector_html,
    line_html,
    note_html,
    ticks,
    toggle_html,
    trouble_html,
)

OURS = {"div", "section", "h3", "h4", "p", "ul", "li", "i", "b", "em", "span", "mark", "sup", "s", "button"}
BOXES = {"prompt": "a_prompt", "negative_prompt": "a_negative"}


def panel(prompt: str, negative: str = "", **facts: Any) -> str:
    facts = {"steps": 8, "profile": EXACT, **facts}
    told = {"prompt": explain(prompt, **facts), "negative_prompt": explain(negative, negative=True, **facts)}
    return inspector_html(told, BOXES, {"prompt": (0, len(prompt)), "negative_prompt": (0, len(negative))})


def classed(html: str, tag: str, name: str) -> list[dict[str, str | None]]:
    return [facts for kind, facts in tags(html).found if kind == tag and name in (facts.get("class") or "").split()]


def test_cat_becomes_dog_on_the_ruler_and_in_words() -> None:
    html = panel("a [cat:dog:0.5] in snow")
    first, second = classed(html, "span", "rp-block")
    assert (first["style"], second["style"]) == ("grid-column:1 / 5", "grid-column:5 / 9")
    assert first["class"] != second["class"]
    assert '<b>steps 1 to 4</b><span translate="no">a <mark>cat</mark> in snow</span>' in html
    assert '<b>steps 5 to 8</b><span translate="no">a <mark>dog</mark> in snow</span>' in html
    assert "<span>step </span>5</i>" in html


def test_a_prompt_that_never_changes_is_one_block() -> None:
    html = panel("a fox")
    assert len(classed(html, "span", "rp-block")) == 1
    assert "the same text in every step" in html
    assert "<b>all 8 steps</b>" in html
    assert "<mark>" not in html


def test_what_is_absent_is_struck_out() -> None:
    assert "<s>with a hat</s>" in panel("a fox [with a hat:0.5]")


def test_an_alternation_lists_each_text_once() -> None:
    html = panel("a [red|blue] fox")
    assert len(classed(html, "span", "rp-block")) == 8
    assert "<b>steps 1, 3, 5, 7</b>" in html
    assert "<b>steps 2, 4, 6, 8</b>" in html


def test_parts_of_and_have_a_lane_each_with_its_weight() -> None:
    html = panel("a fox AND fog:0.6")
    assert len(classed(html, "div", "rp-lane")) == 2
    assert "weight 0.6" in html


def test_both_passes_have_a_ruler() -> None:
    html = panel("a [cat:dog:1.5]", hires_steps=4)
    assert len(classed(html, "div", "rp-ruler")) == 2
    assert "First pass, 8 steps" in html
    assert "Hires pass, 4 steps" in html


def test_tokens_show_their_weights() -> None:
    html = panel("a (red:1.3) [fox]")
    assert 'title="id 736, weight 1.3">red<sup>1.3</sup>' in html
    assert len(classed(html, "span", "up")) == len(classed(html, "span", "down")) == 1
    assert "chunk 1, 3/75" in html


def test_networks_are_listed() -> None:
    assert "<b>lora</b> ink · 0.7 · te=0.5" in panel("a cat <lora:ink:0.7:te=0.5>")


@pytest.mark.parametrize(
    ("prompt", "facts", "said"),
    [
        ("a (cat", {}, "unclosed ("),
        ("[cat:dog:1.9]", {}, "the edit at 1.9 never happens in 8 steps"),
        ("cat " * 70 + ", " + "dog " * 10, {}, "stays whole"),
        ("cat " * 80, {}, "the text is cut behind"),
    ],
)
def test_warnings_stand_under_the_box_and_in_the_panel(prompt: str, facts: dict[str, Any], said: str) -> None:
    told = explain(prompt, steps=8, profile=EXACT, **facts)
    assert said in tags(line_html(told, "a_prompt", 0, len(prompt))).text
    assert said in tags(panel(prompt, **facts)).text


def test_a_warning_leads_to_its_column() -> None:
    told = explain("a (cat", steps=8)
    html = line_html(told, "a_prompt", 0, 6)
    (button,) = classed(html, "button", "rp-goto")
    assert (button["data-box"], button["data-column"]) == ("a_prompt", "3")
    assert 'data-marks="3"' in html


def test_columns_count_in_the_persons_text_where_a_style_stands_before_it() -> None:
    told = explain("photo of a (cat, grainy)) [x", steps=8)
    html = line_html(told, "a_prompt", 9, 6)
    assert 'data-marks=""' in html
    assert "In a style: stray )" in html
    html = line_html(explain("photo of a (cat, grainy", steps=8), "a_prompt", 9, 6)
    assert 'data-marks="3"' in html


def test_the_count_is_always_there() -> None:
    assert tags(line_html(explain("a fox", steps=8), "b", 0, 5)).text == "2/75"
    assert tags(line_html(EMPTY, "b")).text == "0/75"
    assert tags(trouble_html("too long")).text == "Too long"


@pytest.mark.parametrize(
    "text", [*HOSTILE, *(f"[{t}:x:0.5] <lora:{t}:1> ({t}:1.2)" for t in HOSTILE), "\ud800 \u202e\0"]
)
def test_hostile_prompts_stay_text(text: str) -> None:
    told = explain(text, steps=8)
    for html in (
        panel(text, text),
        line_html(told, text, 0, len(text)),
        trouble_html(text),
        note_html(text),
        toggle_html(text),
    ):
        found = tags(html).found
        assert {tag for tag, _ in found} <= OURS
        assert not [name for _, facts in found for name in facts if name.startswith("on") or name in ("href", "src")]


@pytest.mark.parametrize(
    "text",
    [
        "word " * 4000,
        "(" * 20_000,
        "[a:b:0.5]" * 1000,
        "[" + "|".join(map(str, range(140))) + "] fox" * 3000,
        "x AND " * 3000,
        "<lora:x:1>" * 2000,
        "long" * 5000,
    ],
    ids=["words", "brackets", "edits", "alternation", "parts", "networks", "a word"],
)
def test_a_prompt_of_any_shape_gives_a_page_of_bounded_size(text: str) -> None:
    assert len(panel(text[:20_000], steps=150)) < 400_000


def test_differences_are_words_and_bounded() -> None:
    old, new = differences("a red fox, at dawn", "a blue fox, at night")
    assert [text for text, changed in old if changed] == ["red", "dawn"]
    assert [text for text, changed in new if changed] == ["blue", "night"]
    old, new = differences("a " + "b c " * 2000, "a " + "c d " * 2000)
    assert len(old) == len(new) == 3
    assert differences("a", "a") == ([("a", False)], [("a", False)])


def test_ticks_leave_each_other_room() -> None:
    assert ticks(150, list(range(1, 151)))[0] == 1
    gaps = [b - a for a, b in zip(ticks(150, range(1, 151)), ticks(150, range(1, 151))[1:], strict=False)]
    assert min(gaps) >= 21


def test_a_strength_that_changes_is_drawn_over_the_steps(tmp_path: Path) -> None:
    (tmp_path / "Lora").mkdir()
    header = b'{"lora_unet_mid_block_attentions_0_proj_in.diff":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "Lora" / "ink.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    shelf, host = NetworkShelf(tmp_path), Host()
    shelf.read()
    register(host, shelf)
    params = GenerationParams("a fox <lora:ink:[0:1:0.5]>", steps=8, profile="exact")
    told = explain_request(params, host)
    html = inspector_html(told, BOXES, {"prompt": (0, 99), "negative_prompt": (0, 0)})
    assert 'aria-label="steps 1 to 4: 0; steps 5 to 8: 1"' in html

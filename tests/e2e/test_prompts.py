"""Help at the prompt boxes, in a real browser: the inspector, weights by key, styles."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page, Route, expect

if TYPE_CHECKING:
    from tests.e2e.conftest import Visit

pytestmark = pytest.mark.browser

PROMPT = "#txt2img_prompt textarea"
NEGATIVE = "#txt2img_negative textarea"
LINE = "#txt2img_prompt_line"
COUNT = f"{LINE} .rp-count"
PANEL = "#txt2img_inspector"
TOGGLE = "#txt2img_prompts .rp-toggle"
STYLE_NAME = "#rp_style_name textarea, #rp_style_name input"
DONE = '#txt2img_status .rp-status[data-phase="done"]'


def steps(page: Page, value: int) -> None:
    field = page.locator("#txt2img_steps input[type=number]")
    field.fill(str(value))
    field.blur()


def test_cat_and_dog_explain_themselves_while_typing(visit: Visit) -> None:
    page = visit.open()
    expect(page.locator(COUNT)).to_have_text("0/75")
    expect(page.locator(PANEL)).to_be_hidden()
    page.focus(PROMPT)
    page.keyboard.type("a [cat:dog:0.5] in snow")
    expect(page.locator(COUNT)).to_have_text("4/75")
    expect(page.locator(PANEL)).to_be_hidden()
    page.click(TOGGLE)
    expect(page.locator(TOGGLE)).to_have_attribute("aria-expanded", "true")
    blocks = page.locator(f"{PANEL} .rp-block")
    expect(blocks).to_have_text(["cat", "dog"])
    expect(page.locator(f"{PANEL} li")).to_have_text(["steps 1 to 11a cat in snow", "steps 12 to 20a dog in snow"])
    cat, dog = (block.bounding_box()["width"] for block in blocks.all())
    assert cat / dog == pytest.approx(11 / 9, rel=0.02)
    steps(page, 8)
    expect(page.locator(f"{PANEL} li b")).to_have_text(["steps 1 to 5", "steps 6 to 8"])
    assert page.evaluate("document.activeElement.tagName") != "BUTTON"


def test_the_inspector_stays_open_on_the_next_visit(visit: Visit) -> None:
    page = visit.open()
    page.focus(TOGGLE)
    page.keyboard.press("Enter")
    expect(page.locator(PANEL)).to_be_visible()
    other = page.context.new_page()
    other.goto(visit.server.url)
    expect(other.locator(PANEL)).to_contain_text("Nothing is typed yet")
    other.click(TOGGLE)
    expect(other.locator(PANEL)).to_be_hidden()
    other.close()


def test_unbalanced_brackets_are_marked_and_a_click_leads_there(visit: Visit) -> None:
    page = visit.open()
    page.fill(PROMPT, "a \U0001f98a (fox in [snow")
    expect(page.locator(LINE)).to_contain_text("unclosed (")
    expect(page.locator(".rp-marks mark")).to_have_text(["(", "["])
    expect(page.locator(PROMPT)).to_have_attribute("aria-invalid", "true")
    page.click(f"{LINE} .rp-goto >> nth=1")
    selected = "(box) => box.value.slice(box.selectionStart, box.selectionEnd)"
    assert page.locator(PROMPT).evaluate(selected) == "["
    page.fill(PROMPT, "a (fox) in [snow]")
    expect(page.locator(LINE)).not_to_contain_text("unclosed")
    expect(page.locator(".rp-marks mark")).to_have_count(0)
    expect(page.locator(PROMPT)).to_have_attribute("aria-invalid", "false")


def test_an_old_answer_never_replaces_a_newer_one(visit: Visit) -> None:
    """The first question is held back on its way; what is typed meanwhile is asked afterwards."""
    page = visit.open()
    page.fill(PROMPT, "warm")
    expect(page.locator(COUNT)).to_have_text("1/75")
    held: list[Route] = []

    def hold(route: Route) -> None:
        if not held and "one two three" in (route.request.post_data or ""):
            held.append(route)
            page.wait_for_timeout(1500)
        route.continue_()

    page.route(re.compile("gradio_api/run"), hold)
    page.fill(PROMPT, "one two three")
    while not held:
        page.wait_for_timeout(50)
    page.fill(PROMPT, "one two three four five")
    expect(page.locator(COUNT)).to_have_text("5/75")
    page.wait_for_timeout(2500)
    expect(page.locator(COUNT)).to_have_text("5/75")
    page.unroute_all(behavior="wait")


def test_a_prompt_of_the_full_length_does_not_hold_the_page_up(visit: Visit) -> None:
    page = visit.open()
    page.click(TOGGLE)
    page.fill(PROMPT, "([a:b:0.5] word, " * 1176)
    expect(page.locator(LINE)).to_contain_text("unclosed (")
    begin = time.monotonic()
    assert page.evaluate("document.querySelectorAll('*').length") < 6000
    page.fill(PROMPT, "a fox")
    expect(page.locator(COUNT)).to_have_text("2/75")
    assert time.monotonic() - begin < 60
    page.fill(PROMPT, "long " * 5000)
    expect(page.locator(LINE)).to_contain_text("the limit is 20,000")


def press(page: Page, text: str, key: str, times: int = 1) -> tuple[str, str]:
    """``text`` has | at the cursor, or two around the selection; what stands there after ``key``, marked alike."""
    start = text.index("|")
    end = text.rindex("|") - (text.count("|") - 1)
    box = page.locator(PROMPT)
    box.fill(text.replace("|", ""))
    box.evaluate("(box, [start, end]) => box.setSelectionRange(start, end)", [start, end])
    for _ in range(times):
        box.press(key)
    value, start, end = box.evaluate("(box) => [box.value, box.selectionStart, box.selectionEnd]")
    return value, value[start:end]


@pytest.mark.parametrize("key", ["Control+ArrowUp"])
def test_keys_weigh_the_word_at_the_cursor(visit: Visit, key: str) -> None:
    page = visit.open()
    up, down = key, key.replace("Up", "Down")
    for text, pressed, times, value, selected in (
        ("a red| fox", up, 1, "a (red:1.1) fox", "red"),
        ("a |red fox| in snow", up, 2, "a (red fox:1.2) in snow", "red fox"),
        ("a |red fox |in snow", down, 1, "a (red fox:0.9) in snow", "red fox"),
        ("a (red f|ox:1.1)", down, 1, "a red fox", "red fox"),
        ("a (red f|ox:1.1)", down, 2, "a (red fox:0.9)", "red fox"),
        ("a (r|ed:1.95)", up, 1, "a (red:2.05)", "red"),
        ("a (r|ed:1.9)", up, 1, "a (red:2.0)", "red"),
        ("((re|d))", up, 1, "(red:1.3)", "red"),
        ("a [re|d]", up, 1, "a red", "red"),
        ("[cat:do|g:0.5]", up, 1, "[cat:(dog:1.1):0.5]", "dog"),
        ("<lora:i|nk:0.7>", up, 1, "<lora:ink:0.75>", ""),
        ("<lora:i|nk:0.95>", up, 1, "<lora:ink:1.0>", ""),
        ("<lora:i|nk>", down, 1, "<lora:ink:0.95>", ""),
        ("a < b, c| > d", up, 1, "a < b, (c:1.1) > d", "c"),
        (" | ", up, 1, "  ", ""),
    ):
        assert press(page, text, pressed, times) == (value, selected), text


def test_a_weight_is_undone_like_typing_and_is_what_is_made(visit: Visit) -> None:
    page = visit.open()
    press(page, "a red| fox", "Control+ArrowUp")
    page.keyboard.press("Control+z")
    expect(page.locator(PROMPT)).to_have_value("a red fox")
    press(page, "a red| fox", "Control+ArrowUp")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(DONE)
    expect(page.locator("#txt2img_infotext textarea")).to_have_value(re.compile(r"^a \(red:1\.1\) fox\n"))


def save_style(page: Page, name: str, prompt: str, negative: str) -> None:
    page.fill(PROMPT, prompt)
    page.fill(NEGATIVE, negative)
    page.click("#txt2img_styles_edit")
    page.click("#rp_style_take")
    expect(page.locator("#rp_style_prompt textarea")).to_have_value(prompt)
    page.fill(STYLE_NAME, name)
    page.click("#rp_style_save")
    expect(page.locator("#rp_style_note")).to_contain_text("saved")
    page.click("#rp_style_close")
    expect(page.locator("#rp_style_editor")).to_be_hidden()


def choose(page: Page, name: str) -> None:
    page.click("#txt2img_styles input")
    page.get_by_role("option", name=name).click()
    page.keyboard.press("Tab")


def chosen(page: Page) -> Any:
    return page.locator("#txt2img_styles .token span, #txt2img_styles .token > span")


def test_styles_are_saved_used_written_out_and_recognised(visit: Visit) -> None:
    page = visit.open()
    save_style(page, "ink & <b>pen</b>", "{prompt}, ink drawing", "photo")
    page.fill(PROMPT, "a fox")
    page.fill(NEGATIVE, "")
    choose(page, "ink & <b>pen</b>")
    expect(page.locator(COUNT)).to_have_text("5/75")  # a fox, ink drawing
    page.click("#txt2img_generate")
    page.wait_for_selector(DONE)
    expect(page.locator("#txt2img_infotext textarea")).to_have_value(re.compile("^a fox, ink drawing\n"))
    expect(page.locator(PROMPT)).to_have_value("a fox")
    page.click("#txt2img_styles_apply")
    expect(page.locator(PROMPT)).to_have_value("a fox, ink drawing")
    expect(page.locator(NEGATIVE)).to_have_value("photo")
    expect(page.locator("#txt2img_styles .token")).to_have_count(0)
    page.click("#txt2img_styles_find")
    expect(page.locator(PROMPT)).to_have_value("a fox")
    expect(page.locator(NEGATIVE)).to_have_value("")
    expect(page.locator("#txt2img_styles .token")).to_have_count(1)
    expect(page.locator("#txt2img_styles .token")).to_contain_text("ink & <b>pen</b>")


def test_styles_are_there_after_a_reload_and_are_edited_renamed_and_deleted_in_place(visit: Visit) -> None:
    page = visit.open()
    save_style(page, "dawn", "at dawn", "")
    page.reload()
    page.wait_for_selector(PROMPT)
    choose(page, "dawn")
    page.click("#txt2img_styles_edit")
    expect(page.locator(STYLE_NAME)).to_have_value("dawn")
    page.fill(STYLE_NAME, "dusk")
    page.fill("#rp_style_prompt textarea", "at dusk")
    page.click("#rp_style_save")
    expect(page.locator("#rp_style_note")).to_contain_text("saved")
    expect(page.locator("#txt2img_styles .token")).to_contain_text("dusk")
    page.click("#txt2img_styles_apply")
    expect(page.locator(PROMPT)).to_have_value(re.compile("at dusk$"))
    page.click("#rp_style_delete")
    expect(page.locator("#rp_style_question")).to_contain_text("Delete the style dusk?")
    page.click("#rp_style_keep")
    expect(page.locator("#rp_style_sure")).to_be_hidden()
    page.click("#rp_style_delete")
    page.click("#rp_style_really")
    expect(page.locator("#rp_style_note")).to_contain_text("deleted")
    expect(page.locator(STYLE_NAME)).to_have_value("")
    page.click("#txt2img_styles_find")
    expect(page.locator("#txt2img_styles_note")).to_contain_text("None of the styles")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_inspector_fits_into_the_window(visit: Visit, width: int, theme: str) -> None:
    page = visit.page
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{visit.server.url}?__theme={theme}")
    page.wait_for_selector(TOGGLE)
    page.click(TOGGLE)
    page.fill(PROMPT, "a [cat:dog:0.5] " + "w" * 300 + " [red|blue] AND (fog:0.4 <lora:" + "n" * 200 + ":1>")
    expect(page.locator(f"{PANEL} .rp-lane")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in (TOGGLE, PANEL, "#txt2img_styles", "#txt2img_styles_edit", COUNT):
        found = page.locator(selector).bounding_box()
        assert found is not None
        assert found["x"] >= 0, selector
        assert found["x"] + found["width"] <= width, selector

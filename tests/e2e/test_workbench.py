"""The layout of the page in a real browser: what is in view, what scrolls, where a setting is found."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from tests.e2e.conftest import Visit

pytestmark = pytest.mark.browser

BENCHES = ("txt2img", "img2img", "inpaint")
FIND = "#txt2img_find"
OVERLAPS = """(tab) => {
  const ATOM = '.wrap-inner, .tab-like-container, .rp-canvas, .rp-find'  // whose parts lie over each other by design
  const TEXT = '[data-testid=block-info], .rp-field :is(label, small)'
  const PARTS = [TEXT, 'input:not([type=range])', 'textarea', 'button', 'select']
  const column = document.querySelector(`#tab_${tab} .rp-scroll`), edges = column.getBoundingClientRect()
  const parts = [...column.querySelectorAll(PARTS.join())]
    .filter((part) => part.checkVisibility({ opacityProperty: true }) && !part.closest('.rp-canvas, .rp-find ul'))
    .map((part) => [part, part.getBoundingClientRect()])
    .filter(([, box]) => box.width > 2 && box.height > 2)
  const name = (part) => `${part.closest('[id]').id}: ${part.textContent || part.type}`
  const found = []
  parts.forEach(([one, a], n) => {
    if (a.right > edges.right + 1 || a.left < edges.left - 1) found.push(`${name(one)} is cut off`)
    for (const [two, b] of parts.slice(n + 1)) {
      const atom = one.closest(ATOM)
      if (one.contains(two) || two.contains(one) || (atom && atom === two.closest(ATOM))) continue
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left)
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)
      if (wide > 2 && high > 2) found.push(`${name(one)} / ${name(two)}`)
    }
  })
  return found
}"""
SIDEWAYS = """() => [...document.querySelectorAll('body, .rp-scroll, .rp-bench > .column, .tabitem')]
  .filter((part) => part.checkVisibility() && part.scrollWidth > part.clientWidth + 1)
  .map((part) => part.id || part.className)"""


def open_all_folds(page: Page, tab: str) -> None:
    """Folds within folds are on the page once the outer ones are open."""
    for _ in range(4):
        closed = page.locator(f"#tab_{tab} .rp-scroll button.label-wrap:not(.open)")
        if not closed.count():
            return
        page.evaluate(
            "(tab) => document.querySelectorAll(`#tab_${tab} .rp-scroll button.label-wrap:not(.open)`)"
            ".forEach((fold) => fold.click())",
            tab,
        )
        page.wait_for_timeout(600)


def indexed(page: Page, tab: str) -> list[list[Any]]:
    found = json.loads(page.get_attribute(f"#tab_{tab} .rp-find", "data-index") or "[]")
    assert isinstance(found, list)
    return found


def test_the_result_is_in_view_and_nothing_scrolls_sideways(visit: Visit) -> None:
    page = visit.open()
    for width, height in ((1280, 720), (1440, 900), (1920, 1080), (3440, 1440)):
        page.set_viewport_size({"width": width, "height": height})
        size = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        assert size == [width, height], "the page itself does not scroll"
        for part in ("#txt2img_stage", "#txt2img_status", "#txt2img_replay", "#txt2img_generate"):
            box = page.locator(part).bounding_box()
            assert box and box["y"] >= 48 and box["y"] + box["height"] <= height, (part, box)
            assert box["x"] >= 0 and box["x"] + box["width"] <= width, (part, box)
        bar = page.locator("#rp_tabs > .tab-wrapper").bounding_box()
        assert bar and bar["y"] == 0 and bar["height"] <= 56
        assert page.evaluate(SIDEWAYS) == []
    stage = page.locator("#txt2img_stage").bounding_box()
    assert stage and stage["width"] > 2000, "a wide screen is used"


@pytest.mark.parametrize("tab", BENCHES)
def test_every_setting_that_is_listed_is_there_and_no_label_lies_over_another(visit: Visit, tab: str) -> None:
    page = visit.open()
    page.click(f"#tab_{tab}-button")
    expect(page.locator(f"#{tab}_find")).to_be_visible()
    open_all_folds(page, tab)
    index = indexed(page, tab)
    missing = [place for place, *_ in index if not page.locator(f"[id='{place}']").count()]
    assert missing == []
    for width in (1440, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(OVERLAPS, tab) == []
        assert page.evaluate(SIDEWAYS) == []


def test_a_setting_is_found_by_the_name_that_a1111_gives_it(visit: Visit) -> None:
    page = visit.open()
    page.fill(FIND, "ensd")
    expect(page.locator("#txt2img_found [role=option]")).to_have_count(1)
    page.press(FIND, "Enter")
    expect(page.locator("#txt2img_ensd input")).to_be_focused()
    expect(page.locator("#txt2img_ensd")).to_be_in_viewport()
    page.fill(FIND, "no such setting")
    expect(page.locator("#txt2img_found")).to_have_text("Nothing is called so.")
    page.press(FIND, "Escape")
    expect(page.locator("#txt2img_found")).to_be_hidden()


def test_what_was_made_last_is_beside_the_result_and_leads_to_the_history(visit: Visit) -> None:
    page = visit.open()
    page.fill("#txt2img_prompt textarea", "a strip of pictures")
    page.click("#txt2img_generate")
    expect(page.locator("#txt2img_status")).to_contain_text("1 image")
    newest = page.locator(".rp-strip-picture").first
    expect(newest).to_be_visible()
    text = page.input_value("#txt2img_infotext textarea")
    page.click(".rp-strip-fold")
    expect(newest).to_be_hidden()
    page.reload()
    page.wait_for_selector("#txt2img_prompt textarea")
    expect(page.locator(".rp-strip-fold")).to_be_visible()
    expect(page.locator(".rp-strip-list")).to_be_hidden()
    page.click(".rp-strip-fold")
    page.locator(".rp-strip-picture").first.click()
    expect(page.locator("#history_text textarea")).to_have_value(text)


def test_the_left_column_is_widened_and_stays_so(visit: Visit) -> None:
    page = visit.open()
    grip = page.locator("#tab_txt2img .rp-grip")

    def width() -> float:
        box = page.locator("#tab_txt2img .rp-left").bounding_box()
        assert box
        return float(box["width"])

    before, box = width(), grip.bounding_box()
    assert box
    page.mouse.move(box["x"] + 4, 500)
    page.mouse.down()
    page.mouse.move(600, 500, steps=4)
    page.mouse.up()
    assert width() == 600 != before
    page.reload()
    page.wait_for_selector("#txt2img_prompt textarea")
    assert width() == 600
    grip.focus()
    page.keyboard.press("ArrowLeft")
    assert width() == 576
    grip.dblclick()
    assert width() == before


def test_a_section_says_what_differs_and_a_click_takes_it_back(visit: Visit) -> None:
    page = visit.open()
    page.click("#txt2img_hires_on input")
    expect(page.locator("#txt2img_hires_scale")).to_be_visible()  # a section that is switched on opens
    scale = page.locator("#txt2img_hires_scale input[type=number]")
    scale.fill("3")
    chip = page.locator("#txt2img_hires > .rp-changed button")
    expect(chip).to_have_text("Upscale by 3")
    page.click("#txt2img_hires > button")
    expect(scale).to_be_hidden()
    chip.click()
    expect(chip).to_have_count(0)
    expect(scale).to_have_value("2")


def test_an_emptied_number_is_told_and_not_replaced(visit: Visit) -> None:
    page = visit.open()
    cfg = page.locator("#txt2img_cfg_scale input[type=number]")
    cfg.fill("")
    cfg.blur()
    page.click("#txt2img_generate")
    expect(page.locator("#txt2img_status")).to_contain_text("CFG scale needs a value")
    expect(cfg).to_have_value("")


def test_what_was_entered_is_there_when_a_tab_is_looked_at_again(visit: Visit) -> None:
    """A slider and its number are one; a tab that was never looked at takes what is sent to it all the same."""
    page = visit.open()
    page.locator("#txt2img_steps input[type=range]").fill("33")
    expect(page.locator("#txt2img_steps input[type=number]")).to_have_value("33")
    assert page.evaluate("window.reprise.set('inpaint', 'cfg_scale', 4.5)") is True
    page.click("#tab_inpaint-button")
    expect(page.locator("#inpaint_cfg_scale input[type=number]")).to_have_value("4.5")
    page.click("#tab_txt2img-button")
    expect(page.locator("#txt2img_steps input[type=number]")).to_have_value("33")


def test_tabs_have_addresses_and_back_goes_from_tab_to_tab(visit: Visit) -> None:
    page = visit.open()
    page.click("#tab_settings-button")
    expect(page.locator("#settings_search")).to_be_visible()
    assert page.url.endswith("#settings")
    page.click("#tab_img2img-button")
    expect(page.locator("#img2img_generate")).to_be_visible()
    page.go_back()
    expect(page.locator("#settings_search")).to_be_visible()
    page.reload()
    expect(page.locator("#settings_search")).to_be_visible()
    page.go_back()
    expect(page.locator("#txt2img_generate")).to_be_visible()
    visit.complaints.clear()  # Gradio tells the console of the stream that the reload cut off


def test_a_person_chooses_how_the_page_looks_and_it_stays_so(visit: Visit) -> None:
    page = visit.open()
    field = page.locator("#txt2img_steps")
    dark, before = "document.body.classList.contains('dark')", field.bounding_box()
    was_dark = page.evaluate(dark)
    page.click("[data-look=theme]")
    page.click("[data-look=density]")
    assert page.evaluate(dark) is not was_dark
    after = field.bounding_box()
    assert before and after and after["height"] < before["height"]
    page.reload()
    page.wait_for_selector("#txt2img_networks_open")
    assert page.evaluate(dark) is not was_dark
    expect(page.locator("html")).to_have_attribute("data-density", "compact")
    visit.complaints.clear()


def test_keys_close_what_lies_over_the_page_and_begin_anew(visit: Visit) -> None:
    page = visit.open()
    page.click("#txt2img_styles_edit")
    expect(page.locator("#rp_style_editor")).to_be_visible()
    page.fill("#txt2img_prompt textarea", "slow one")
    page.locator("#txt2img_steps input[type=number]").fill("150")
    page.focus("#txt2img_prompt textarea")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#txt2img_preview .rp-live")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#rp_style_editor")).to_be_hidden()
    expect(page.locator("#txt2img_interrupt")).to_be_enabled()  # the first Escape only closed the editor
    page.fill("#txt2img_prompt textarea", "another one")
    page.locator("#txt2img_steps input[type=number]").fill("3")
    page.focus("#txt2img_prompt textarea")
    page.keyboard.press("Control+Enter")  # ends the first and begins anew
    expect(page.locator("#txt2img_infotext textarea")).to_have_value(re.compile("^another one\n"))
    expect(page.locator("#txt2img_interrupt")).to_be_disabled()


def test_generate_goes_on_forever_until_it_is_interrupted(visit: Visit) -> None:
    page = visit.open()
    page.fill("#txt2img_prompt textarea", "slow and again")
    page.locator("#txt2img_steps input[type=number]").fill("5")
    before = len(visit.server.pictures())
    page.click("#txt2img_generate", button="right")
    page.get_by_role("menuitem", name="Generate forever").click()
    deadline = time.monotonic() + 60
    while len(visit.server.pictures()) < before + 2:
        assert time.monotonic() < deadline
        page.wait_for_timeout(100)
    expect(page.locator("#txt2img_interrupt")).to_be_enabled()
    page.click("#txt2img_interrupt")
    expect(page.locator("#txt2img_interrupt")).to_be_disabled()
    expect(page.locator("#txt2img_generate")).not_to_have_class(re.compile("rp-forever"))
    page.wait_for_timeout(500)
    expect(page.locator("#txt2img_interrupt")).to_be_disabled()

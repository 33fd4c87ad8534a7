"""The history, in a real browser with a painter for a model."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect

if TYPE_CHECKING:
    from tests.e2e.conftest import Visit

pytestmark = pytest.mark.browser

PROMPT = "#txt2img_prompt textarea"
STATUS = "#txt2img_status .rp-status"
TILE = "#history_tiles .rp-tile"
TEXT = "#history_text textarea"


def make(page: Page, prompt: str, phase: str = "done") -> None:
    page.fill(PROMPT, prompt)
    page.click("#txt2img_generate")
    expect(page.locator(STATUS)).to_have_attribute("data-phase", "running")
    page.wait_for_selector(f'{STATUS}[data-phase="{phase}"]')


def test_what_was_made_is_found_again_used_and_deleted(visit: Visit) -> None:
    page = visit.open()
    make(page, "an otter in the history")
    make(page, "explode in the history", "failed")
    make(page, "a heron in the history")
    page.click("#tab_history-button")
    expect(page.locator("#history_tiles img").first).to_have_js_property("complete", True)
    assert page.locator("#history_tiles img").first.evaluate("image => image.naturalWidth") == 128
    page.locator(TILE).nth(1).click()
    expect(page.locator(TEXT)).to_have_value(re.compile("^an otter in the history\n"))
    page.locator(TILE).first.click()
    expect(page.locator(TEXT)).to_have_value(re.compile("^a heron in the history\n"))
    expect(page.locator("#history_picture img")).to_have_js_property("naturalWidth", 128)
    page.click("#history_tiles summary")
    expect(page.locator("#history_tiles li").first).to_have_text(re.compile("^explode in the history: .*<b>boom</b>"))
    page.click("#history_replay")
    expect(page.locator("#history_verdict .rp-verdict")).to_be_visible()
    before = visit.server.pictures()
    page.click("#history_delete")
    page.click("#history_no")
    expect(page.locator("#history_yes")).to_be_hidden()
    page.click("#history_delete")
    page.click("#history_yes")
    expect(page.locator("#history_picture img")).to_have_count(0)
    assert len(visit.server.pictures()) == len(before) - 1
    page.locator(TILE).first.click()
    expect(page.locator(TEXT)).to_have_value(re.compile("^an otter in the history\n"))
    page.click("#history_to_txt2img")
    expect(page.locator(PROMPT)).to_be_visible()
    expect(page.locator(PROMPT)).to_have_value("an otter in the history")
    page.click("#tab_history-button")
    page.click("#history_to_img2img")
    page.wait_for_selector("#img2img_image .rp-canvas[data-filled]")
    expect(page.locator("#img2img_prompt textarea")).to_have_value("an otter in the history")

"""Settings in a real browser: found, saved, and what comes of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from modules.params.options import values_of
from modules.params.settings import Settings
from tests.e2e.conftest import choose

if TYPE_CHECKING:
    from tests.e2e.conftest import Visit

pytestmark = pytest.mark.browser

STEPS = "#settings_form_steps input[type=number]"
SEARCH = "#settings_search textarea, #settings_search input"
SAID = "#settings_said"


def test_a_setting_is_found_saved_and_holds_for_new_pages(visit: Visit) -> None:
    page = visit.open()
    page.click("#tab_settings-button")
    page.fill(SEARCH, "quality")
    expect(page.locator("#settings_image_quality")).to_be_visible()
    expect(page.locator("#settings_image_format")).to_be_hidden()
    expect(page.locator("#settings_theme")).to_be_hidden()
    page.fill(SEARCH, "")
    page.fill(STEPS, "33")
    choose(page, "settings_theme", "dark")
    page.click("#settings_save")
    expect(page.locator(SAID)).to_contain_text("The settings are saved")
    expect(page.locator("body")).to_have_class("dark")
    path = visit.server.data_dir / "settings.json"
    assert json.loads(path.read_text()) == values_of(Settings(form_steps=33, theme="dark"))
    other = page.context.new_page()
    other.goto(visit.server.url)
    expect(other.locator("#txt2img_steps input[type=number]")).to_have_value("33")
    assert other.evaluate("document.body.classList.contains('dark')")
    other.close()
    choose(page, "settings_theme", "system")
    page.fill(STEPS, "20")
    page.click("#settings_save")
    expect(page.locator("body")).not_to_have_class("dark")


def test_a_sound_is_asked_for_in_one_browser_and_made_when_a_job_ends(visit: Visit) -> None:
    page = visit.page
    page.add_init_script(
        "window.tones = 0; const start = OscillatorNode.prototype.start;"
        "OscillatorNode.prototype.start = function (...at) { window.tones++; return start.apply(this, at) }"
    )
    visit.open()
    page.click("#tab_settings-button")
    page.check(".rp-browser input[name=sound]")
    page.wait_for_function("window.tones === 2")  # to hear what it will be
    page.reload()
    page.click("#tab_txt2img-button")
    page.fill("#txt2img_prompt textarea", "a lark")
    page.click("#txt2img_generate")
    page.wait_for_function("window.tones === 2")
    page.click("#tab_settings-button")
    expect(page.locator(".rp-browser input[name=sound]")).to_be_checked()
    expect(page.locator(".rp-browser input[name=word]")).not_to_be_checked()
    page.uncheck(".rp-browser input[name=sound]")

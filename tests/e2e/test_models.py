"""What stands above the tabs, and the same prompt area in every tab, in a real browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from modules.metadata.image_text import read_metadata

if TYPE_CHECKING:
    from tests.e2e.conftest import Visit

pytestmark = pytest.mark.browser

PROMPT = "#txt2img_prompt textarea"
CARD = "#model_card .rp-card"
NAMED = '#rp_networks .rp-net[data-name="my style"] .rp-net-use'
DONE = '#txt2img_status .rp-status[data-phase="done"]'


def test_the_card_tells_of_the_chosen_checkpoint_and_follows_the_choice(visit: Visit) -> None:
    page = visit.open()
    expect(page.locator("#quick_clip_skip input")).to_have_value("1")
    page.click("#model_card_button")
    expect(page.locator(CARD)).to_contain_text("<i>reprise-mini.safetensors</i>")
    expect(page.locator(CARD)).to_contain_text("128 x 128")
    expect(page.locator("#model_card_button")).to_have_attribute("aria-expanded", "true")
    page.click("#checkpoint input")
    page.get_by_role("option", name="another.safetensors").click()
    expect(page.locator(f"{CARD} h3")).to_have_text("another.safetensors")
    page.click("#model_card_button")
    expect(page.locator(CARD)).to_have_count(0)
    expect(page.locator("#model_card_button")).to_have_attribute("aria-expanded", "false")


def test_a_card_is_edited_and_the_form_follows_the_model_that_is_chosen_again(visit: Visit) -> None:
    page = visit.open()
    steps = page.locator("#txt2img_steps input[type=number]")
    expect(steps).to_have_value("20")
    expect(page.locator("#model_card_tools")).to_have_count(0)
    page.click("#model_card_button")
    page.click("#model_card_editor > button")
    page.fill("#model_card_steps input", "7")
    page.fill("#model_card_notes textarea", "<b>mine</b>")
    page.check("#model_card_applies input")
    page.click("#model_card_save")
    expect(page.locator(CARD)).to_contain_text("<b>mine</b>")
    expect(page.locator(CARD)).to_contain_text("7 steps")
    expect(steps).to_have_value("20")  # the model is not chosen anew
    for name, expected in (("another.safetensors", "20"), ("reprise-mini.safetensors", "7")):
        page.click("#checkpoint input")
        page.get_by_role("option", name=name).click()
        expect(page.locator(f"{CARD} h3")).to_have_text(name)
        expect(steps).to_have_value(expected)
    page.click("#checkpoint input")
    page.get_by_role("option", name="another.safetensors").click()
    expect(steps).to_have_value("20")  # 7 was the model's, and nobody's own choice


def test_the_prompts_of_img2img_have_all_that_those_of_txt2img_have(visit: Visit) -> None:
    page = visit.open()
    page.click("#tab_img2img-button")
    page.fill("#img2img_prompt textarea", "a [cat:dog:0.5] (in snow")
    expect(page.locator("#img2img_prompt_line")).to_contain_text("unclosed (")
    page.click("#img2img_prompts .rp-toggle")
    expect(page.locator("#img2img_inspector .rp-block")).to_have_text(["cat", "dog"])
    page.click("#img2img_networks_open")
    page.click("#rp_networks_embedding")
    page.click(NAMED)
    expect(page.locator("#img2img_prompt textarea")).to_have_value(re.compile("my style"))


@pytest.mark.parametrize("width", [390, 1280])
def test_header_panels_and_editor_fit_into_the_window(visit: Visit, width: int) -> None:
    page = visit.page
    page.set_viewport_size({"width": width, "height": 900})
    visit.open()
    page.click("#model_card_button")
    page.wait_for_selector(CARD)
    page.click("#txt2img_styles_edit")
    parts = ("#checkpoint", "#quick_vae", "#quick_clip_skip", "#model_card_button", CARD, "#txt2img_networks_open")
    for selector in (*parts, "#rp_style_prompt", "#rp_style_save"):
        page.wait_for_selector(selector)
        found = page.locator(selector).bounding_box()
        assert found is not None
        assert found["x"] >= 0, selector
        assert found["x"] + found["width"] <= width, selector


def test_a_picture_is_made_with_the_chosen_vae_and_an_embedding(program: Visit) -> None:
    """The program itself: what is chosen above the tabs and clicked into the prompt is in the picture's texts."""
    page = program.open()
    page.click("#quick_vae input")
    page.get_by_role("option", name="fine.safetensors").click()
    page.fill(PROMPT, "a fox")
    page.click("#txt2img_networks_open")
    page.click("#rp_networks_embedding")
    page.click(NAMED)
    page.click(".rp-net-close")
    expect(page.locator(PROMPT)).to_have_value("a fox, my style")
    expect(page.locator("#txt2img_prompt_line .rp-count")).to_have_text("5/75")  # a fox , and two vectors
    page.click("#txt2img_generate")
    page.wait_for_selector(DONE)
    text = page.locator("#txt2img_infotext textarea")
    expect(text).to_have_value(re.compile(r"VAE hash: [0-9a-f]{10}, VAE: fine\.safetensors"))
    expect(text).to_have_value(re.compile(r'TI hashes: "?my style: [0-9a-f]{12}'))
    assert '"role":"embedding"' in (read_metadata(program.server.pictures()[-1])["recipe"] or "")
    page.click("#quick_vae input")
    page.locator("ul [role=option]", has_text="Automatic").click()
    page.fill(PROMPT, "")
    page.click("#txt2img_paste")  # the prompt is empty: the last picture's text is read
    expect(page.locator(PROMPT)).to_have_value("a fox, my style")
    expect(page.locator("#quick_vae input")).to_have_value("fine.safetensors")
    page.click("#model_card_button")
    expect(page.locator(CARD)).to_contain_text("64 x 64")
    expect(page.locator(CARD)).to_contain_text(re.compile("SHA-256 [0-9a-f]{64}"))

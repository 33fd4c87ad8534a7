"""The program as people start it, with a real (random) model, in a real browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from playwright.sync_api import expect

if TYPE_CHECKING:
    from tests.e2e.conftest import Visit

pytestmark = pytest.mark.browser

PROMPT = "#txt2img_prompt textarea"
STATUS = "#txt2img_status .rp-status"


def test_a_prompt_becomes_a_picture(program: Visit) -> None:
    """Prompt, Ctrl+Enter, preview, picture, generation text; and the file says the same."""
    page = program.open()
    before = len(program.server.pictures())
    page.fill(PROMPT, "a red fox in the snow")
    for name, value in (("steps", "60"), ("width", "160"), ("height", "160")):  # long enough to be seen on its way
        field = page.locator(f"#txt2img_{name} input[type=number]")
        field.fill(value)
        field.blur()
    page.locator("#txt2img_seed input").fill("7")
    page.focus(PROMPT)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#txt2img_preview .rp-live")).to_be_visible()
    page.wait_for_selector(f'{STATUS}[data-phase="done"]')
    expect(page.locator("#txt2img_gallery [data-testid=detailed-image]")).to_be_visible()
    text = page.locator("#txt2img_infotext textarea").input_value()
    assert re.match(r"a red fox in the snow\nSteps: 60, Sampler: Euler a, .*Seed: 7, Size: 160x160, ", text)
    made = program.server.pictures()
    assert len(made) == before + 1
    assert made[-1].name.endswith("-7.png")
    with Image.open(made[-1]) as picture:
        assert picture.size == (160, 160)
        assert picture.info["parameters"] == text


def test_a_job_is_interrupted_within_a_step(program: Visit) -> None:
    page = program.open()
    page.fill(PROMPT, "a red fox")
    for name, value in (("steps", "150"), ("batch_count", "100")):
        field = page.locator(f"#txt2img_{name} input[type=number]")
        field.fill(value)
        field.blur()
    page.focus(PROMPT)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#txt2img_preview .rp-live")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(STATUS)).to_contain_text("Interrupted, ")
    expect(page.locator("#txt2img_generate")).to_be_enabled()


def test_a_bad_value_is_a_sentence_and_the_server_stays_up(program: Visit) -> None:
    page = program.open()
    page.locator("#txt2img_seed input").fill("")
    page.click("#txt2img_generate")
    expect(page.locator(f'{STATUS}[data-phase="failed"]')).to_have_text("Seed needs a value")
    assert program.server.health()["status"] == "ok"


def test_a_page_that_is_loaded_again_takes_up_its_job(program: Visit) -> None:
    page = program.open()
    page.fill(PROMPT, "a blue boat")
    for name, value in (("steps", "150"), ("batch_count", "100")):
        field = page.locator(f"#txt2img_{name} input[type=number]")
        field.fill(value)
        field.blur()
    page.click("#txt2img_generate")
    expect(page.locator("#txt2img_preview .rp-live")).to_be_visible()
    page.reload()
    expect(page.locator("#txt2img_preview .rp-live")).to_be_visible()
    expect(page.locator(PROMPT)).to_have_value("a blue boat")
    program.complaints.clear()  # Gradio tells the console of the stream that the reload cut off
    page.click("#txt2img_interrupt")
    expect(page.locator(STATUS)).to_contain_text("Interrupted, ")

"""The page in a real browser, with a painter for a model: fast, so every habit of the page is tried here."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import urllib.parse
import urllib.request
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from modules.params.generation import GenerationParams

if TYPE_CHECKING:
    from tests.e2e.conftest import Visit

pytestmark = pytest.mark.browser

PROMPT = "#txt2img_prompt textarea"
STATUS = "#txt2img_status .rp-status"
DONE = f'{STATUS}[data-phase="done"]'
FAILED = f'{STATUS}[data-phase="failed"]'
RUNNING = f'{STATUS}[data-phase="running"]'
LIVE = "#txt2img_preview .rp-live"
PICTURE = "#txt2img_gallery [data-testid=detailed-image]"
TEXT = "#txt2img_infotext textarea"
GENERATE = "#txt2img_generate"
INTERRUPT = "#txt2img_interrupt"
SKIP = "#txt2img_skip"
WAITING = "#txt2img_line li"
FIXED = (GENERATE, INTERRUPT, SKIP, "#txt2img_parameters", "#txt2img_stage", "#txt2img_infotext", "#txt2img_replay")


def number(page: Page, name: str, value: int) -> None:
    """Type a value beside a slider."""
    field = page.locator(f"#txt2img_{name} input[type=number]")
    field.fill(str(value))
    field.blur()


def box(page: Page, selector: str) -> Any:
    return page.locator(selector).bounding_box()


def places(page: Page) -> list[Any]:
    """Where the boxes stand on the page that must not move, wherever it is scrolled to."""
    scrolled = "(part) => window.scrollY + (part.closest('.rp-scroll, [id$=_result]')?.scrollTop || 0)"
    found = [(box(page, selector), page.locator(selector).evaluate(scrolled)) for selector in FIXED]
    return [{**place, "y": place["y"] + below} for place, below in found]


def test_ctrl_enter_shows_the_preview_then_the_picture_and_its_text(visit: Visit) -> None:
    page = visit.open()
    before = places(page)
    number(page, "steps", 150)
    page.fill(PROMPT, "a slow <b>fox</b>")
    page.keyboard.press("Control+Enter")
    expect(page.locator(LIVE)).to_be_visible()
    assert page.locator(LIVE).get_attribute("src").startswith("data:image/jpeg;base64,")
    expect(page.locator(STATUS)).to_contain_text("of 150")
    expect(page.locator(GENERATE)).to_have_text("Queue another")
    during = places(page)
    page.click(SKIP)
    page.wait_for_selector(DONE)
    expect(page.locator(PICTURE)).to_be_visible()
    expect(page.locator(LIVE)).to_have_count(0)
    expect(page.locator(TEXT)).to_have_value(starting("a slow <b>fox</b>\nSteps: 150, Seed: "))
    expect(page.locator(GENERATE)).to_have_text("Generate")
    expect(page.locator(INTERRUPT)).to_be_disabled()
    assert before == during == places(page), "something jumped"


def starting(beginning: str) -> re.Pattern[str]:
    return re.compile("^" + re.escape(beginning))


def test_the_picture_keeps_its_text_on_the_way_to_the_browser(visit: Visit) -> None:
    page = visit.open()
    page.fill(PROMPT, "an owl")
    page.click(GENERATE)
    page.wait_for_selector(DONE)
    expect(page.locator(PICTURE)).to_be_visible()
    address = page.locator(PICTURE).get_attribute("src")
    assert address is not None
    with urllib.request.urlopen(urllib.parse.urljoin(visit.server.url, address), timeout=10) as answer:
        data = answer.read()
    with Image.open(BytesIO(data)) as picture:
        assert picture.format == "PNG"
        assert picture.info["parameters"] == page.locator(TEXT).input_value()
    assert data in [path.read_bytes() for path in visit.server.pictures()]


def test_escape_interrupts_and_keeps_what_is_finished(visit: Visit) -> None:
    page = visit.open()
    page.fill(PROMPT, "a slow owl")
    number(page, "steps", 4)
    number(page, "batch_count", 100)
    page.focus(PROMPT)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#txt2img_preview .rp-made img").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(STATUS)).to_contain_text("Interrupted, ")
    expect(page.locator(STATUS)).to_contain_text("kept")
    expect(page.locator(GENERATE)).to_have_text("Generate")
    expect(page.locator(PICTURE)).to_be_visible()


def test_the_interrupt_button_stops_a_job(visit: Visit) -> None:
    page = visit.open()
    page.fill(PROMPT, "slow")
    number(page, "steps", 150)
    page.click(GENERATE)
    expect(page.locator(LIVE)).to_be_visible()
    page.click(INTERRUPT)
    expect(page.locator(STATUS)).to_contain_text("Interrupted, 1 kept")
    expect(page.locator(LIVE)).to_have_count(0)


def test_a_bad_value_is_one_sentence_and_the_next_click_works(visit: Visit) -> None:
    page = visit.open()
    page.fill(PROMPT, "a cat")
    page.locator("#txt2img_seed input").fill("")
    page.click(GENERATE)
    expect(page.locator(FAILED)).to_have_text("Seed needs a value")
    page.fill(PROMPT, "long " * 5000)
    page.click("#txt2img_random_seed")
    page.click(GENERATE)
    expect(page.locator(FAILED)).to_have_text("Prompt has 25,000 characters and the limit is 20,000; shorten it")
    assert page.locator(".toast-wrap .toast-body").count() == 0
    page.fill(PROMPT, "a cat")
    page.click(GENERATE)
    page.wait_for_selector(DONE)


def test_a_failure_within_the_job_is_shown_as_text(visit: Visit) -> None:
    page = visit.open()
    page.fill(PROMPT, "explode")
    page.click(GENERATE)
    expect(page.locator(FAILED)).to_contain_text("<b>boom</b>")
    assert page.locator(f"{FAILED} b").count() == 0
    assert "Traceback" not in page.content()
    expect(page.locator(GENERATE)).to_be_enabled()


def test_a_size_that_is_rounded_is_said_so(visit: Visit) -> None:
    page = visit.open()
    page.fill(PROMPT, "a dog")
    number(page, "width", 100)
    page.click(GENERATE)
    page.wait_for_selector(DONE)
    expect(page.locator(STATUS)).to_contain_text("Width 100 was rounded to 96, a multiple of 8")


def test_a_page_that_is_loaded_again_takes_up_its_job(visit: Visit) -> None:
    page = visit.open()
    page.fill(PROMPT, "a slow whale")
    number(page, "cfg_scale", 9)
    number(page, "steps", 150)
    number(page, "batch_count", 20)
    page.focus(PROMPT)
    page.keyboard.press("Control+Enter")
    expect(page.locator(LIVE)).to_be_visible()
    page.reload()
    visit.complaints.clear()  # Gradio tells the console of the stream that the reload cut off
    expect(page.locator(LIVE)).to_be_visible()
    expect(page.locator(PROMPT)).to_have_value("a slow whale")
    expect(page.locator("#txt2img_cfg_scale input[type=number]")).to_have_value("9")
    expect(page.locator(GENERATE)).to_have_text("Queue another")
    page.click(SKIP)
    expect(page.locator("#txt2img_preview .rp-made img").first).to_be_visible()
    page.click(INTERRUPT)
    expect(page.locator(STATUS)).to_contain_text("Interrupted, 2 kept")
    expect(page.locator(PICTURE)).to_be_visible()
    expect(page.locator(TEXT)).to_have_value(starting("a slow whale\n"))
    visit.complaints.clear()  # Gradio tells the console of the stream that the reload cut off
    page.reload()  # and once more, after the end
    expect(page.locator(PICTURE)).to_be_visible()
    expect(page.locator(TEXT)).to_have_value(starting("a slow whale\n"))


def test_jobs_are_queued_while_one_runs_and_come_one_by_one(visit: Visit) -> None:
    """Ctrl+Shift+Enter queues another; one is taken out; Alt+Enter ends the image in hand; a reload finds the rest."""
    page = visit.open()
    before = places(page)
    page.fill(PROMPT, "slow one")
    number(page, "steps", 150)
    number(page, "batch_count", 20)
    page.focus(PROMPT)
    page.keyboard.press("Control+Enter")
    expect(page.locator(LIVE)).to_be_visible()
    number(page, "steps", 3)
    number(page, "batch_count", 1)
    for prompt in ("two", "three", "four"):
        page.fill(PROMPT, prompt)
        page.keyboard.press("Control+Shift+Enter")
        expect(page.locator(WAITING).filter(has_text=prompt)).to_be_visible()
    told = ["".join(text.split()) for text in page.locator(WAITING).all_inner_texts()]
    assert told == ["1two×", "2three×", "3four×"]
    assert before == places(page), "something jumped"
    page.locator(WAITING).filter(has_text="three").locator("button").click()
    expect(page.locator(WAITING)).to_have_count(2)
    page.reload()
    expect(page.locator(LIVE)).to_be_visible()
    expect(page.locator(WAITING)).to_have_count(2)
    visit.complaints.clear()  # Gradio tells the console of the stream that the reload cut off
    page.keyboard.press("Alt+Enter")
    expect(page.locator("#txt2img_preview .rp-made img").first).to_be_visible()
    page.click(INTERRUPT)
    page.wait_for_selector(DONE)
    expect(page.locator(GENERATE)).to_have_text("Generate")
    expect(page.locator(TEXT)).to_have_value(starting("four\n"))
    thumbnails = page.locator("#txt2img_gallery .thumbnails button")
    assert thumbnails.count() >= 3
    thumbnails.first.click()
    expect(page.locator(TEXT)).to_have_value(starting("slow one\nSteps: 150,"))
    assert before == places(page), "something jumped"


def test_a_bad_value_is_told_while_another_job_runs(visit: Visit) -> None:
    page = visit.open()
    page.fill(PROMPT, "slow")
    number(page, "steps", 150)
    page.click(GENERATE)
    expect(page.locator(LIVE)).to_be_visible()
    page.locator("#txt2img_seed input").fill("")
    page.click(GENERATE)
    expect(page.locator("#txt2img_line")).to_have_text("Seed needs a value")
    page.click(INTERRUPT)
    expect(page.locator("#txt2img_line")).to_have_text("")


def test_another_browser_tab_starts_empty(visit: Visit) -> None:
    page = visit.open()
    page.fill(PROMPT, "a horse")
    page.click(GENERATE)
    page.wait_for_selector(DONE)
    other = page.context.browser.new_context().new_page()
    other.goto(visit.server.url)
    other.wait_for_selector(PROMPT)
    other.wait_for_timeout(1000)
    assert other.input_value(PROMPT) == ""
    assert other.locator(PICTURE).count() == 0
    other.context.close()


def test_pictures_of_a_batch_come_one_by_one_and_each_shows_its_text(visit: Visit) -> None:
    page = visit.open()
    page.fill(PROMPT, "an ant")
    number(page, "batch_count", 3)
    page.locator("#txt2img_seed input").fill("18446744073709551610")
    page.click(GENERATE)
    page.wait_for_selector(DONE)
    expect(page.locator(STATUS)).to_contain_text("3 images in")
    expect(page.locator(TEXT)).to_have_value(starting("an ant\nSteps: 20, Seed: 18446744073709551610,"))
    page.locator("#txt2img_gallery .thumbnails button").nth(2).click()
    expect(page.locator(TEXT)).to_have_value(starting("an ant\nSteps: 20, Seed: 18446744073709551612,"))
    page.click("#txt2img_random_seed")
    expect(page.locator("#txt2img_seed input")).to_have_value("-1")
    page.click("#txt2img_reuse_seed")
    expect(page.locator("#txt2img_seed input")).to_have_value("18446744073709551612")


def test_the_sides_are_swapped(visit: Visit) -> None:
    page = visit.open()
    number(page, "width", 256)
    number(page, "height", 512)
    page.click("#txt2img_swap")
    expect(page.locator("#txt2img_width input[type=number]")).to_have_value("512")
    expect(page.locator("#txt2img_height input[type=number]")).to_have_value("256")


def test_the_size_begins_at_the_models_own(visit: Visit) -> None:
    page = visit.open()
    for side in ("width", "height"):
        expect(page.locator(f"#txt2img_{side} input[type=number]")).to_have_value("128")


def test_looking_at_all_parameters_changes_none(visit: Visit) -> None:
    """An empty gr.Number would turn into 0 when its accordion is opened."""
    page = visit.open()
    page.fill(PROMPT, "untouched")
    page.click("#txt2img_variation button")
    page.click("#txt2img_section_compatibility > button")
    expect(page.locator("#txt2img_profile")).to_be_visible()
    page.click(GENERATE)
    page.wait_for_selector(DONE)
    with contextlib.closing(sqlite3.connect(visit.server.data_dir / "reprise.db")) as db:
        (spec,) = db.execute("SELECT spec FROM jobs ORDER BY created DESC LIMIT 1").fetchone()
    asked = GenerationParams.from_json(json.loads(spec)["params"])
    checkpoint = "reprise-mini.safetensors"
    expected = GenerationParams(prompt="untouched", checkpoint=checkpoint, width=128, height=128)
    assert asked.changed(seed=-1, subseed=-1) == expected


def test_a_second_job_tells_its_place_in_the_queue(visit: Visit) -> None:
    page = visit.open()
    page.fill(PROMPT, "slow and first")
    number(page, "steps", 150)
    number(page, "batch_count", 20)
    page.click(GENERATE)
    expect(page.locator(LIVE)).to_be_visible()
    other = page.context.new_page()
    visit.page = other
    visit.watch()
    visit.open()
    other.fill(PROMPT, "second")
    other.click(GENERATE)
    third = page.context.new_page()
    third.goto(visit.server.url)
    third.wait_for_selector(PROMPT)
    third.fill(PROMPT, "third")
    third.click(GENERATE)
    expect(third.locator(STATUS)).to_contain_text("Number 2 in the queue")
    page.click(INTERRUPT)
    other.wait_for_selector(DONE)
    third.wait_for_selector(DONE)


def test_progress_stands_in_the_title(visit: Visit) -> None:
    page = visit.open()
    page.fill(PROMPT, "slow")
    number(page, "steps", 150)
    page.click(GENERATE)
    page.wait_for_function("document.title.match(/^[1-9][0-9]?% · Reprise$/)")
    page.click(INTERRUPT)
    page.wait_for_function("document.title === 'Reprise'")


def test_the_worker_is_told_to_be_ready(visit: Visit) -> None:
    page = visit.open()
    expect(page.locator(".rp-worker")).to_have_attribute("data-state", "ready")
    expect(page.locator(".rp-worker")).to_have_text("Ready")


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_is_wider_than_the_window(visit: Visit, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 844})
    page = visit.open()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in (GENERATE, INTERRUPT, "#txt2img_stage", "#txt2img_seed", "#checkpoint"):
        found = box(page, selector)
        assert found["x"] >= 0, selector
        assert found["x"] + found["width"] <= width, selector


def test_hostile_values_in_the_prompt_do_nothing(visit: Visit) -> None:
    """S13, in the browser itself: what was typed comes back as text, in the field, the status and the gallery."""
    page = visit.open()
    page.evaluate("window.hit = 0")
    for text in ("<img src=x onerror=window.hit=1>", '"><script>window.hit=1</script>', "{{7*7}} ${window.hit=1}"):
        page.fill(PROMPT, text)
        page.click(GENERATE)
        page.wait_for_selector(RUNNING)
        page.wait_for_selector(DONE)
        expect(page.locator(TEXT)).to_have_value(starting(text))
    page.fill(PROMPT, "x")
    assert page.evaluate("window.hit") == 0
    assert json.dumps(visit.requests).count("/x") == 0

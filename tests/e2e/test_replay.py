"""Reading pictures and making them again, in a real browser on the program with a small random model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from modules.metadata.image_text import Encoding, encode, read_metadata

if TYPE_CHECKING:
    from tests.e2e.conftest import Visit

pytestmark = pytest.mark.browser

PROMPT = "#txt2img_prompt textarea"
STATUS = "#txt2img_status .rp-status"
IDENTICAL = '.rp-verdict[data-kind="identical"]'


def generate(page: Page, prompt: str, seed: int) -> None:
    page.fill(PROMPT, prompt)
    page.locator("#txt2img_steps input[type=number]").fill("6")
    page.locator("#txt2img_seed input").fill(str(seed))
    page.click("#txt2img_generate")
    page.wait_for_selector(f'{STATUS}[data-phase="done"]')


def upload(page: Page, path: Path) -> None:
    page.click("#tab_png_info-button")
    page.set_input_files("#png_info_picture input[type=file]", str(path))
    expect(page.locator("#png_info_facts")).not_to_be_empty()


def test_the_picture_in_view_is_made_again(program: Visit) -> None:
    page = program.open()
    generate(page, "a red fox", 11)
    page.click("#txt2img_replay")
    expect(page.locator(f"#txt2img_verdict {IDENTICAL}")).to_contain_text("every pixel is the same")
    expect(page.locator("#txt2img_replay")).to_be_enabled()
    expect(page.locator("#txt2img_replay_stop")).to_have_count(0)
    generate(page, "a blue boat", 12)
    expect(page.locator("#txt2img_verdict .rp-verdict")).to_have_count(0)  # it was on another picture


def test_a_picture_is_read_its_settings_are_used_and_it_is_made_again(program: Visit, tmp_path: Path) -> None:
    page = program.open()
    generate(page, "a castle  # kept\nNegative prompt: x", 21)
    made = program.server.pictures()[-1]
    texts = read_metadata(made)
    path = tmp_path / "sent.jpg"
    path.write_bytes(encode(Image.open(made), texts["infotext"] or "", texts["recipe"] or "", Encoding("jpg"))[0])
    page.reload()
    page.fill(PROMPT, "something else")
    upload(page, path)
    expect(page.locator("#png_info_text textarea")).to_have_value(texts["infotext"] or "")
    expect(page.locator("#png_info_facts")).to_contain_text("1 of 1, seed 21")
    page.click("#png_info_replay")
    expect(page.locator(f"#png_info_verdict {IDENTICAL}")).to_contain_text("Before compression")
    page.click("#png_info_to_txt2img")
    expect(page.locator(PROMPT)).to_be_visible()
    expect(page.locator(PROMPT)).to_have_value("a castle  # kept\nNegative prompt: x")
    expect(page.locator("#txt2img_seed input")).to_have_value("21")
    expect(page.locator("#txt2img_steps input[type=number]")).to_have_value("6")


def test_a_picture_without_recipe_offers_its_text(program: Visit) -> None:
    page = program.open()
    upload(page, Path(__file__).parents[1] / "golden" / "files" / "jpeg_exif.jpg")
    expect(page.locator("#png_info_facts")).to_contain_text("It cannot be verified: the picture carries no recipe")
    page.click("#png_info_replay")
    expect(page.locator('#png_info_verdict .rp-verdict[data-kind="cannot"]')).to_contain_text("carries no recipe")
    page.click("#png_info_to_txt2img")
    expect(page.locator(PROMPT)).to_have_value("a cat, (blue:1.2) 猫")


def test_a_text_in_the_prompt_box_fills_the_form(program: Visit) -> None:
    page = program.open()
    page.fill(PROMPT, "an owl\nNegative prompt: fog\nSteps: 9, Sampler: Heun, CFG scale: 3.5, Seed: 5, Size: 128x64")
    page.click("#txt2img_paste")
    expect(page.locator(PROMPT)).to_have_value("an owl")
    expect(page.locator("#txt2img_negative textarea")).to_have_value("fog")
    expect(page.locator("#txt2img_steps input[type=number]")).to_have_value("9")
    expect(page.locator("#txt2img_sampler select")).to_have_value("Heun")
    expect(page.locator("#txt2img_width input[type=number]")).to_have_value("128")
    expect(page.locator(STATUS)).to_contain_text("read from the text")


def test_replay_without_a_picture_is_one_sentence(program: Visit) -> None:
    page = program.open()
    page.click("#txt2img_replay")
    expect(page.locator("#txt2img_verdict")).to_contain_text("There is no picture to make again")

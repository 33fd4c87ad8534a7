"""Pictures that go in: uploaded, painted on, sent from tab to tab."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from modules.gallery.inputs import InputStore
from modules.params.generation import GenerationParams, Hires, TiledUpscale
from tests.e2e.conftest import Visit

pytestmark = pytest.mark.browser


def asked(visit: Visit) -> GenerationParams:
    """The last request."""
    with contextlib.closing(sqlite3.connect(visit.server.data_dir / "reprise.db")) as db:
        (spec,) = db.execute("SELECT spec FROM jobs ORDER BY created DESC LIMIT 1").fetchone()
    return GenerationParams.from_json(json.loads(spec)["params"])


def stored(visit: Visit) -> InputStore:
    return InputStore(visit.server.data_dir / "inputs")


def done(tab: str) -> str:
    return f'#{tab}_status .rp-status[data-phase="done"]'


def picture(path: Path, size: tuple[int, int] = (160, 120)) -> Path:
    Image.linear_gradient("L").resize(size).convert("RGB").save(path)
    return path


def open_tab(page: Page, name: str) -> None:
    page.click(f"#tab_{name}-button")
    page.wait_for_selector(f"#{name}_generate")


def upload(page: Page, tab: str, path: Path) -> None:
    """A picture onto the tab's canvas."""
    page.locator(f"#{tab}_image input[type=file]").first.set_input_files(path)
    page.wait_for_selector(f"#{tab}_image .rp-canvas[data-filled]")


def test_a_picture_is_made_from_an_uploaded_one(visit: Visit, tmp_path: Path) -> None:
    page = visit.open()
    open_tab(page, "img2img")
    file = picture(tmp_path / "start.png")
    upload(page, "img2img", file)
    page.click("#img2img_measure")
    expect(page.locator("#img2img_width input[type=number]")).to_have_value("160")
    page.fill("#img2img_prompt textarea", "a house")
    page.click("#img2img_sd_upscale > button")
    page.locator("#img2img_sd_upscale_on input").check()
    page.click("#img2img_generate")
    page.wait_for_selector(done("img2img"))
    expect(page.locator("#img2img_gallery img").first).to_be_visible()
    params = asked(visit)
    assert params.init
    assert (params.width, params.height, params.init.denoising_strength) == (160, 120, 0.75)
    assert params.init.tiled == TiledUpscale()
    assert stored(visit).open(params.init.image).tobytes() == Image.open(file).tobytes()


def test_many_pictures_are_made_anew_one_after_another(visit: Visit, tmp_path: Path) -> None:
    page = visit.open()
    open_tab(page, "img2img")
    page.click("#img2img_many > button")
    files = [picture(tmp_path / "first.png", (64, 64)), tmp_path / "second.webp"]
    still = Image.open(picture(tmp_path / "still.png", (80, 64)))
    still.save(files[1], save_all=True, append_images=[Image.new("RGB", still.size)])
    page.locator("#img2img_files input[type=file]").set_input_files(files)
    expect(page.locator("#img2img_files")).to_contain_text("second")
    expect(page.locator("#img2img_files_kept textarea, #img2img_files_kept input").first).to_have_value(
        re.compile("second.webp")
    )
    expect(page.locator("#img2img_files_status")).to_contain_text("its first frame was taken")
    page.click("#img2img_generate")
    page.wait_for_selector(done("img2img"))
    with contextlib.closing(sqlite3.connect(visit.server.data_dir / "reprise.db")) as db:
        (spec,) = db.execute("SELECT spec FROM jobs ORDER BY created DESC LIMIT 1").fetchone()
    pictures = json.loads(spec)["pictures"]
    assert [one["name"] for one in pictures] == ["first.png", "second.webp"]
    assert [stored(visit).open(one["key"]).size for one in pictures] == [(64, 64), (80, 64)]


def test_without_a_picture_it_says_so(visit: Visit) -> None:
    page = visit.open()
    open_tab(page, "img2img")
    page.click("#img2img_generate")
    expect(page.locator("#img2img_status")).to_contain_text("There is no start picture")


def test_a_picture_grows_over_its_edges(visit: Visit, tmp_path: Path) -> None:
    page = visit.open()
    open_tab(page, "inpaint")
    upload(page, "inpaint", picture(tmp_path / "start.png"))
    page.click("#inpaint_outpaint button")
    page.fill("#inpaint_left input[type=number]", "64")
    page.keyboard.press("Tab")
    page.click("#inpaint_generate")
    page.wait_for_selector(done("inpaint"))
    params = asked(visit)
    assert (params.width, params.height) == (224, 120)
    assert params.init
    assert params.init.mask
    assert stored(visit).open(params.init.mask.image).convert("L").getbbox() == (0, 0, 72, 120)


@pytest.mark.parametrize("target", ["img2img", "inpaint"])
def test_a_result_is_sent_to_another_tab_with_its_prompt(visit: Visit, target: str) -> None:
    page = visit.open()
    page.fill("#txt2img_prompt textarea", "a boat")
    page.click("#txt2img_generate")
    page.wait_for_selector(done("txt2img"))
    made = visit.server.pictures()[-1]
    page.click(f"#txt2img_to_{target}")
    expect(page.locator(f"#{target}_prompt textarea")).to_have_value("a boat")
    page.wait_for_selector(f"#{target}_image .rp-canvas[data-filled]")
    if target == "inpaint":
        page.locator("#inpaint_image canvas").click()
    page.click(f"#{target}_generate")
    page.wait_for_selector(done(target))
    init = asked(visit).init
    assert init
    assert stored(visit).open(init.image).tobytes() == Image.open(made).tobytes()


def test_hires_fix_is_asked_for_when_it_is_switched_on(visit: Visit) -> None:
    page = visit.open()
    page.click("#txt2img_hires > button")
    page.locator("#txt2img_hires_on input").check()
    page.fill("#txt2img_prompt textarea", "a tower")
    page.click("#txt2img_generate")
    page.wait_for_selector(done("txt2img"))
    assert asked(visit).hires == Hires()


def test_a_page_that_is_loaded_again_takes_up_its_job(visit: Visit, tmp_path: Path) -> None:
    page = visit.open()
    open_tab(page, "img2img")
    upload(page, "img2img", picture(tmp_path / "start.png"))
    page.fill("#img2img_prompt textarea", "a slow tree")
    page.click("#img2img_generate")
    page.wait_for_selector('#img2img_status .rp-status[data-phase="running"]')
    page.reload()
    open_tab(page, "img2img")
    expect(page.locator("#img2img_prompt textarea")).to_have_value("a slow tree")
    page.wait_for_selector(done("img2img"))
    visit.complaints.clear()  # Gradio tells the console of the stream that the reload cut off

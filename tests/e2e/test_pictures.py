"""Pictures that go in: uploaded, painted on, sent from tab to tab."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from modules.inputs import InputStore
from modules.params import GenerationParams, Hires, SoftInpainting, TiledUpscale
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


def upload(page: Page, where: str, path: Path) -> None:
    """A picture into a component. Gradio's editor sets itself up once it is seen and loses a file that comes before."""
    page.wait_for_timeout(2000)
    page.locator(f"{where} input[type=file]").first.set_input_files(path)


def test_a_picture_is_made_from_an_uploaded_one(visit: Visit, tmp_path: Path) -> None:
    page = visit.open()
    open_tab(page, "img2img")
    file = picture(tmp_path / "start.png")
    upload(page, "#img2img_image", file)
    expect(page.locator("#img2img_image img")).to_be_visible()
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
    files = [picture(tmp_path / f"{name}.png", (64 + 16 * n, 64)) for n, name in enumerate(("first", "second"))]
    page.locator("#img2img_files input[type=file]").set_input_files(files)
    expect(page.locator("#img2img_files")).to_contain_text("second")
    expect(page.locator("#img2img_files_kept textarea, #img2img_files_kept input").first).to_have_value(
        re.compile("second.png")
    )
    page.click("#img2img_generate")
    page.wait_for_selector(done("img2img"))
    with contextlib.closing(sqlite3.connect(visit.server.data_dir / "reprise.db")) as db:
        (spec,) = db.execute("SELECT spec FROM jobs ORDER BY created DESC LIMIT 1").fetchone()
    pictures = json.loads(spec)["pictures"]
    assert [one["name"] for one in pictures] == ["first.png", "second.png"]
    assert [stored(visit).open(one["key"]).size for one in pictures] == [(64, 64), (80, 64)]


def test_without_a_picture_it_says_so(visit: Visit) -> None:
    page = visit.open()
    open_tab(page, "img2img")
    page.click("#img2img_generate")
    expect(page.locator("#img2img_status")).to_contain_text("There is no start picture")


def test_what_is_painted_is_the_mask(visit: Visit, tmp_path: Path) -> None:
    page = visit.open()
    open_tab(page, "inpaint")
    upload(page, "#inpaint_image", picture(tmp_path / "start.png"))
    canvas = page.locator("#inpaint_image canvas").first
    expect(canvas).to_be_visible()
    page.wait_for_timeout(1500)
    box = canvas.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 30, y)
    page.mouse.down()
    page.mouse.move(x + 30, y, steps=8)
    page.mouse.up()
    page.wait_for_timeout(500)
    page.click("#inpaint_generate")
    page.wait_for_selector(done("inpaint"))
    init = asked(visit).init
    assert init
    assert init.mask
    mask = stored(visit).open(init.mask.image).convert("L")
    assert mask.size == stored(visit).open(init.image).size == (160, 120)
    share = float((np.asarray(mask) > 128).mean())
    assert 0.001 < share < 0.5


def test_a_mask_from_a_file_and_its_options(visit: Visit, tmp_path: Path) -> None:
    page = visit.open()
    open_tab(page, "inpaint")
    upload(page, "#inpaint_image", picture(tmp_path / "start.png"))
    expect(page.locator("#inpaint_image canvas").first).to_be_visible()
    page.click("#inpaint_mask button")
    mask = Image.new("L", (160, 120))
    mask.paste(255, (10, 10, 60, 60))
    mask.save(tmp_path / "mask.png")
    upload(page, "#inpaint_mask_image", tmp_path / "mask.png")
    expect(page.locator("#inpaint_mask_image img")).to_be_visible()
    page.locator("#inpaint_mask_only_masked input").check()
    page.click("#inpaint_soft > button")
    page.locator("#inpaint_soft_on input").check()
    page.click("#inpaint_generate")
    page.wait_for_selector(done("inpaint"))
    init = asked(visit).init
    assert init
    assert init.mask
    assert init.mask.only_masked
    assert init.mask.soft == SoftInpainting()
    assert stored(visit).open(init.mask.image).convert("L").tobytes() == mask.tobytes()


def test_a_picture_grows_over_its_edges(visit: Visit, tmp_path: Path) -> None:
    page = visit.open()
    open_tab(page, "inpaint")
    upload(page, "#inpaint_image", picture(tmp_path / "start.png"))
    expect(page.locator("#inpaint_image canvas").first).to_be_visible()
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
    expect(page.locator(f"#{target}_image canvas, #{target}_image img").first).to_be_visible()
    if target == "img2img":
        page.click("#img2img_generate")
        page.wait_for_selector(done("img2img"))
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
    upload(page, "#img2img_image", picture(tmp_path / "start.png"))
    expect(page.locator("#img2img_image img")).to_be_visible()
    page.fill("#img2img_prompt textarea", "a slow tree")
    page.click("#img2img_generate")
    page.wait_for_selector('#img2img_status .rp-status[data-phase="running"]')
    page.reload()
    open_tab(page, "img2img")
    expect(page.locator("#img2img_prompt textarea")).to_have_value("a slow tree")
    page.wait_for_selector(done("img2img"))
    visit.complaints.clear()  # Gradio tells the console of the stream that the reload cut off

"""The extras tab in a real browser, on the program with its own worker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from modules.imaging.files import png_bytes
from modules.metadata.image_text import read_metadata
from tests.e2e.conftest import choose

if TYPE_CHECKING:
    from tests.e2e.conftest import Visit

pytestmark = pytest.mark.browser

STATUS = "#extras_status .rp-status"
TEXT = "a fox\nSteps: 3, Sampler: Euler a, Seed: 5"


def picture(folder: Path, name: str, shade: int) -> Path:
    image = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    image.paste((shade, 90, 40), (16, 16, 48, 48))
    path = folder / name
    path.write_bytes(png_bytes(image, {"parameters": TEXT}))
    return path


def open_tab(visit: Visit) -> Page:
    page = visit.open()
    page.get_by_role("tab", name="Extras").click()
    expect(page.locator("#extras_generate")).to_be_visible()
    return page


def saved(visit: Visit) -> list[Path]:
    return sorted(visit.server.data_dir.glob("outputs/extras-images/*/*.png"))


def test_one_picture_goes_through_a_network_and_is_saved_with_its_texts(program: Visit, tmp_path: Path) -> None:
    before = saved(program)
    source = picture(tmp_path, "one.png", 220)
    page = open_tab(program)
    page.set_input_files("#extras_image input[type=file]", source)
    expect(page.locator("#extras_image img")).to_be_visible()
    choose(page, "extras_upscaler", "tiny-2x")
    page.click("#extras_generate")
    page.wait_for_selector(f'{STATUS}[data-phase="done"]')
    expect(page.locator("#extras_infotext textarea")).to_have_value(
        f"{TEXT}\nPostprocess upscale by: 2.0, Postprocess upscaler: tiny-2x"
    )
    expect(page.locator("#extras_gallery [data-testid=detailed-image]")).to_be_visible()
    (path,) = set(saved(program)) - set(before)
    with Image.open(path) as made, Image.open(source) as given:
        assert np.array_equal(np.asarray(made), np.asarray(given).repeat(2, 0).repeat(2, 1))
    assert read_metadata(path)["infotext"] == TEXT
    page.screenshot(path=tmp_path / "extras.png", full_page=True)
    page.reload()
    page.get_by_role("tab", name="Extras").click()
    expect(page.locator("#extras_gallery [data-testid=detailed-image]")).to_be_visible()


def test_a_batch_to_a_size_with_two_upscalers(program: Visit, tmp_path: Path) -> None:
    before = saved(program)
    page = open_tab(program)
    page.get_by_role("tab", name="Batch of files").click()
    files = [picture(tmp_path, f"{n}.png", 60 * n) for n in range(3)]
    page.set_input_files("#extras_files input[type=file]", files)
    expect(page.locator("#extras_files_kept textarea, #extras_files_kept input")).to_have_value(re.compile(r"2\.png"))
    choose(page, "extras_resize", "Scale to")
    for side in ("width", "height"):
        field = page.locator(f"#extras_{side} input[type=number]")
        field.fill("128")
        field.blur()
    choose(page, "extras_upscaler_2", "Nearest")
    page.click("#extras_generate")
    page.wait_for_selector(f'{STATUS}[data-phase="done"]')
    expect(page.locator(STATUS)).to_contain_text("3 images")
    made = set(saved(program)) - set(before)
    assert len(made) == 3
    assert all(Image.open(path).size == (128, 128) for path in made)


def test_what_cannot_be_done_is_one_sentence(program: Visit, tmp_path: Path) -> None:
    page = open_tab(program)
    page.click("#extras_generate")
    expect(page.locator(STATUS)).to_contain_text("There is no picture to work on; choose one first")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    page.get_by_role("tab", name="Batch of files").click()
    page.set_input_files("#extras_files input[type=file]", broken)
    expect(page.locator(STATUS)).to_contain_text("This is not a picture that can be read")
    expect(page.locator("#extras_generate")).to_be_enabled()

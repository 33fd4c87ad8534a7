"""Scripts in a real browser, on the program as it is shipped: an X/Y/Z plot from the choice to the table."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import Visit, choose

pytestmark = pytest.mark.browser


def test_a_plot_is_chosen_made_and_looked_through(program: Visit) -> None:
    page = program.open()
    expect(page.locator("#txt2img_xyz_grid_x_type")).to_be_hidden()
    choose(page, "txt2img_script", "X/Y/Z plot")
    choose(page, "txt2img_xyz_grid_x_type", "Steps")
    page.locator("#txt2img_xyz_grid_x_values textarea, #txt2img_xyz_grid_x_values input").first.fill("1, 2")
    choose(page, "txt2img_xyz_grid_y_type", "CFG scale")
    page.locator("#txt2img_xyz_grid_y_values textarea, #txt2img_xyz_grid_y_values input").first.fill("1-7 [3]")
    page.locator("#txt2img_prompt textarea").fill("a red fox")
    page.locator("#txt2img_width input[type=number]").fill("64")
    page.locator("#txt2img_height input[type=number]").fill("64")
    page.locator("#txt2img_generate").click()
    table = page.locator("#txt2img_sheets table")
    expect(table.locator("thead th")).to_have_text(["Steps: 1", "Steps: 2"])
    expect(table.locator("tbody th")).to_have_text(["CFG scale: 1", "CFG scale: 4", "CFG scale: 7"])
    expect(table.locator("img")).to_have_count(6)
    widths = table.locator("img").evaluate_all(
        "all => Promise.all(all.map(async image => {"
        " image.loading = 'eager'; await image.decode(); return image.naturalWidth }))"
    )
    assert widths == [64] * 6
    expect(page.locator("#txt2img_status")).to_contain_text("7 images")
    expect(page.locator("#txt2img_infotext textarea")).to_have_value(
        re.compile('Script: X/Y/Z plot, X Type: Steps, X Values: "1, 2"')
    )
    assert len(list(program.server.data_dir.glob("outputs/txt2img-grids/*/*.png"))) == 1

    page.locator("#txt2img_xyz_grid_x_values textarea, #txt2img_xyz_grid_x_values input").first.fill("none")
    page.locator("#txt2img_generate").click()
    expect(page.locator("#txt2img_status")).to_contain_text("Steps must be a whole number")

"""The page for everybody: axe-core on every tab, narrow windows, the keyboard, and pictures dropped anywhere."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import Server, visiting

if TYPE_CHECKING:
    from tests.e2e.conftest import Visit

pytestmark = pytest.mark.browser

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
GRAVE = ("serious", "critical")
PICTURE = Path(__file__).parents[1] / "golden" / "files" / "jpeg_exif.jpg"
UNFOLD = """() => {
  const closed = [...document.querySelectorAll('button.label-wrap:not(.open)')].filter((one) => one.checkVisibility())
  closed.forEach((one) => one.click())
  return closed.length
}"""
CUT = """() => [...document.querySelectorAll('#rp_tabs button, #rp_tabs input, #rp_tabs textarea, #rp_header > *')]
  .filter((one) => one.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && one.type !== 'file')
  .filter((one) => !one.closest('.tab-container, .thumbnails, .rp-tokens'))
  .map((one) => [one.id || one.getAttribute('aria-label') || one.textContent.trim(), one.getBoundingClientRect()])
  .filter(([, box]) => box.width > 0 && (box.left < -1 || box.right > innerWidth + 1)).map(([name]) => name)"""
"""What is in view and reaches beyond the window."""


BARS = "#rp_tabs > .tab-wrapper > .tab-container"
CLICK_TAB = f"""(name) => [...document.querySelectorAll('{BARS} > [role=tab]')]
  .find((one) => one.textContent.trim() === name).click()"""


def tabs(page: Page) -> list[str]:
    """What the tabs are called, those too to which the row has to be scrolled."""
    found = page.locator(f"{BARS} > [role=tab]").all_inner_texts()
    assert len(found) >= 5
    return list(found)


def show(page: Page, tab: str) -> None:
    """Open a tab and unfold all that is folded there."""
    page.evaluate(CLICK_TAB, tab)
    page.wait_for_timeout(400)
    quiet = rounds = 0
    while quiet < 2:  # folds within folds, and what is only now drawn
        quiet = 0 if page.evaluate(UNFOLD) else quiet + 1
        page.wait_for_timeout(200)
        rounds += 1
        assert rounds < 50, f"a fold of {tab} does not open"


def violations(page: Page, *rules: str) -> list[str]:
    """What is grave, by all rules or by some."""
    only: dict[str, Any] = {"runOnly": list(rules)} if rules else {}
    found = page.evaluate("(only) => axe.run(document, { resultTypes: ['violations'], ...only })", only)["violations"]
    return [
        f"{entry['id']}: {node['html'][:200]}: {node['failureSummary'][:300]}"
        for entry in found
        for node in entry["nodes"]
        if entry["impact"] in GRAVE
    ]


@pytest.mark.parametrize(("theme", "rules"), [("light", ()), ("dark", ("color-contrast", "link-in-text-block"))])
def test_axe_finds_nothing_grave_on_any_tab(visit: Visit, theme: str, rules: tuple[str, ...]) -> None:
    page = visit.page
    page.goto(f"{visit.server.url}?__theme={theme}")
    page.wait_for_selector("#txt2img_prompt textarea")
    page.evaluate(AXE)
    for tab in tabs(page):
        show(page, tab)
        assert violations(page, *rules) == [], tab
    show(page, "txt2img")
    page.click("#txt2img_generate")
    page.wait_for_selector('#txt2img_status .rp-status[data-phase="done"]')
    page.click(".rp-toggle")
    expect(page.locator("#txt2img_inspector .rp-inspector")).to_be_visible()
    assert violations(page, *rules) == [], "with a picture and the inspector"


def test_axe_would_find_a_button_without_a_name(visit: Visit) -> None:
    page = visit.open()
    page.evaluate(AXE)
    page.evaluate("document.querySelector('#tab_txt2img').append(document.createElement('button'))")
    assert any(text.startswith("button-name") for text in violations(page, "button-name"))


def test_every_tab_fits_a_telephone(browser: Browser, painter: Server) -> None:
    with visiting(browser, painter, viewport={"width": 390, "height": 844}) as visit:
        page = visit.page
        visit.open()
        for tab in tabs(page):
            show(page, tab)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
            assert page.evaluate(CUT) == [], tab


def test_the_keyboard_sees_where_it_is_and_goes_down_the_page(visit: Visit) -> None:
    page = visit.open()
    page.focus("#txt2img_prompt textarea")
    passed = []
    for _ in range(90):
        page.keyboard.press("Tab")
        at = page.evaluate("[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]")
        passed.append(at)
    ids = [name for name, _ in passed]
    order = [ids.index(name) for name in ("txt2img_swap", "txt2img_random_seed", "txt2img_generate")]
    assert order == sorted(order)
    assert dict(passed)["txt2img_generate"] == "solid"


def dropped(page: Page, selector: str, path: Path) -> None:
    """Drag a file from outside onto the middle of ``selector``."""
    page.evaluate(
        """([selector, name, bytes]) => {
          const data = new DataTransfer()
          data.items.add(new File([new Uint8Array(bytes)], name, { type: 'image/jpeg' }))
          const target = document.querySelector(selector)
          for (const kind of ['dragenter', 'dragover', 'drop']) {
            target.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }))
            if (kind === 'dragover') window.veiled = !!document.querySelector('.rp-drop')
          }
        }""",
        [selector, path.name, list(path.read_bytes())],
    )


def test_a_picture_dropped_anywhere_is_read_and_one_after_it_too(visit: Visit) -> None:
    page = visit.open()
    for _ in range(2):
        dropped(page, "#txt2img_prompt textarea", PICTURE)
        assert page.evaluate("window.veiled")
        assert page.locator(".rp-drop").count() == 0
        expect(page.locator("#png_info_facts")).to_contain_text("It cannot be verified")
        expect(page.locator("#png_info_text textarea")).to_be_visible()
        expect(page.locator("#png_info_picture img")).to_be_visible()
        page.click("#tab_txt2img-button")
        expect(page.locator("#txt2img_prompt textarea")).to_be_visible()
    assert page.input_value("#txt2img_prompt textarea") == ""


def test_a_picture_field_keeps_what_is_dropped_on_it(visit: Visit) -> None:
    page = visit.open()
    page.click("#tab_img2img-button")
    expect(page.locator("#img2img_prompt textarea")).to_be_visible()
    dropped(page, "#img2img_image button, #img2img_image .rp-canvas", PICTURE)
    assert not page.evaluate("window.veiled")
    expect(page.locator("#img2img_prompt textarea")).to_be_visible()


def sides(page: Page) -> tuple[Any, Any]:
    width, height = (page.input_value(f"#txt2img_{side} input[type=number]") for side in ("width", "height"))
    return int(width), int(height)


def expect_sides(page: Page, width: int, height: int) -> None:
    expect(page.locator("#txt2img_width input[type=number]")).to_have_value(str(width))
    expect(page.locator("#txt2img_height input[type=number]")).to_have_value(str(height))


def test_shapes_keep_the_area_and_a_kept_shape_follows(visit: Visit) -> None:
    page = visit.open()
    for shape, ratio in {"16_9": 16 / 9, "2_3": 2 / 3, "1_1": 1}.items():
        page.click("#txt2img_large")
        expect_sides(page, 192, 192)
        page.click(f"#txt2img_shape_{shape}")
        if shape != "1_1":
            expect(page.locator("#txt2img_width input[type=number]")).not_to_have_value("192")
        width, height = sides(page)
        assert width % 8 == height % 8 == 0
        assert width / height == pytest.approx(ratio, rel=0.06)
        assert width * height == pytest.approx(192 * 192, rel=0.06)
    page.click("#txt2img_landscape")
    expect_sides(page, 192, 128)
    page.check("#txt2img_keep_shape input")
    page.locator("#txt2img_width input[type=number]").fill("384")
    expect_sides(page, 384, 256)
    page.locator("#txt2img_height input[type=number]").fill("512")
    expect_sides(page, 768, 512)
    page.uncheck("#txt2img_keep_shape input")
    page.locator("#txt2img_width input[type=number]").fill("256")
    expect_sides(page, 256, 512)
    page.click("#txt2img_swap")
    expect_sides(page, 512, 256)


def test_a_picture_goes_from_where_it_is_to_every_tab(visit: Visit) -> None:
    page = visit.open()
    page.fill("#txt2img_prompt textarea", "a kite")
    page.locator("#txt2img_steps input[type=number]").fill("7")
    page.click("#txt2img_generate")
    page.wait_for_selector('#txt2img_status .rp-status[data-phase="done"]')
    seed = re.search(r"Seed: (\d+)", page.input_value("#txt2img_infotext textarea"))
    assert seed
    for tab in ("img2img", "inpaint"):
        page.click("#tab_txt2img-button")
        page.click(f"#txt2img_to_{tab}")
        expect(page.locator(f"#{tab}_prompt textarea")).to_be_visible()
        expect(page.locator(f"#{tab}_prompt textarea")).to_have_value("a kite")
        expect(page.locator(f"#{tab}_steps input[type=number]")).to_have_value("7")
    page.click("#tab_txt2img-button")
    page.click("#txt2img_to_extras")
    expect(page.locator("#extras_image img")).to_be_visible()
    page.click("#tab_txt2img-button")
    page.fill("#txt2img_prompt textarea", "another")
    page.locator("#txt2img_steps input[type=number]").fill("3")
    dropped(page, "#txt2img_steps", visit.server.pictures()[-1])
    expect(page.locator("#png_info_picture img")).to_be_visible()
    for tab in ("inpaint", "extras", "img2img", "txt2img"):
        page.click("#tab_png_info-button")
        page.click(f"#png_info_to_{tab}")
        expect(page.locator(f"#{'extras_upscaler' if tab == 'extras' else tab + '_prompt'}")).to_be_visible()
    expect(page.locator("#txt2img_prompt textarea")).to_have_value("a kite")
    expect(page.locator("#txt2img_steps input[type=number]")).to_have_value("7")
    expect(page.locator("#txt2img_seed input")).to_have_value(seed[1])

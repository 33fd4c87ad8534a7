"""Painting with a real mouse, against what the server received, pixel for pixel outside the border of the strokes.

What must be painted is computed here from the pointer's places alone: the view's box, the zoom and discs in NumPy.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, expect

from modules.params.generation import Init, SoftInpainting
from tests.e2e.conftest import Visit
from tests.e2e.test_pictures import asked, done, open_tab, stored

pytestmark = pytest.mark.browser

Point = tuple[float, float]
Pixels = NDArray[np.bool_]


@dataclass
class Easel:
    """A canvas in the browser and where its picture lies in the window: ``window = place + scale * pixel``."""

    page: Page
    tab: str
    size: tuple[int, int]
    scale: float = 0.0
    left: float = 0.0
    top: float = 0.0

    def __post_init__(self) -> None:
        canvas = self.page.locator(f"#{self.tab}_image canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        assert box
        width, height = self.size
        self.scale = min(box["width"] / width, box["height"] / height)
        self.left = box["x"] + (box["width"] - width * self.scale) / 2
        self.top = box["y"] + (box["height"] - height * self.scale) / 2

    def at(self, x: float, y: float) -> Point:
        """Where a place of the picture, as parts of its sides, is in the window, to a whole pixel."""
        return round(self.left + x * self.size[0] * self.scale), round(self.top + y * self.size[1] * self.scale)

    def pixel(self, point: Point) -> Point:
        return (point[0] - self.left) / self.scale, (point[1] - self.top) / self.scale

    def stroke(self, *points: Point) -> list[Point]:
        """Draw through places of the picture; the same in its pixels."""
        window = [self.at(*point) for point in points]
        self.page.mouse.move(*window[0])
        self.page.mouse.down()
        for place in window[1:]:
            self.page.mouse.move(*place)
        self.page.mouse.up()
        return [self.pixel(place) for place in window]

    def wheel(self, point: Point, turns: int) -> None:
        """Each turn of the wheel is e^0.2 nearer; what is under the pointer stays there."""
        x, y = self.at(*point)
        self.page.mouse.move(x, y)
        for _ in range(abs(turns)):
            self.page.mouse.wheel(0, -100 if turns > 0 else 100)
            self.page.wait_for_timeout(30)
        factor = math.exp(0.2 * turns)
        self.left, self.top = x - (x - self.left) * factor, y - (y - self.top) * factor
        self.scale *= factor
        expect(self.page.locator(f"#{self.tab}_image [data-part=zoom]")).to_have_text(f"{round(100 * self.scale)}%")

    def brush(self, size: int) -> float:
        """Set the brush's size by the slider; its radius."""
        self.page.locator(f"#{self.tab}_image [data-part=size]").fill(str(size))
        return size / 2

    def tool(self, name: str) -> None:
        self.page.locator(f"#{self.tab}_image input[data-tool={name}]").check(force=True)

    def press(self, name: str) -> None:
        self.page.click(f"#{self.tab}_image [data-do={name}]")


def distances(size: tuple[int, int], points: list[Point]) -> NDArray[np.float64]:
    """How far each pixel's centre is from the line through ``points``: (height, width)."""
    width, height = size
    y, x = np.mgrid[:height, :width] + 0.5
    found = np.full((height, width), np.inf)
    for (ax, ay), (bx, by) in zip(points, points[1:] or points, strict=False):
        dx, dy = bx - ax, by - ay
        t = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy or 1), 0, 1)
        found = np.minimum(found, np.hypot(x - ax - t * dx, y - ay - t * dy))
    return found


@dataclass
class Expected:
    """A mask as it must be, and the borders of strokes, a pixel wide, where rounding decides."""

    mask: Pixels
    border: Pixels

    def paint(self, points: list[Point], radius: float, white: bool = True) -> None:
        height, width = self.mask.shape
        distance = distances((width, height), points)
        self.mask[distance <= radius] = white
        self.border |= abs(distance - radius) < 0.75


def blank(size: tuple[int, int]) -> Expected:
    return Expected(np.zeros(size[::-1], bool), np.zeros(size[::-1], bool))


def choose(page: Page, tab: str, path: Path) -> None:
    """A picture, the moment the canvas is there."""
    page.locator(f"#{tab}_image [data-part=file]").set_input_files(path)
    page.wait_for_selector(f"#{tab}_image .rp-canvas[data-filled]")


def drop(page: Page, tab: str, path: Path) -> None:
    """Let a file fall onto the canvas."""
    script = """([tab, bytes]) => {
        const dataTransfer = new DataTransfer()
        dataTransfer.items.add(new File([new Uint8Array(bytes)], 'dropped.png', { type: 'image/png' }))
        const how = { dataTransfer, bubbles: true, cancelable: true }
        document.querySelector(`#${tab}_image canvas`).dispatchEvent(new DragEvent('drop', how))
    }"""
    page.evaluate(script, [tab, list(path.read_bytes())])


def noise(path: Path, size: tuple[int, int], **how: str) -> Path:
    pixels = np.random.default_rng(7).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(path, **how)
    return path


def generated(visit: Visit, tab: str) -> Init:
    visit.page.click(f"#{tab}_generate")
    visit.page.wait_for_selector(done(tab))
    init = asked(visit).init
    assert init
    return init


def mask_of(visit: Visit, init: Init) -> Pixels:
    """What the server received; only black and white."""
    assert init.mask
    grey = np.asarray(stored(visit).open(init.mask.image).convert("L"))
    assert set(np.unique(grey)) <= {0, 255}
    return np.asarray(grey > 0)


def agree(found: Pixels, expected: Expected) -> None:
    assert found.shape == expected.mask.shape
    assert expected.mask.any()
    assert expected.border.mean() < 0.5
    differs = (found != expected.mask) & ~expected.border
    assert not differs.any(), f"{differs.sum()} of {differs.size} pixels"


@pytest.mark.parametrize(("size", "brush"), [((64, 64), 9), ((640, 480), 48), ((1999, 1501), 130)])
def test_the_mask_is_what_was_painted_at_any_size_and_zoom(
    visit: Visit, tmp_path: Path, size: tuple[int, int], brush: int
) -> None:
    page = visit.open()
    open_tab(page, "inpaint")
    choose(page, "inpaint", noise(tmp_path / "start.png", size))
    easel, expected = Easel(page, "inpaint", size), blank(size)
    radius = easel.brush(brush)
    expected.paint(easel.stroke((0.2, 0.3), (0.5, 0.35), (0.45, 0.8)), radius)
    expected.paint(easel.stroke((0.8, 0.8)), radius)
    easel.stroke((0.1, 0.9), (0.9, 0.1))
    page.keyboard.press("Control+z")
    easel.wheel((0.6, 0.4), 7)
    radius = easel.brush(brush // 3)
    expected.paint(easel.stroke((0.6, 0.4), (0.66, 0.44)), radius)
    easel.tool("eraser")
    expected.paint(easel.stroke((0.5, 0.35), (0.62, 0.42)), radius, white=False)
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+y")
    easel.press("fit")
    init = generated(visit, "inpaint")
    agree(mask_of(visit, init), expected)
    assert stored(visit).open(init.image).tobytes() == Image.open(tmp_path / "start.png").tobytes()


def test_undo_redo_clear_invert_fill_and_keys(visit: Visit, tmp_path: Path) -> None:
    size = (160, 120)
    page = visit.open()
    open_tab(page, "inpaint")
    choose(page, "inpaint", noise(tmp_path / "start.png", size))
    easel, expected = Easel(page, "inpaint", size), blank(size)
    radius = easel.brush(20)
    expected.paint(easel.stroke((0.2, 0.5), (0.6, 0.5)), radius)
    for press in ("clear", "undo", "fill", "undo", "redo", "undo", "invert"):
        easel.press(press)
    expected.mask = ~expected.mask
    # By keys alone: from the middle, three steps of half the brush to the left, painting black on the way.
    page.locator("#inpaint_image canvas").focus()
    page.keyboard.press("e")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowLeft")
    expected.paint([(80, 60), (50, 60)], 10, white=False)
    page.keyboard.press("]")
    expect(page.locator("#inpaint_image [data-part=size-said]")).to_have_text("25 px")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expected.paint([(50, 73)], 12.5, white=False)
    agree(mask_of(visit, generated(visit, "inpaint")), expected)


def test_a_mask_from_a_file_is_shown_painted_on_and_survives_a_reload(visit: Visit, tmp_path: Path) -> None:
    size = (160, 120)
    page = visit.open()
    open_tab(page, "inpaint")
    start = noise(tmp_path / "start.png", size)
    choose(page, "inpaint", start)
    expected = blank(size)
    expected.mask[10:60, 20:70] = True
    Image.fromarray(expected.mask).save(tmp_path / "mask.png")
    page.locator("#inpaint_image [data-part=mask-file]").set_input_files(tmp_path / "mask.png")
    expect(page.locator("#inpaint_image .rp-canvas-said")).to_contain_text("13% painted")
    easel = Easel(page, "inpaint", size)
    radius = easel.brush(12)
    expected.paint(easel.stroke((0.5, 0.7), (0.9, 0.7)), radius)
    page.wait_for_function("JSON.parse(sessionStorage.getItem('reprise.canvas.inpaint'))?.strokes")
    page.wait_for_timeout(800)
    page.reload()
    open_tab(page, "inpaint")
    expect(page.locator("#inpaint_image .rp-canvas-said")).to_contain_text("painted")
    page.locator("#inpaint_mask_only_masked input").check()
    page.click("#inpaint_soft > button")
    page.locator("#inpaint_soft_on input").check()
    init = generated(visit, "inpaint")
    agree(mask_of(visit, init), expected)
    assert init.mask
    assert init.mask.only_masked
    assert init.mask.soft == SoftInpainting()
    assert stored(visit).open(init.image).tobytes() == Image.open(start).tobytes()
    visit.complaints.clear()  # Gradio tells the console of the stream that the reload cut off


def test_coloured_strokes_are_part_of_the_start_and_in_inpaint_the_mask_too(visit: Visit, tmp_path: Path) -> None:
    size = (160, 120)
    page = visit.open()
    for tab in ("img2img", "inpaint"):
        open_tab(page, tab)
        choose(page, tab, noise(tmp_path / "start.png", size))
        page.locator(f"#{tab}_image input[data-mode=colours]").check(force=True)
        page.click(f'#{tab}_image [data-colour="#2f6fd0"]')
        easel, expected = Easel(page, tab, size), blank(size)
        radius = easel.brush(24)
        expected.paint(easel.stroke((0.3, 0.3), (0.7, 0.6)), radius)
        if tab == "inpaint":
            page.locator("#inpaint_mask_blur input[type=number]").fill("0")
            page.keyboard.press("Tab")
        init = generated(visit, tab)
        pixels = np.asarray(stored(visit).open(init.image))
        before = np.asarray(Image.open(tmp_path / "start.png"))
        inside, outside = expected.mask & ~expected.border, ~expected.mask & ~expected.border
        assert (pixels[inside] == (0x2F, 0x6F, 0xD0)).all()
        assert (pixels[outside] == before[outside]).all()
        if tab == "inpaint":
            agree(mask_of(visit, init), expected)
        else:
            assert init.mask is None


def test_a_drawing_starts_from_a_blank_canvas(visit: Visit) -> None:
    page = visit.open()
    open_tab(page, "img2img")
    page.click("#img2img_image [data-do=blank]")
    page.fill("#img2img_image form [name=width]", "200")
    page.fill("#img2img_image form [name=height]", "120")
    page.fill("#img2img_image form [name=ground]", "#102030")
    page.click("#img2img_image form [type=submit]")
    page.wait_for_selector('#img2img_image .rp-canvas[data-filled][data-mode="colours"]')
    page.fill("#img2img_image [data-part=opacity]", "50")
    page.click('#img2img_image [data-colour="#ffffff"]')
    easel, expected = Easel(page, "img2img", (200, 120)), blank((200, 120))
    # The stroke crosses itself; it is laid on once.
    radius = easel.brush(20)
    expected.paint(easel.stroke((0.2, 0.2), (0.8, 0.8), (0.8, 0.2), (0.2, 0.8)), radius)
    pixels = np.asarray(stored(visit).open(generated(visit, "img2img").image).convert("RGB")).astype(int)
    halves = np.array([(c * 127 + 255 * 128) / 255 for c in (0x10, 0x20, 0x30)])
    assert abs(pixels[expected.mask & ~expected.border] - halves).max() <= 1
    assert (pixels[~expected.mask & ~expected.border] == (0x10, 0x20, 0x30)).all()


def test_two_fingers_zoom_and_one_paints(visit: Visit, tmp_path: Path) -> None:
    size = (160, 120)
    page = visit.open()
    open_tab(page, "inpaint")
    choose(page, "inpaint", noise(tmp_path / "start.png", size))
    easel, expected = Easel(page, "inpaint", size), blank(size)
    session = page.context.new_cdp_session(page)

    def touch(kind: str, *points: Point) -> None:
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    (ax, ay), (bx, by) = easel.at(0.4, 0.5), easel.at(0.6, 0.5)
    touch("touchStart", (ax, ay))
    touch("touchStart", (ax, ay), (bx, by))
    wide = bx - ax
    touch("touchMove", (ax, ay), (bx, by))
    touch("touchMove", (ax - wide / 2, ay), (bx + wide / 2, by))
    touch("touchEnd")
    middle = (ax + bx) / 2
    easel.left, easel.top = middle - (middle - easel.left) * 2, ay - (ay - easel.top) * 2
    easel.scale *= 2
    expect(page.locator("#inpaint_image [data-part=zoom]")).to_have_text(f"{round(100 * easel.scale)}%")
    radius = easel.brush(16)
    window = [easel.at(0.4, 0.4), easel.at(0.6, 0.45)]
    touch("touchStart", window[0])
    touch("touchMove", window[1])
    touch("touchEnd")
    expected.paint([easel.pixel(place) for place in window], radius)
    agree(mask_of(visit, generated(visit, "inpaint")), expected)


def test_a_picture_that_lies_on_its_side_is_painted_upright(visit: Visit, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").resize((120, 80)).convert("RGB").save(tmp_path / "side.jpg", exif=exif)
    page = visit.open()
    open_tab(page, "inpaint")
    choose(page, "inpaint", tmp_path / "side.jpg")
    expect(page.locator("#inpaint_image .rp-canvas-said")).to_contain_text("80 × 120")
    easel, expected = Easel(page, "inpaint", (80, 120)), blank((80, 120))
    radius = easel.brush(14)
    expected.paint(easel.stroke((0.2, 0.8), (0.7, 0.8)), radius)
    init = generated(visit, "inpaint")
    agree(mask_of(visit, init), expected)
    assert stored(visit).open(init.image).size == (80, 120)


def test_what_is_no_picture_is_said_and_nothing_is_lost(visit: Visit, tmp_path: Path) -> None:
    page = visit.open()
    open_tab(page, "inpaint")
    said = page.locator("#inpaint_image .rp-canvas-said")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "text.txt").write_text("no picture")
    page.locator("#inpaint_image [data-part=file]").set_input_files(tmp_path / "text.txt")
    expect(said).to_contain_text("PNG, JPEG, WebP, AVIF, GIF and BMP are accepted")
    page.locator("#inpaint_image [data-part=file]").set_input_files(tmp_path / "text.png")
    expect(said).to_contain_text("not a picture that can be read")
    drop(page, "inpaint", noise(tmp_path / "start.png", (64, 64)))
    page.wait_for_selector("#inpaint_image .rp-canvas[data-filled]")
    page.click("#inpaint_generate")
    expect(page.locator("#inpaint_status")).to_contain_text("Nothing is masked")
    kept = page.evaluate("sessionStorage.getItem('reprise.canvas.inpaint')")
    assert set(json.loads(kept)) == {"picture", "mode"}

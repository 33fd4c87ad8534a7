"""The panel of networks in a real browser: opened from the right, by mouse and keyboard, in every size and language."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Browser, Page, expect

from modules.checkpoints.networks.cards import Insertion, clicked
from tests.e2e.conftest import Server, visiting
from tests.e2e.test_a11y import AXE, violations
from tests.webui.fake_server import CHECKPOINTS

if TYPE_CHECKING:
    from tests.e2e.conftest import Visit

pytestmark = pytest.mark.browser

PROMPT, NEGATIVE = "#txt2img_prompt textarea", "#txt2img_negative textarea"
CARDS = "#rp_networks .rp-net"
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "side_files.json").read_text(encoding="utf-8"))["cards"]
MORE = [
    (("a <lora:x:0.3>b <lora:x:1> word, c", "(bad:0.5) lowres"), "<lora:x:0.7> word", "(bad:1)"),
    (("a <lora:x:-0.3> b", ""), "<lora:x:0.7>", ""),
    (("", "ugly"), "<hypernet:a b:1>", ""),
    (("a $& b", ""), "<lora:$&:1> a.b*c", "($1:1)"),
]
"""Texts, what a click writes, and what into the negative prompt."""


def use(name: str) -> str:
    return f'{CARDS}[data-name="{name}"] .rp-net-use'


def opened(page: Page, tab: str = "txt2img") -> Page:
    page.click(f"#{tab}_networks_open")
    expect(page.locator(CARDS).first).to_be_visible()
    expect(page.locator("#rp_networks footer [role=status]")).to_have_text(re.compile("cards"))
    return page


def test_a_click_writes_what_the_references_does(visit: Visit) -> None:
    """The script's arithmetic on texts is the server's, which the reference data judge."""
    page = visit.open()
    cases: list[tuple[Any, str, str, str]] = [
        (texts, case["tag"], case["negative"], case["settings"].get("extra_networks_add_text_separator", " "))
        for case in GOLDEN
        for texts in (case["before"], case["after_click"])
    ]
    cases += [(texts, text, negative, " ") for texts, text, negative in MORE]
    for texts, text, negative, separator in cases:
        found = page.evaluate(
            "(given) => window.reprise.networks.clicked(...given)", [texts, text, negative, separator]
        )
        assert tuple(found) == clicked(tuple(texts), Insertion(text, negative), separator), (texts, text)
    assert [
        page.evaluate(
            "(given) => window.reprise.networks.clicked(...given)", [c["before"], c["tag"], c["negative"], " "]
        )
        for c in GOLDEN
        if not c["settings"].get("extra_networks_add_text_separator")
    ] == [c["after_click"] for c in GOLDEN if not c["settings"].get("extra_networks_add_text_separator")]


def test_cards_are_written_weighed_and_taken_out(visit: Visit) -> None:
    page = visit.open()
    page.fill(PROMPT, "a cat")
    height = page.evaluate("document.documentElement.scrollHeight")
    opened(page)
    assert page.evaluate("document.documentElement.scrollHeight") == height  # it lies over the page
    page.click(use("ink wash"))
    expect(page.locator(PROMPT)).to_have_value("a cat <lora:ink wash:0.7> brush strokes")
    expect(page.locator(NEGATIVE)).to_have_value(" (photo:1)")
    expect(page.locator(use("ink wash"))).to_have_attribute("aria-pressed", "true")
    page.fill(f'{CARDS}[data-name="ink wash"] input[type=number]', "0.4")
    expect(page.locator(PROMPT)).to_have_value("a cat <lora:ink wash:0.4> brush strokes")
    page.click(use("ink wash"))
    expect(page.locator(PROMPT)).to_have_value("a cat")
    expect(page.locator(NEGATIVE)).to_have_value("")
    for weight in (":-0.5", ":[0:1:0.5]", ":0.4:te=0.2", ""):  # what a person wrote is the card's too
        page.fill(PROMPT, f"a cat <lora:ink wash{weight}>")
        expect(page.locator(use("ink wash"))).to_have_attribute("aria-pressed", "true")
        page.click(use("ink wash"))
        expect(page.locator(PROMPT)).to_have_value("a cat")
    page.fill(NEGATIVE, "")
    page.fill("#rp_networks input[type=search]", "BRUSH")
    expect(page.locator(CARDS)).to_have_count(1)
    page.fill("#rp_networks input[type=search]", "")
    expect(page.locator(CARDS)).not_to_have_count(1)
    page.click('#rp_networks [data-folder="Lora/styles"]')
    expect(page.locator(CARDS)).to_have_count(1)  # the other one is for SDXL
    page.uncheck("#rp_networks input[type=checkbox]")
    expect(page.locator(CARDS)).to_have_count(2)
    expect(page.locator(f'{CARDS}[data-name="xl"]')).to_contain_text("does not fit")
    # an embedding goes to the box that had the cursor, at the cursor
    page.focus(NEGATIVE)
    page.click("#rp_networks_embedding")
    page.fill("#rp_networks input[type=search]", "hands")
    expect(page.locator(CARDS)).to_have_count(1)
    page.click(f"{CARDS} .rp-net-use")
    expect(page.locator(NEGATIVE)).to_have_value("bad <b>hands")
    page.click(f"{CARDS} .rp-net-use")
    expect(page.locator(NEGATIVE)).to_have_value("")


def test_the_keyboard_opens_walks_writes_and_closes(visit: Visit) -> None:
    page = visit.open()
    page.fill(PROMPT, "a cat")
    page.focus("#txt2img_networks_open")
    page.keyboard.press("Enter")
    expect(page.locator("#rp_networks input[type=search]")).to_be_focused()
    expect(page.locator("#rp_networks footer [role=status]")).to_have_text(re.compile("cards"))
    page.keyboard.press("ArrowDown")
    names = page.eval_on_selector_all(CARDS, "(all) => all.map((one) => one.dataset.name)")
    expect(page.locator(use(names[0].replace('"', '\\"')))).to_be_focused()
    page.keyboard.press("End")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(use(names[2]))).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(PROMPT)).to_have_value(f"a cat <lora:{names[2]}:1>")
    expect(page.locator(use(names[2]))).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".rp-net-form")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".rp-net-form")).to_have_count(0)
    expect(page.locator("#rp_networks")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#rp_networks")).to_be_hidden()
    expect(page.locator("#txt2img_networks_open")).to_be_focused()


def test_a_card_is_edited_and_gets_the_picture_in_view(visit: Visit) -> None:
    page = visit.open()
    page.fill(PROMPT, "a fox")
    page.locator("#txt2img_steps input[type=number]").fill("2")
    page.click("#txt2img_generate")
    page.wait_for_selector('#txt2img_status .rp-status[data-phase="done"]')
    opened(page)
    page.click(f'{CARDS}[data-name="locon"] .rp-net-about')
    page.fill(".rp-net-form [name=notes]", "of <b>hills</b>")
    page.fill(".rp-net-form [name=preferred_weight]", "1000")
    page.click(".rp-net-save")
    sentence = "a preferred weight is a number between -100 and 100; 0 stands for the usual one"
    for place in (".rp-net-form [role=status]", "#rp_networks footer [role=status]"):
        expect(page.locator(place)).to_have_text(sentence)
    visit.complaints.clear()  # of the refusal, as the console tells it
    page.fill(".rp-net-form [name=preferred_weight]", "0.333")
    page.click(".rp-net-save")
    expect(page.locator(".rp-net-form [role=status]")).to_have_text("Saved.")
    expect(page.locator(".rp-net-form [name=notes]")).to_have_value("of <b>hills</b>")
    page.fill(".rp-net-form [name=description]", "not saved yet")
    page.click(".rp-net-keep")
    expect(page.locator(".rp-net-form [role=status]")).to_have_text("The preview is saved.")
    expect(page.locator(".rp-net-about-it img")).to_be_visible()
    expect(page.locator(".rp-net-form [name=description]")).to_have_value("not saved yet")
    kept = visit.server.data_dir / "models" / "LyCORIS"
    assert json.loads((kept / "locon.json").read_text("utf-8"))["preferred weight"] == 0.333
    assert (kept / "locon.png").is_file()
    page.click(".rp-net-back")  # what was typed is not dropped without a word
    expect(page.locator(".rp-net-form [role=status]")).to_contain_text("Not saved yet")
    expect(page.locator(".rp-net-form [name=description]")).to_have_value("not saved yet")
    page.click(".rp-net-back")
    page.click(use("locon"))
    expect(page.locator(PROMPT)).to_have_value("a fox <lora:locon:0.333>")
    page.click(f'{CARDS}[data-name="ink wash"] .rp-net-about')
    page.click('.rp-net-word[data-word="paper"]')
    expect(page.locator(PROMPT)).to_have_value("a fox <lora:locon:0.333>, paper")


def test_a_checkpoints_card_chooses_it(visit: Visit) -> None:
    page = opened(visit.open())
    page.click("#rp_networks_checkpoint")
    page.click(use("another.safetensors"))
    expect(page.locator("#checkpoint input")).to_have_value("another.safetensors")
    page.click("#rp_networks_lora")
    expect(page.locator(f'{CARDS}[data-name="locon"]')).to_have_count(0)  # it is for SD1
    page.click("#tab_img2img-button")
    expect(page.locator("#rp_networks")).to_be_hidden()
    opened(page, "img2img")
    page.click(use("ann"))
    expect(page.locator("#img2img_prompt textarea")).to_have_value(" <lora:ann:1>")


def test_a_checkpoint_chosen_by_its_card_brings_what_it_begins_with(visit: Visit) -> None:
    """As one that is chosen in the header does."""
    page = visit.open()
    steps, (mini, other) = page.locator("#txt2img_steps input[type=number]"), CHECKPOINTS
    page.click("#checkpoint input")
    page.get_by_role("option", name=other).click()
    page.click("#model_card_button")
    page.click("#model_card_editor > button")
    page.fill("#model_card_steps input", "12")
    page.check("#model_card_applies input")
    page.click("#model_card_save")
    expect(page.locator("#model_card .rp-card")).to_contain_text("12 steps")
    opened(page).click("#rp_networks_checkpoint")

    def choose(name: str) -> None:
        page.click(use(name))
        expect(page.locator(use(name))).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#checkpoint input")).to_have_value(name)
        expect(page.locator("#model_card h3")).to_have_text(name)

    choose(mini)
    expect(steps).not_to_have_value("12")
    steps.fill("33")
    choose(other)
    expect(steps).to_have_value("12")  # its card says that they always apply
    choose(mini)
    expect(steps).not_to_have_value("12")  # they were the other's, and nobody's own choice


@pytest.fixture(params=[(390, 844, "light"), (1440, 900, "dark")], ids=["phone", "dark"])
def sized(browser: Browser, painter: Server, request: pytest.FixtureRequest) -> Iterator[Page]:
    width, height, theme = request.param
    with visiting(browser, painter, viewport={"width": width, "height": height}, locale="zh-CN") as visit:
        visit.page.goto(f"{painter.url}?__theme={theme}")
        visit.page.wait_for_selector(PROMPT)
        yield visit.page


def test_it_fits_the_window_in_chinese_and_axe_finds_nothing_grave(sized: Page) -> None:
    sized.click("#txt2img_networks_open")
    expect(sized.locator(CARDS).first).to_be_visible()
    expect(sized.locator("#rp_networks h2")).to_have_text("扩展网络")
    expect(sized.locator("#rp_networks footer [role=status]")).to_have_text(re.compile("张卡片"))
    cut = """(selector) => [...document.querySelectorAll(selector)].filter((one) => one.checkVisibility())
      .filter((one) => !one.closest('[role=tablist], nav'))
      .map((one) => [one.className || one.type, one.getBoundingClientRect()])
      .filter(([, box]) => box.width && (box.left < -1 || box.right > innerWidth + 1)).map(([name]) => name)"""
    parts = "#rp_networks :is(button, input, select, textarea, li)"
    assert sized.evaluate(cut, parts) == []
    sized.evaluate(AXE)
    assert violations(sized) == []
    sized.click(f'{CARDS}[data-name="ink wash"] .rp-net-about')
    expect(sized.locator(".rp-net-form")).to_be_visible()
    assert sized.evaluate(cut, parts) == []
    assert violations(sized) == []

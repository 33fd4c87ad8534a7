"""The page in a browser that asks for Chinese: all is translated but what people wrote, and nothing else changes."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import Server, choose, visiting
from webui.i18n import load_catalogues

if TYPE_CHECKING:
    from tests.e2e.conftest import Visit

pytestmark = pytest.mark.browser

PROMPT = "#txt2img_prompt textarea"
STATUS = "#txt2img_status .rp-status"
SEEN = """() => {
  const kept = 'script, style, textarea, kbd, [translate="no"], [role="option"], .rp-brand, #checkpoint'
  const seen = (element) => element.checkVisibility({ visibilityProperty: true }) && !element.closest(kept)
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const node = walker.currentNode
    if (node.nodeValue.trim() && seen(node.parentElement)) found.push(node.nodeValue.trim())
  }
  for (const name of ['title', 'aria-label', 'placeholder', 'alt']) {
    for (const element of document.body.querySelectorAll(`[${name}]`)) {
      const typed = element.matches('textarea, input') && element.checkVisibility()
      if (seen(element) || typed) found.push(element.getAttribute(name))
    }
  }
  return [...new Set(found)]
}"""
"""All texts in view, those of attributes too."""


@pytest.fixture
def chinese(browser: Browser, painter: Server) -> Iterator[Visit]:
    with visiting(browser, painter, locale="zh-CN") as made:
        yield made


def opened(visit: Visit) -> Page:
    page = visit.open()
    page.wait_for_selector("html[data-translated=zh]")
    return page


def unknown(page: Page) -> list[str]:
    """Texts in view that hold English words."""
    catalogue = load_catalogues()["zh"]
    proper = {meaning for key, meaning in catalogue.entries.items() if key == meaning}
    return [
        text
        for text in page.evaluate(SEEN)
        if text not in proper and re.search("[A-Za-z]{2}", text) and not re.search("[\u4e00-\u9fff]", text)
    ]


def test_no_control_of_the_main_tab_is_left_in_english(chinese: Visit) -> None:
    page = opened(chinese)
    for name in (
        "variation",
        "section_guidance",
        "section_model",
        "section_sampling",
        "section_compatibility",
        "hires",
        "refiner",
    ):
        page.click(f"#txt2img_{name} > button")
    expect(page.locator("#txt2img_section_guidance")).to_contain_text("强调方式")
    expect(page.locator("#txt2img_emphasis option:checked")).to_have_text("原始")
    assert unknown(page) == []
    assert page.evaluate("document.documentElement.lang") == "zh"


def test_a_request_is_the_same_in_any_language_and_what_is_said_of_it_is_not(chinese: Visit) -> None:
    page = opened(chinese)
    page.fill(PROMPT, "Steps")
    page.click("#txt2img_section_guidance > button")
    choose(page, "txt2img_emphasis", "忽略")
    expect(page.locator("#txt2img_emphasis option:checked")).to_have_text("忽略")
    page.click("#txt2img_generate")
    page.wait_for_selector(f'{STATUS}[data-phase="done"]')
    expect(page.locator(STATUS)).to_contain_text("1 张图片，用时")
    expect(page.locator("#txt2img_infotext textarea")).to_have_value(re.compile("^Steps\n"))
    with closing(sqlite3.connect(chinese.server.data_dir / "reprise.db")) as db:
        (spec,) = db.execute("SELECT spec FROM jobs ORDER BY created DESC LIMIT 1").fetchone()
    assert json.loads(spec)["params"]["emphasis"] == "Ignore"
    page.locator("#txt2img_seed input").fill("")
    page.click("#txt2img_generate")
    expect(page.locator(STATUS)).to_have_text("随机种子需要一个值")


def test_the_browser_finds_what_the_catalogue_finds(chinese: Visit) -> None:
    page = opened(chinese)
    catalogue = load_catalogues()["zh"]
    keys = [re.sub(r"\{(\w+)\}", "Steps", key) for key in catalogue.entries]
    texts = [*keys, "no such text", "Seed needs a value; choose one first", "Step 1 of 2 · no such text", "a.b*c (x)"]
    told = page.evaluate(
        """async (texts) => {
          const list = document.createElement('ul')
          for (const text of texts) list.append(Object.assign(document.createElement('li'), { textContent: text }))
          document.body.append(list)
          await new Promise(requestAnimationFrame)
          const told = [...list.children].map((item) => item.textContent)
          list.remove()
          return told
        }""",
        texts,
    )
    assert told == [catalogue(text) for text in texts]


def test_a_browser_that_asks_for_english_first_gets_english_and_no_catalogue(visit: Visit) -> None:
    page = visit.open()
    expect(page.locator("#txt2img_generate")).to_have_text("Generate")
    assert page.evaluate("document.documentElement.lang") == "en"
    assert not [url for url in visit.requests if "/locales/" in url]

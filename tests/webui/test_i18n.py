"""The catalogues: complete for the page as it is built, and looked up by rules that also the browser follows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from starlette.testclient import TestClient

from modules.metadata.verdict import Verdict
from tests.modules.metadata.test_recipe import RECIPE
from webui.html import status as views
from webui.html.status import JobProgress, Result
from webui.i18n import Catalogue, language_of, load_catalogues
from webui.page import build_page
from webui.services import Services

CATALOGUES = load_catalogues()
ZH = CATALOGUES["zh"]
PLACE = re.compile(r"\{\w+\}")
PROPS = ("label", "info", "placeholder")
ATTRIBUTES = ("title", "aria-label", "alt", "placeholder")
NAMES = {"Reprise"}
"""What is called so in every language."""


class Texts(HTMLParser):
    """What a person reads of a piece of HTML, text by text; not choices, nor what is no matter of language."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._kept: list[bool] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        kept = given.get("translate") == "no" or tag in ("option", "style") or any(self._kept)
        if not kept:
            self.found += [text for name in ATTRIBUTES if (text := given.get(name))]
        if tag not in ("img", "br", "input", "hr", "rect", "circle", "path", "line", "use"):
            self._kept.append(kept)

    def handle_endtag(self, tag: str) -> None:
        if self._kept:
            self._kept.pop()

    def handle_data(self, data: str) -> None:
        if not any(self._kept) and (text := " ".join(data.split())):
            self.found.append(text)


def english(texts: Iterator[str] | list[str], catalogue: Catalogue = ZH) -> set[str]:
    """Those that hold words and have no entry."""
    return {
        text for text in texts if re.search("[a-z]{2}", text) and text not in NAMES and catalogue.find(text) is None
    }


def texts_of(blocks: Any) -> Iterator[str]:
    """What a person reads of the page when it has just been built, but for choices."""
    for component in blocks.blocks.values():
        config = component.get_config()
        kind = type(component).__name__
        if config.get("visible") == "hidden":
            continue
        if kind in ("HTML", "Markdown"):
            yield from Texts(re.sub("^#+ ", "", str(config.get("value") or ""))).found
            continue
        yield from (text for name in PROPS if (text := config.get(name)) and isinstance(text, str))
        if kind == "Button":
            yield str(config["value"])


def test_every_text_of_the_page_has_its_entry(given: Services) -> None:
    assert english(texts_of(build_page(given))) == set(), "these need a line in webui/locales/zh.json"


def test_a_place_of_a_text_is_in_its_translation_too() -> None:
    for key, meaning in ZH.entries.items():
        assert sorted(PLACE.findall(key)) == sorted(PLACE.findall(meaning)), key


def test_what_the_server_says_of_a_run_is_translated() -> None:
    made = Result("/o/1.png", "a fox\nSteps: 4", 1)
    runs = [
        JobProgress("waiting"),
        JobProgress("queued", position=3),
        JobProgress("step", step=3, steps=20, image=1, images=1, eta_s=4.2),
        JobProgress("step", step=3, steps=20, image=2, images=4, eta_s=71),
        JobProgress("done", results=(made,), seconds=3.2, notes=("Width 100 was rounded to 96, a multiple of 8",)),
        JobProgress("done", results=(made, made), seconds=301),
        JobProgress("cancelled"),
        JobProgress("cancelled", results=(made,)),
        JobProgress().failed("Seed needs a value"),
        JobProgress().failed("Prompt has 25,000 characters and the limit is 20,000; shorten it"),
        JobProgress().failed("something unexpected went wrong; the server's log has the details"),
    ]
    pieces = [views.status_html(run) for run in runs] + [views.replay_html(JobProgress("cancelled"))]
    pieces += [
        views.status_html(JobProgress("waiting"), state, detail)
        for state in ("loading", "dead")
        for detail in ("", "x")
    ]
    for html in pieces:
        assert english(Texts(html).found) == set(), html


def test_what_the_server_says_of_a_picture_is_translated() -> None:
    verdicts = [Verdict("identical"), Verdict("cannot"), Verdict("differs", ("torch 2.13.0 became 2.14.0",))]
    for verdict in verdicts:
        assert english(Texts(views.verdict_html(verdict.to_json(), (Result("/o/1.png", "", 1),))).found) == set()
    for html in (
        views.recipe_html(RECIPE, {}),
        views.recipe_html(Verdict("cannot", ("the picture carries no recipe",)), {}),
    ):
        assert english(Texts(html).found) == set()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Steps", "迭代步数"),
        ("steps", "迭代步数"),
        ("→ img2img", "→ 图生图"),
        ("Image 2 of 4 · Step 3 of 20 · 1 min 11 s left", "第 2 张，共 4 张 · 第 3 步，共 20 步 · 剩余 1 分 11 秒"),
        ("Seed needs a value", "随机种子需要一个值"),
        ("Nobody knows this", None),
        ("Nobody knows this; choose one first", "Nobody knows this; 请先选择一张"),
        ("", None),
    ],
)
def test_a_text_is_found_whole_by_its_pattern_or_by_its_parts(text: str, told: str | None) -> None:
    assert ZH.find(text) == told


def test_a_longer_pattern_is_asked_before_a_shorter_one() -> None:
    catalogue = Catalogue({"{x} s": "A {x}", "{x} of {y} s": "B {y} {x}", "two": "zwei"})
    assert catalogue.find("1 of two s") == "B zwei 1"
    assert catalogue.find("(1) s") == "A (1)"


def test_the_first_language_that_is_known_is_taken_and_english_is_known() -> None:
    assert language_of("de,zh-TW;q=0.9", CATALOGUES) == "zh"
    assert language_of("ZH-hans-cn", CATALOGUES) == "zh"
    assert language_of("en-US,en;q=0.9,zh;q=0.8", CATALOGUES) is None
    assert language_of("", CATALOGUES) is None


def test_the_page_names_its_languages_and_serves_their_words(client: TestClient) -> None:
    assert r"<meta name=\"rp-languages\" content=\"zh\">" in client.get("/").text.replace("\\u003c", "<").replace(
        "\\u003e", ">"
    )
    assert client.get("/locales/zh.json").json() == ZH.entries
    for other in ("xx", "..%2Fzh", "%2e%2e%2fzh"):
        assert client.get(f"/locales/{other}.json").status_code == 404

"""Extensions in a real browser: good ones at work, broken ones named, and a job that goes on without the one that
ended its worker."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.conftest import ROOT, Server, Visit, running, visiting
from tests.modules.extension.test_loader import write

pytestmark = pytest.mark.browser

BROKEN = ROOT / "tests" / "broken"
FIXTURES = ROOT / "tests" / "fixtures" / "extensions-2"
TUNED = """
from dataclasses import dataclass
from modules import option

@dataclass(frozen=True)
class Settings:
    amount: float = option(0.5, "Amount of tuning", lo=0.0, hi=1.0, step=0.1)

def register(host):
    host.add_settings(Settings)
"""


@pytest.fixture(scope="module")
def extended(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The program with one extension that works, one that cannot be read and one that ends its process."""
    folder = tmp_path_factory.mktemp("extended")
    examples = ROOT / "extensions" / "examples"
    for source in (examples / "example_tab", examples / "tag_completion", BROKEN / "syntax", BROKEN / "ends_worker"):
        shutil.copytree(source, folder / "extensions" / source.name)
    shutil.copytree(FIXTURES / "page_api", folder / "extensions" / "page_api")
    write(folder / "extensions", "tuned", TUNED, '"setting"')
    models = server.data_dir.parent / "models"
    command = [sys.executable, str(ROOT / "app.py"), "--models-dir", str(models), "--device", "cpu"]
    command += ["--extensions-dir", str(folder / "extensions")]
    with running(command, folder / "data", worker=True) as found:
        yield found


@pytest.fixture
def visit(browser: Browser, extended: Server) -> Iterator[Visit]:
    with visiting(browser, extended) as made:
        yield made


def listed(visit: Visit) -> Path:
    return visit.server.data_dir / "extensions.json"


def test_a_broken_extension_is_named_and_the_others_work(visit: Visit) -> None:
    page = visit.open()
    page.locator("#tab_example_tab-button").click()
    expect(page.get_by_role("button", name="Make postcards")).to_be_visible()

    page.locator("#tab_extensions-button").click()
    syntax = page.locator('.rp-exts li[data-name="syntax"]')
    expect(syntax).to_have_attribute("data-state", "broken")
    expect(syntax.locator("pre")).to_be_hidden()
    syntax.locator("summary").click()
    expect(syntax.locator("pre")).to_contain_text("SyntaxError")
    expect(page.locator('.rp-exts li[data-name="example_tab"]')).to_have_attribute("data-state", "loaded")

    choice = page.locator("#extensions_choice input")
    choice.click()
    page.get_by_role("option", name="example_tab").click()
    page.locator("#extensions_disable").click()
    expect(page.locator('.rp-exts li[data-name="example_tab"]')).to_have_attribute("data-state", "disabled")
    assert "example_tab" in listed(visit).read_text()
    page.locator("#extensions_enable").click()
    expect(page.locator('.rp-exts li[data-name="example_tab"]')).to_have_attribute("data-state", "loaded")


def test_an_extension_has_its_settings_among_the_others(visit: Visit) -> None:
    page = visit.open()
    page.click("#tab_settings-button")
    page.fill("#settings_search textarea, #settings_search input", "tuning")
    amount = page.locator("#settings_tuned_amount input[type=number]")
    expect(amount).to_have_value("0.5")
    expect(page.locator("#settings_image_quality")).to_be_hidden()
    amount.fill("0.7")
    amount.blur()
    page.click("#settings_save")
    expect(page.locator("#settings_said")).to_contain_text("The settings are saved")
    kept = json.loads((visit.server.data_dir / "settings.json").read_text())
    assert kept["tuned"] == {"amount": 0.7} and kept["image_format"] == "png"
    page.reload()
    page.click("#tab_settings-button")
    expect(page.locator("#settings_tuned_amount input[type=number]")).to_have_value("0.7")
    visit.complaints.clear()  # Gradio tells the console of a stream that the reload cut off


def test_a_job_goes_on_without_the_extension_that_ended_its_worker(visit: Visit) -> None:
    page = visit.open()
    page.locator("#txt2img_ext_ends_worker button").first.click()
    page.locator("#txt2img_ext_ends_worker_on input").check()
    page.locator("#txt2img_prompt textarea").fill("a red fox")
    page.locator("#txt2img_steps input[type=number]").fill("2")
    page.locator("#txt2img_width input[type=number]").fill("64")
    page.locator("#txt2img_height input[type=number]").fill("64")
    page.locator("#txt2img_generate").click()
    expect(page.locator("#txt2img_status")).to_contain_text("1 image", timeout=120_000)
    expect(page.locator("#txt2img_status")).to_contain_text("ithout extension ends_worker")
    assert len(visit.server.pictures()) == 1

    page.locator("#tab_extensions-button").click()
    ended = page.locator('.rp-exts li[data-name="ends_worker"]')
    expect(ended).to_contain_text("Last failure")
    expect(ended).to_contain_text("finish")


def test_scripts_of_extensions_read_and_fill_the_form_and_hear_of_images(visit: Visit) -> None:
    page = visit.open()
    page.wait_for_function("window.reprise && window.reprise.on && window.pageApiHeard")
    page.locator("#txt2img_prompt textarea").fill("a fox")
    run = page.evaluate
    for name, value in (
        ("width", 64),
        ("height", 64),
        ("steps", 2),
        ("seed", "12345678901234567890"),
        ("negative_prompt", "rain"),
        ("hires", True),
        ("hires", False),
        ("sampler", "Euler"),
    ):
        assert run("([name, value]) => window.reprise.set('txt2img', name, value)", [name, value]) is True
        assert run("(name) => window.reprise.get('txt2img', name)", name) == value
    assert run("window.reprise.set('txt2img', 'sampler', 'no such sampler')") is False
    unknown = run("(() => { try { window.reprise.get('txt2img', 'x') } catch (error) { return error.message } })()")
    assert unknown == "the tab txt2img shows no field x now"
    run("window.reprise.insert('in snow')")
    assert run("window.reprise.get('txt2img', 'prompt')") == "a fox, in snow"

    page.locator("#txt2img_page_api_multiply").click()
    expect(page.locator("#txt2img_page_api_said input, #txt2img_page_api_said textarea")).to_have_value("128 wide")
    expect(page.locator("#txt2img_prompt textarea")).to_have_value("a fox, in snow, wide")
    assert run("window.reprise.get('txt2img', 'width')") == 128

    page.locator("#txt2img_cards_colours button").first.click()
    page.locator('.rp-ext-cards button[data-insert="blue"]').first.click()
    expect(page.locator("#txt2img_prompt textarea")).to_have_value("a fox, in snow, wide, blue")

    page.locator("#txt2img_generate").click()
    expect(page.locator("#txt2img_status")).to_contain_text("1 image", timeout=120_000)
    page.wait_for_function("window.pageApiHeard.some(([what]) => what === 'result')")
    heard = run("window.pageApiHeard")
    assert heard[0] == ["generate", {"tab": "txt2img"}]
    told = next(facts for what, facts in heard if what == "result")
    assert told["tab"] == "txt2img" and "Size: 128x64" in told["infotext"] and "Sampler: Euler" in told["infotext"]
    assert run("(job) => fetch(`api/v1/jobs/${job}`).then((answer) => answer.status)", told["job"]) == 200

    page.locator("#tab_page_api-button").click()
    expect(page.locator("#page_api_opened input, #page_api_opened textarea")).to_have_value("when it was opened")


def test_tags_are_completed_while_a_prompt_is_typed(visit: Visit) -> None:
    page = visit.open()
    box = page.locator("#txt2img_prompt textarea")
    box.press_sequentially("a cat, sno")
    offered = page.locator(".tag-completion li")
    expect(offered).to_have_count(2)
    expect(offered.first).to_have_attribute("aria-selected", "true")
    box.press("ArrowDown")
    expect(offered.nth(1)).to_have_attribute("aria-selected", "true")
    box.press("ArrowUp")
    box.press("Tab")
    expect(box).to_have_value("a cat, snow, ")
    expect(offered).to_have_count(0)
    box.press_sequentially("watercol")
    expect(offered).to_have_count(1)
    offered.first.click()
    expect(box).to_have_value(r"a cat, snow, watercolor \(medium\), ")
    box.press_sequentially("fo")
    expect(offered).to_have_count(1)
    box.press("Escape")
    expect(offered).to_have_count(0)

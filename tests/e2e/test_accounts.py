"""Two people at once on one server, each in a browser of their own."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import ROOT, Server, running, visiting

if TYPE_CHECKING:
    from tests.e2e.conftest import Visit

pytestmark = pytest.mark.browser

PASSWORDS = {"alice": "correct horse", "bob": "battery staple"}
PROMPT = "#txt2img_prompt textarea"
STATUS = "#txt2img_status .rp-status"
TEXT = "#txt2img_infotext textarea"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two accounts."""
    users = [part for name, word in PASSWORDS.items() for part in ("--user", f"{name}:{word}")]
    script = ROOT / "tests" / "webui" / "fake_server.py"
    with running([sys.executable, str(script), *users], tmp_path_factory.mktemp("shared"), worker=False) as server:
        yield server


def log_in(visit: Visit, name: str) -> Page:
    page = visit.page
    page.goto(visit.server.url)
    expect(page).to_have_url(f"{visit.server.url}/login")
    page.fill("input[name=username]", name)
    page.fill("input[name=password]", PASSWORDS[name])
    page.keyboard.press("Enter")
    page.wait_for_selector(PROMPT)
    return page


def test_two_people_at_once_see_their_own_pictures_and_stop_their_own_jobs(browser: Browser, shared: Server) -> None:
    with visiting(browser, shared) as hers, visiting(browser, shared) as his:
        alice, bob = log_in(hers, "alice"), log_in(his, "bob")
        expect(alice.locator(".rp-account-name")).to_have_text("alice")
        expect(bob.locator(".rp-account-name")).to_have_text("bob")

        alice.fill(PROMPT, "a slow red fox")
        alice.locator("#txt2img_steps input[type=number]").fill("150")
        alice.click("#txt2img_generate")
        expect(alice.locator("#txt2img_preview .rp-live")).to_be_visible()
        bob.fill(PROMPT, "a blue boat")
        bob.click("#txt2img_generate")
        expect(bob.locator(STATUS)).to_contain_text("Next in the queue")  # hers runs
        alice.bring_to_front()
        expect(alice.locator("#txt2img_interrupt")).to_be_enabled()
        alice.keyboard.press("Escape")
        expect(alice.locator(STATUS)).to_contain_text("Interrupted")
        bob.wait_for_selector(f'{STATUS}[data-phase="done"]')  # his went on
        expect(bob.locator(TEXT)).to_have_value(text_of("a blue boat"))

        alice.fill(PROMPT, "a red fox")
        alice.locator("#txt2img_steps input[type=number]").fill("4")
        alice.click("#txt2img_generate")
        alice.wait_for_selector(f'{STATUS}[data-phase="done"]')
        expect(alice.locator(TEXT)).to_have_value(text_of("a red fox"))
        shown = alice.locator("#txt2img_gallery [data-testid=detailed-image]")
        expect(shown).to_be_visible()
        address = str(shown.get_attribute("src"))
        assert alice.request.get(address).status == 200
        assert bob.request.get(address).status == 404

        # Her page in his browser: the numbers of jobs alone are worth nothing.
        jobs = alice.evaluate("sessionStorage.getItem('reprise.txt2img')")
        assert len(jobs) >= 32
        bob.evaluate("jobs => sessionStorage.setItem('reprise.txt2img', jobs)", jobs)
        bob.reload()
        bob.wait_for_selector(PROMPT)
        expect(bob.locator(PROMPT)).to_have_value("")
        his.complaints.clear()  # Gradio tells the console of streams that the reload cut off


def text_of(prompt: str) -> re.Pattern[str]:
    return re.compile(rf"^{prompt}\nSteps: ")


def test_who_logs_out_is_out_on_every_page_of_the_session(browser: Browser, shared: Server) -> None:
    with visiting(browser, shared) as visit:
        page = log_in(visit, "alice")
        other = page.context.new_page()
        other.goto(shared.url)
        other.wait_for_selector(PROMPT)
        page.click(".rp-account summary")
        page.get_by_role("button", name="Log out", exact=True).click()
        expect(page).to_have_url(f"{shared.url}/login")
        expect(other).to_have_url(f"{shared.url}/login")  # the page asks how the server is, and learns it


def test_the_login_page_says_what_is_wrong_and_fits_a_phone(browser: Browser, shared: Server) -> None:
    with visiting(browser, shared) as visit:
        page = visit.page
        page.set_viewport_size({"width": 390, "height": 800})
        page.goto(f"{shared.url}/login")
        expect(page.locator("input[name=username]")).to_be_focused()
        page.fill("input[name=username]", "alice")
        page.fill("input[name=password]", "wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("The name or the password is not right")
        expect(page.locator("input[name=username]")).to_have_value("alice")
        expect(page.locator("input[name=password]")).to_be_focused()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        visit.complaints.clear()  # the browser notes the status 401

"""The page in a real browser: to its first paint, from a click to the first preview, a history of 10,000 pictures."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from modules.jobs.store import JobStore
from tests.e2e.conftest import FLAGS, PLACES, running

ROOT = Path(__file__).parents[2]
PICTURES = 10_000
LOOKED_AT = 60
"""Of which there are files: those on the first page."""


CLICK = """() => new Promise((done) => {
  const begin = performance.now()
  const look = () => document.querySelector('#txt2img_preview .rp-live')
    ? done((performance.now() - begin) / 1000) : requestAnimationFrame(look)
  document.querySelector('#txt2img_generate').click()
  look()
})"""
"""Clicks, and gives the seconds until a preview is on the page."""


def main() -> None:
    """Prints seconds of a server whose default model is loaded; five clicks."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        data_dir = Path(folder)
        _fill(data_dir)
        program = next(filter(None, map(shutil.which, PLACES)))
        with running([sys.executable, "app.py"], data_dir, worker=True) as server:
            page = playwright.chromium.launch(executable_path=program, args=list(FLAGS)).new_page()
            begin = time.perf_counter()
            page.goto(server.url)
            page.wait_for_selector("#txt2img_prompt textarea")
            paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
            print(f"first paint {paint:.2f} s, prompt box {time.perf_counter() - begin:.2f} s after the address")
            for _ in range(5):
                _click(page)
            _history(page)


def _fill(data_dir: Path) -> None:
    outputs = data_dir / "outputs" / "txt2img-images"
    outputs.mkdir(parents=True)
    for number in range(PICTURES - LOOKED_AT, PICTURES):
        Image.effect_noise((512, 512), 60).convert("RGB").save(outputs / f"{number}.png")
    store = JobStore(data_dir / "reprise.db")
    job = store.submit("local", {"kind": "txt2img", "params": {}})
    store.claim("benchmark")
    store.finish(job.id, {"images": [{"path": str(outputs / f"{number}.png")} for number in range(PICTURES)]})
    store.close()


def _click(page: Page) -> None:
    page.fill("#txt2img_prompt textarea", "a red fox in the snow")
    page.wait_for_timeout(1500)  # until the page has counted the tokens
    preview = page.evaluate(CLICK)
    page.wait_for_selector('#txt2img_status .rp-status[data-phase="done"]')
    print(f"click to first preview {preview:.2f} s")


def _history(page: Page) -> None:
    begin = time.perf_counter()
    page.click("#tab_history-button")
    page.wait_for_selector(".rp-tile")
    listed = time.perf_counter() - begin
    page.wait_for_function("document.querySelector('.rp-tile img')?.naturalWidth > 0")
    shown = time.perf_counter() - begin
    print(f"history of {PICTURES:,} pictures: list {listed:.2f} s, first small copy {shown:.2f} s after the click")

"""What the server writes into the page: the right words, and no markup but its own."""

from __future__ import annotations

import dataclasses
from html.parser import HTMLParser
from typing import Any

import pytest

from modules.metadata.verdict import Difference, Verdict
from tests.modules.metadata.test_recipe import RECIPE
from webui.html import status as views
from webui.html.status import JobProgress, Result

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "'; alert(1); '",
    "{{constructor}} ${alert(1)}",
    "</div></div><iframe srcdoc=x>",
)
OURS = {"div", "span", "i", "img", "svg", "rect", "circle", "path", "button"} | {
    *("strong", "p", "ul", "li", "dl", "dt", "dd", "figure", "figcaption"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "a"),
}


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def tags(html: str) -> Tags:
    parser = Tags()
    parser.feed(html)
    return parser


def sheet(text: str) -> dict[str, Any]:
    cells = [[{"path": f"/{text}.png", "infotext": text, "error": ""}, {"path": "", "infotext": "", "error": text}]]
    return {"title": text, "columns": [text, "b"], "rows": [text], "cells": cells}


def everything(text: str) -> list[str]:
    """All HTML that we make, with ``text`` wherever a value can come from outside."""
    result = Result(f"/data/outputs/{text}.png", text, 1)
    step = JobProgress("step", step=1, steps=2, image=1, images=2, preview=text, results=(result,), notes=(text,))
    return [
        views.status_html(step),
        views.status_html(JobProgress().failed(text)),
        views.status_html(JobProgress("done", results=(result,), notes=(text,))),
        views.status_html(JobProgress("waiting"), "loading", text),
        views.status_html(JobProgress("waiting"), "dead", text),
        views.status_html(JobProgress(text)),
        views.preview_html(step),
        views.preview_html(JobProgress("step", preview="AAAA", results=(result,))),
        views.replay_html(step),
        views.verdict_html(Verdict("differs", (text,), remark=text).to_json(), (result,)),
        views.sheets_html([sheet(text)]),
        views.recipe_html(dataclasses.replace(RECIPE, program=text, torch=text), {text: text}),
        views.recipe_html(Verdict("cannot", (text,), remark=text), {}),
        views.header_html(text),
        views.worker_html(),
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    plain = [[tag for tag, _ in tags(html).found] for html in everything("x y")]
    for html, expected in zip(everything(text), plain, strict=True):
        found = tags(html).found
        assert [tag for tag, _ in found] == expected, html
        assert {tag for tag, _ in found} <= OURS
        for tag, attributes in found:
            assert not [name for name in attributes if name.startswith("on") or name == "srcdoc"], html
            assert tag != "img" or str(attributes["src"]).startswith(("gradio_api/file=/", "data:image/jpeg;base64,"))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_it_is(text: str) -> None:
    shown = tags(views.status_html(JobProgress().failed(text))).text
    assert shown == text[:1].upper() + text[1:]


def test_only_base64_becomes_a_picture() -> None:
    assert "AAAA" in views.preview_html(JobProgress("step", preview="AAAA"))
    for text in ("AA\nAA", "AAAA'", "", "=A"):
        assert "<img" not in views.preview_html(JobProgress("step", preview=text))


def test_a_run_follows_the_events_of_its_job() -> None:
    run = JobProgress("waiting")
    texts = []
    for event in (
        {"type": "queued", "position": 3},
        {"type": "queued", "position": 1},
        {"type": "started"},
        {"type": "note", "text": "width 100 was rounded to 96, a multiple of 8"},
        {"type": "step", "step": 5, "steps": 20, "image": 2, "images": 4, "eta_s": 71.2, "preview": "AAAA"},
        {"type": "image", "path": "/o/1.png", "infotext": "a", "seed": 7},
        {"type": "something new", "x": 1},
        {"type": "done", "output": {"images": [{"path": "/o/1.png", "infotext": "a", "seed": 7}], "seconds": 3.21}},
    ):
        run = run.after(event)
        texts.append(tags(views.status_html(run)).text)
    noted = "Width 100 was rounded to 96, a multiple of 8"
    assert texts == [
        "Number 3 in the queue",
        "Starting",
        "Starting",
        f"Starting{noted}",
        *[f"Image 2 of 4 · Step 5 of 20 · 1 min 11 s left{noted}"] * 3,
        f"1 image in 3.2 s{noted}",
    ]
    assert run.results == (Result("/o/1.png", "a", 7),)
    assert not run.is_running


def test_a_job_that_is_queued_again_starts_from_no_picture_twice() -> None:
    """After a worker's death its events come again; the end says what there is."""
    image = {"path": "/o/1.png", "infotext": "a", "seed": 7}
    run = JobProgress("waiting").after({"type": "image", **image}).after({"type": "queued", "position": 1})
    run = run.after({"type": "image", **image}).after({"type": "image", **image, "path": "/o/2.png"})
    assert [result.path for result in run.results] == ["/o/1.png", "/o/2.png"]


def test_waiting_says_what_for() -> None:
    waiting = JobProgress("queued", position=1)
    assert "model is loading" in views.status_html(waiting, "loading")
    assert "started again" in views.status_html(waiting, "dead", "out of memory")
    assert "Starting" in views.status_html(waiting, "ready")


def test_progress_counts_all_images() -> None:
    run = JobProgress("step", step=10, steps=20, image=2, images=4)
    assert run.fraction == pytest.approx(1.5 / 4)
    assert "width:37.5%" in views.status_html(run)
    assert JobProgress().fraction == 0.0
    assert JobProgress("done").fraction == 1.0


def test_an_interrupted_run_keeps_what_it_made() -> None:
    image = {"path": "/o/1.png", "infotext": "a", "seed": 7}
    run = JobProgress("step").after({"type": "cancelled", "output": {"images": [image]}})
    assert tags(views.status_html(run)).text == "Interrupted, 1 kept"
    assert len(run.results) == 1


def test_a_file_is_addressed_relative_to_the_page() -> None:
    assert views.file_url('/data/a b"#?.png') == "gradio_api/file=/data/a%20b%22%23%3F.png"


def test_every_verdict_is_said_in_plain_words() -> None:
    same = views.verdict_html(Verdict("identical").to_json())
    assert tags(same).text == "Identical: the picture was made again, and every pixel is the same"
    lossy = Verdict("identical", difference=Difference(9, 1.25, 0.5), remark="before compression")
    assert tags(views.verdict_html(lossy.to_json())).text.endswith(
        "In the file, 50.0% of the pixels differ, by at most 9 of 255 and 1.25 on averageBefore compression"
    )
    differs = Verdict("differs", ("torch 1 became 2", "device cpu became cuda"), Difference(9, 1.25, 0.5)).to_json()
    new = Result("/data/outputs/new.png", "", 1)
    assert tags(views.verdict_html(differs, (new,))).text == (
        "Differs: the picture was made again, and it is not the sameTorch 1 became 2Device cpu became cuda"
        "50.0% of the pixels differ, by at most 9 of 255 and 1.25 on averageMade again"
    )
    assert "the cause is not known" in views.verdict_html(Verdict("differs").to_json())
    assert tags(views.verdict_html(Verdict("cannot", ("LoRA x is missing",)).to_json())).text == (
        "Cannot be made againLoRA x is missing"
    )


def test_a_stopped_replay_has_no_verdict() -> None:
    stopped = JobProgress("step").after({"type": "cancelled", "output": {"images": []}})
    assert "there is no verdict" in views.replay_html(stopped)


def test_facts_of_a_recipe_are_shown_and_its_absence_too() -> None:
    shown = tags(views.recipe_html(RECIPE, {"Software": "a program"})).text
    for fact in ("Reprise 0.1.0", "torch 2.13.0+cpu, bfloat16, exact kernels", "1 of 1, seed 5", "ab" * 32):
        assert fact in shown
    assert shown.endswith("Softwarea program")
    assert (
        "It cannot be verified: the picture carries no recipe"
        in tags(views.recipe_html(Verdict("cannot", ("the picture carries no recipe",)), {})).text
    )


def test_a_table_of_a_script_opens_each_picture_and_says_why_one_is_missing() -> None:
    found = tags(views.sheets_html([sheet("a b")]))
    links = [facts["href"] for tag, facts in found.found if tag == "a"]
    assert links == ["gradio_api/file=/a%20b.png"]
    assert [tag for tag, facts in found.found].count("img") == 1
    assert found.text.count("A b") == 1  # the reason, as a sentence
    assert views.sheets_html([]) == ""

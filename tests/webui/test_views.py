"""What the server writes into the page: the right words, and no markup but its own."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from webui import views
from webui.views import Result, Run

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "'; alert(1); '",
    "{{constructor}} ${alert(1)}",
    "</div></div><iframe srcdoc=x>",
)
OURS = {"div", "span", "i", "img", "svg", "rect", "circle"}


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


def everything(text: str) -> list[str]:
    """All HTML that we make, with ``text`` wherever a value can come from outside."""
    result = Result(f"/data/outputs/{text}.png", text, 1)
    step = Run("step", step=1, steps=2, image=1, images=2, preview=text, results=(result,), notes=(text,))
    return [
        views.status_html(step),
        views.status_html(Run().failed(text)),
        views.status_html(Run("done", results=(result,), notes=(text,))),
        views.status_html(Run("waiting"), "loading", text),
        views.status_html(Run("waiting"), "dead", text),
        views.status_html(Run(text)),
        views.preview_html(step),
        views.preview_html(Run("step", preview="AAAA", results=(result,))),
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
    shown = tags(views.status_html(Run().failed(text))).text
    assert shown == text[:1].upper() + text[1:]


def test_only_base64_becomes_a_picture() -> None:
    assert "AAAA" in views.preview_html(Run("step", preview="AAAA"))
    for text in ("AA\nAA", "AAAA'", "", "=A"):
        assert "<img" not in views.preview_html(Run("step", preview=text))


def test_a_run_follows_the_events_of_its_job() -> None:
    run = Run("waiting")
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
    run = Run("waiting").after({"type": "image", **image}).after({"type": "queued", "position": 1})
    run = run.after({"type": "image", **image}).after({"type": "image", **image, "path": "/o/2.png"})
    assert [result.path for result in run.results] == ["/o/1.png", "/o/2.png"]


def test_waiting_says_what_for() -> None:
    waiting = Run("queued", position=1)
    assert "model is loading" in views.status_html(waiting, "loading")
    assert "started again" in views.status_html(waiting, "dead", "out of memory")
    assert "Starting" in views.status_html(waiting, "ready")


def test_progress_counts_all_images() -> None:
    run = Run("step", step=10, steps=20, image=2, images=4)
    assert run.fraction == pytest.approx(1.5 / 4)
    assert "width:37.5%" in views.status_html(run)
    assert Run().fraction == 0.0
    assert Run("done").fraction == 1.0


def test_an_interrupted_run_keeps_what_it_made() -> None:
    image = {"path": "/o/1.png", "infotext": "a", "seed": 7}
    run = Run("step").after({"type": "cancelled", "output": {"images": [image]}})
    assert tags(views.status_html(run)).text == "Interrupted, 1 finished before"
    assert len(run.results) == 1


def test_a_file_is_addressed_relative_to_the_page() -> None:
    assert views.file_url('/data/a b"#?.png') == "gradio_api/file=/data/a%20b%22%23%3F.png"

"""The jobs of one page, followed as its handlers follow them, on the real queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
import pytest

from modules.params.generation import GenerationParams
from tests.webui.fake_server import services
from webui.components.job_stream import JobStream, awake, ids_of, page_of
from webui.services import JobView, Services
from webui.tabs.generation import JUST_S, View, actions, follow, left_out

PAGE = page_of(SimpleNamespace(session_hash="one"), "txt2img")
STATUS, LINE, GALLERY, SHOWN = 0, 7, 2, 4
"""Places in what is shown."""


def test_a_job_that_ended_in_the_moment_in_which_following_ended_is_not_left_out() -> None:
    now = time.time()
    old, new, running = (
        cast(JobView, SimpleNamespace(id=name, state=state, created=now - age))
        for name, state, age in (("a", "done", 5), ("b", "done", 1), ("c", "running", 2 * JUST_S))
    )
    assert left_out([old, new], "a")
    assert not left_out([old, new], "b")
    assert left_out([running, new], "b")
    assert not left_out([new, old], "gone")
    late = cast(JobView, SimpleNamespace(id="d", state="done", created=now - 2 * JUST_S))
    assert not left_out([old, late], "a"), "what cannot be shown is not tried for ever"


@pytest.fixture
def given(tmp_path: Path) -> Iterator[Services]:
    with services(tmp_path) as made:
        yield made


@pytest.fixture
def view(given: Services) -> View:
    with gr.Blocks():
        return View(given, "txt2img", actions("txt2img"))


def submit(given: Services, prompt: str, page: str = PAGE, **changes: Any) -> str:
    params = GenerationParams(prompt=prompt, steps=4, seed=1, **changes)
    return given.queue.submit("local", {"kind": "txt2img", "page": page, "params": params.to_json()}).id


def watch(given: Services, view: View, ids: list[str], *, then: Any = lambda updates: None) -> list[list[Any]]:
    """All updates of the page; ``then`` is called after each."""

    async def all_of() -> list[list[Any]]:
        updates: list[list[Any]] = []
        async for update in follow(view, JobStream(given.queue, "local"), ids, PAGE):
            updates.append(update)
            await asyncio.to_thread(then, updates)
        return updates

    return asyncio.run(all_of())


def galleries(updates: list[list[Any]]) -> list[int]:
    """How many pictures were on the page, each time that they changed."""
    return [len(u[GALLERY]["value"]) for u in updates if isinstance(u[GALLERY], dict) and "value" in u[GALLERY]]


def test_jobs_queued_behind_the_first_are_shown_in_the_line_and_then_one_by_one(given: Services, view: View) -> None:
    ids = [submit(given, "slow first")]

    def queue_more(updates: list[list[Any]]) -> None:
        if len(updates) == 2:
            submit(given, "somebody's other page", "txt2img:other")
            ids.append(submit(given, "second & last"))

    updates = watch(given, view, ids[:1], then=queue_more)
    lines = [u[LINE] for u in updates if isinstance(u[LINE], str)]
    assert any("second &amp; last" in line and f'data-job="{ids[1]}"' in line for line in lines)
    assert not any("other page" in line for line in lines)
    assert lines[-1].endswith("hidden></div>")
    assert galleries(updates)[-1] == 2
    assert [u[SHOWN] for u in updates if isinstance(u[SHOWN], str)][-1] == ids[1]
    assert "1 image in" in updates[-1][STATUS]


def test_a_page_that_comes_back_finds_everything_that_was_made(given: Services, view: View) -> None:
    ids = [submit(given, "a", batch_count=2), submit(given, "explode"), submit(given, "b")]
    while given.queue.get(ids[-1], "local").state != "done":
        time.sleep(0.01)
    updates = watch(given, view, list(ids))
    assert set(galleries(updates)) == {3}
    shown = asyncio.run(JobStream(given.queue, "local").images(ids))
    assert [(one.job, one.index) for one in shown] == [(ids[0], 0), (ids[0], 1), (ids[2], 0)]
    assert watch(given, view, ["0" * 32]) == []
    assert asyncio.run(JobStream(given.queue, "somebody").images(ids)) == []


def test_ids_from_a_page_are_read_with_care() -> None:
    one, two = "0" * 32, "a" * 32
    assert ids_of(awake([one, two, one])) == [one, two]
    for text in (None, 7, "", "g" * 32, {"path": one}):
        assert ids_of(text) == []
    assert len(ids_of(" ".join(f"{n:032x}" for n in range(500)))) == 100
    assert page_of(SimpleNamespace(), "x") == ""
    assert "one" not in PAGE

"""What is remembered of pages stays within bounds, however many names a client thinks of."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest
from starlette.testclient import TestClient

from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import services
from webui.security.sessions import A_PERSON, ALL, IDLE, Session, Sessions
from webui.server import create_app

BLOCKS = 3


@pytest.fixture
def blocks() -> Any:
    with gr.Blocks() as made:
        for _ in range(BLOCKS):
            gr.Textbox("as built")
    return made


def holder(blocks: Any, **changes: Any) -> Sessions:
    """Where ``ann/1`` is a page of ann's."""
    made = Sessions(lambda name: name.partition("/")[0], **changes)
    made.set_blocks(blocks)
    return made


def test_a_person_has_so_many_pages_and_the_oldest_makes_room(blocks: Any) -> None:
    held = holder(blocks, a_person=3)
    for number in range(5):
        _ = held[f"ann/{number}"], held["bob/1"]
    assert list(held.session_data) == ["ann/2", "ann/3", "ann/4", "bob/1"]
    _ = held["ann/2"], held["ann/5"]
    assert list(held.session_data) == ["ann/4", "bob/1", "ann/2", "ann/5"]
    assert held.time_last_used.keys() == held.session_data.keys()


def test_all_persons_together_have_so_many(blocks: Any) -> None:
    blocks.state_session_capacity = 10
    held = holder(blocks)
    for number in range(30):
        _ = held[f"person{number}/1"]
    assert list(held.session_data) == [f"person{number}/1" for number in range(20, 30)]


def test_a_page_that_asked_nothing_for_a_while_is_forgotten_and_made_anew(blocks: Any) -> None:
    held = holder(blocks, idle=datetime.timedelta(hours=1))
    first = held["ann/1"]
    held.delete_all_expired_state()
    assert held["ann/1"] is first
    held.time_last_used["ann/1"] -= datetime.timedelta(hours=2)
    held.delete_all_expired_state()
    assert "ann/1" not in held
    assert held["ann/1"] is not first


def test_a_session_keeps_what_became_of_its_page_and_no_description_of_it(blocks: Any) -> None:
    """As Gradio's does, which the other one is."""
    ours, theirs = Session(blocks), gr.state_holder.SessionState(blocks)
    number = next(iter(blocks.blocks))
    for session in (ours, theirs):
        session[number] = gr.Textbox("changed", render=False)
        session._update_value_in_config(number, "told")
        assert session[number].value == "changed"
        assert blocks.blocks[number].value == "as built"
    assert vars(ours).keys() == vars(theirs).keys()
    assert not ours.config_values and len(theirs.config_values) > BLOCKS


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("sessions")
    with services(folder) as given, TestClient(create_app(given), base_url=ORIGIN) as made:
        yield made


def test_two_hundred_names_leave_as_many_sessions_as_a_person_has(client: TestClient) -> None:
    app: Any = client.app
    held = app.routes[-1].app.state_holder
    assert isinstance(held, Sessions) and held.blocks.state_holder is held
    assert held.capacity == ALL
    event = next(one for one in client.get("/config").json()["dependencies"] if one["backend_fn"] and not one["inputs"])
    for number in range(200):
        body = {"data": [], "fn_index": event["id"], "session_hash": f"thought{number}"}
        assert client.post("/gradio_api/run/predict", json=body).status_code == 200
    assert len(held.session_data) == A_PERSON


def test_gradio_asks_once_a_second_whether_a_session_has_ended(client: TestClient) -> None:
    app: Any = client.app
    held = app.routes[-1].app.state_holder
    _ = held["left"]
    held.time_last_used["left"] -= IDLE
    end = time.monotonic() + 20
    while "left" in held and time.monotonic() < end:
        time.sleep(0.1)
    assert "left" not in held

"""What goes over the wire, and what comes only once."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from tests.webui.fake_server import services
from webui.caching import FOR_A_YEAR
from webui.server import create_app


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with services(tmp_path_factory.mktemp("data")) as given:
        client = TestClient(create_app(given), base_url="http://127.0.0.1:7860", headers={"accept-encoding": "gzip"})
        with client as made:
            yield made


def test_a_bundle_with_its_hash_in_its_name_is_asked_for_once(client: TestClient) -> None:
    (name, *_) = re.findall(r"assets/[\w-]+\.js", client.get("/").text)
    assert client.get(f"/{name}").headers["cache-control"] == FOR_A_YEAR


@pytest.mark.parametrize("path", ["/", "/theme.css", "/locales/zh.json", "/assets/none-12345678.js", "/healthz"])
def test_what_may_change_or_is_not_there_is_asked_for_again(client: TestClient, path: str) -> None:
    assert "immutable" not in client.get(path).headers.get("cache-control", "")


def test_the_page_is_compressed_and_the_apis_answers_are_not(client: TestClient) -> None:
    page, answer = client.get("/"), client.get("/sdapi/v1/options")
    assert page.headers["content-encoding"] == "gzip"
    assert int(page.headers["content-length"]) * 5 < len(page.content)
    assert "content-encoding" not in answer.headers
    plain = client.get("/", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers


def test_events_are_not_held_back_to_be_compressed(client: TestClient) -> None:
    job = client.post("/api/v1/jobs", json={"params": {"prompt": "a", "steps": 1, "width": 64, "height": 64}}).json()
    answer = client.get(f"{job['url']}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert len(answer.content) > 500
    assert "content-encoding" not in answer.headers


def test_no_event_of_the_page_is_told_to_every_component(client: TestClient) -> None:
    """What `webui.events.QUIET` is for: one event without it makes the page slow again."""
    told = client.get("/config").json()["dependencies"]
    assert len(told) > 100
    assert [event["targets"] for event in told if event["show_progress_on"] != []] == []

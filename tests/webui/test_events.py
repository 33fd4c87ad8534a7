"""What the page's events ask of Gradio's client."""

from __future__ import annotations

from starlette.testclient import TestClient


def test_events_without_a_spinner_have_the_client_keep_no_loading_status(client: TestClient) -> None:
    events = client.get("/config").json()["dependencies"]
    hidden = [event for event in events if event["show_progress"] == "hidden"]
    assert len(hidden) > 100
    assert [event["id"] for event in hidden if event["show_progress_on"] != []] == []

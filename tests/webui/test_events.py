"""What the page's events ask of Gradio's client."""

from __future__ import annotations

from starlette.testclient import TestClient


def test_what_fills_many_components_on_load_has_the_client_keep_no_loading_status(client: TestClient) -> None:
    events = client.get("/config").json()["dependencies"]
    wide = [
        event
        for event in events
        if event["backend_fn"] and len(event["outputs"]) > 10 and "load" in [name for _, name in event["targets"]]
    ]
    assert len(wide) >= 5
    assert [event["outputs"] for event in wide if event["show_progress_on"] != []] == []

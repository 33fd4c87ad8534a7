"""The server ended by a request, where it was started so."""

from __future__ import annotations

import json
import time
from pathlib import Path

from starlette.testclient import TestClient

from modules.accounts import ADMIN, Accounts
from tests.server.real_server import serving
from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import services
from webui.policy import ApiPolicy
from webui.server import create_app


def test_a_request_ends_the_server_and_its_job_waits_for_the_next_start(tmp_path: Path) -> None:
    with serving(tmp_path, "--can-stop") as server:
        connection = server.connection()
        body = json.dumps({"params": {"prompt": "slow", "steps": 100, "width": 64, "height": 64}})
        connection.request("POST", "/api/v1/jobs", body, {"content-type": "application/json"})
        job = json.loads(connection.getresponse().read())
        connection.request("POST", "/sdapi/v1/server-stop")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"Stopping.")
        end = time.monotonic() + 60
        while time.monotonic() < end and Path(f"/proc/{server.pid}/status").read_text().count("zombie") == 0:
            time.sleep(0.1)
    with serving(tmp_path) as server:
        connection = server.connection()
        connection.request("GET", job["url"])
        assert json.loads(connection.getresponse().read())["state"] in ("queued", "running")


def test_only_an_administrator_ends_it_and_only_where_that_was_allowed(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "users.db")
    accounts.add("ann", "a password", ADMIN)
    accounts.add("bob", "a password")
    tokens = {name: {"authorization": f"Bearer {accounts.new_token(name)}"} for name in ("ann", "bob")}
    for can_stop, expected in ((False, (404, 404, 404)), (True, (403, 200, 501))):
        ended: list[bool] = []
        changes = {"api": ApiPolicy(can_stop=can_stop), "accounts": accounts}
        with (
            services(tmp_path, **changes) as given,
            TestClient(app := create_app(given, page=False), base_url=ORIGIN) as client,
        ):
            app.state.stop = lambda ended=ended: ended.append(True)
            told = [
                client.post(f"/sdapi/v1/server-{what}", headers=tokens[name]).status_code
                for name, what in (("bob", "stop"), ("ann", "kill"), ("ann", "restart"))
            ]
            assert (tuple(told), ended) == (expected, [True] if can_stop else [])


def test_frozen_settings_stay_as_they_are(tmp_path: Path) -> None:
    policy = ApiPolicy(frozen=frozenset({"samples_format"}))
    with services(tmp_path, api=policy) as given, TestClient(create_app(given, page=False), base_url=ORIGIN) as client:
        assert client.post("/sdapi/v1/options", json={"jpeg_quality": 70}).status_code == 200
        refused = client.post("/sdapi/v1/options", json={"samples_format": "jpg", "jpeg_quality": 60})
        assert refused.status_code == 403 and "samples_format" in refused.json()["detail"]
        found = client.get("/sdapi/v1/options").json()
        assert (found["samples_format"], found["jpeg_quality"]) == ("png", 70)

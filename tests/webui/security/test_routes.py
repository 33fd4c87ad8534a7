"""The table of all routes, and the walk through it."""

from __future__ import annotations

from pathlib import Path

from starlette.testclient import TestClient

from modules.accounts import Accounts
from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import services
from webui.security.guard import OPEN
from webui.security.routes import ANYONE, NOBODY, OWNER, routes_of, table, who_may
from webui.server import create_app


def test_the_walk_finds_ours_and_gradios_routes(client: TestClient) -> None:
    found = {path for path, _ in routes_of(client.app)}
    assert {"/healthz", "/login", "/gradio_api/upload", "/gradio_api/queue/join", "/config"} <= found
    assert len(found) > 50


def test_the_table_says_who_may_use_each_route(client: TestClient) -> None:
    """Printed by ``python3 app.py --list-routes``."""
    text = table(client.app)
    print(text)
    lines = text.splitlines()
    assert len(lines) > 60
    assert {line.split()[-1] for line in lines if line.startswith(ANYONE)} <= OPEN
    assert "accounts, each their own  POST      /gradio_api/queue/join" in text
    assert who_may("/gradio_api/proxy={url_path:path}") == NOBODY
    assert who_may("/api/v1/replay/{job_id}") == OWNER


def test_a_route_that_somebody_adds_is_closed_too(tmp_path: Path) -> None:
    """S04: routes of extensions, by their nature unknown to the guard, and applications mounted beside."""
    accounts = Accounts(tmp_path / "users.db")
    accounts.add("alice", "correct horse")
    with services(tmp_path / "data", accounts=accounts) as given:
        app = create_app(given)
        for path in ("/extensions/mine/data", "/login/more", "/healthzz", "/robots.txt/x"):
            app.add_api_route(path, lambda: "open", methods=["GET", "POST"])
        app.router.routes[:] = [*app.router.routes[-4:], *app.router.routes[:-4]]
        stranger = TestClient(app, base_url=ORIGIN)
        known = {"authorization": f"Bearer {accounts.new_token('alice')}"}
        for path in ("/extensions/mine/data", "/login/more", "/healthzz", "/robots.txt/x"):
            for method in ("GET", "POST"):
                assert stranger.request(method, path).status_code == 401, path
                assert stranger.request(method, path, headers=known).json() == "open", path
        for path in ("/%6cogin/../config", "/login/../config", "//config", "/healthz/../config", "/LOGIN", "/login/"):
            assert stranger.get(path).status_code in (401, 404), path

"""Other sites' pages: what an administrator allowed is answered, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from modules.accounts import ADMIN, Accounts
from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import services
from webui.policy import ApiPolicy, allowed_origins
from webui.server import create_app

FRIEND = "https://friend.example"
POLICY = ApiPolicy(origins=(FRIEND,), origins_pattern=r"http://[a-z]+\.lan:\d+")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with (
        services(tmp_path_factory.mktemp("data"), api=POLICY) as given,
        TestClient(create_app(given, page=False), base_url=ORIGIN) as client,
    ):
        yield client


@pytest.mark.parametrize("origin", [FRIEND, FRIEND.upper(), "http://krita.lan:8000"])
def test_a_listed_site_uses_the_apis(shared: TestClient, origin: str) -> None:
    headers = {"origin": origin, "sec-fetch-site": "cross-site"}
    for answer in (
        shared.post("/api/v1/explain", json={"prompt": "a fox"}, headers=headers),
        shared.get("/sdapi/v1/samplers", headers=headers),
    ):
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin
        assert "origin" in answer.headers["vary"]
        assert "access-control-allow-credentials" not in answer.headers
    asks = {**headers, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    before = shared.options("/api/v1/jobs", headers=asks)
    assert before.status_code == 204
    assert "content-type" in before.headers["access-control-allow-headers"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://friend.example.evil.com",
        "http://friend.example",
        "https://friend.example:444",
        "null",
        "http://a.lan:1x",
    ],
)
def test_any_other_site_is_refused(shared: TestClient, origin: str) -> None:
    answer = shared.post("/api/v1/explain", json={"prompt": "a fox"}, headers={"origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    asks = {"origin": origin, "access-control-request-method": "POST"}
    assert shared.options("/api/v1/jobs", headers=asks).status_code == 403


def test_the_page_is_never_shared_and_a_cookie_is_of_no_use(shared: TestClient) -> None:
    page = shared.post("/gradio_api/queue/join", json={}, headers={"origin": FRIEND})
    assert page.status_code == 403 and "access-control-allow-origin" not in page.headers
    headers = {"origin": FRIEND, "cookie": "reprise_session=x"}
    assert shared.post("/api/v1/explain", json={"prompt": "a"}, headers=headers).status_code == 403


def test_where_there_are_accounts_a_listed_site_needs_a_token(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "users.db")
    accounts.add("ann", "a password", ADMIN)
    token = accounts.new_token("ann")
    with (
        services(tmp_path, api=POLICY, accounts=accounts) as given,
        TestClient(create_app(given, page=False), base_url=ORIGIN) as c,
    ):
        asks = {"origin": FRIEND, "access-control-request-method": "POST"}
        assert c.options("/api/v1/jobs", headers=asks).status_code == 204
        stranger = c.post("/api/v1/explain", json={"prompt": "a"}, headers={"origin": FRIEND})
        assert stranger.status_code == 401 and stranger.headers["access-control-allow-origin"] == FRIEND
        known = {"origin": FRIEND, "authorization": f"Bearer {token}"}
        assert c.post("/api/v1/explain", json={"prompt": "a"}, headers=known).status_code == 200


@pytest.mark.parametrize("said", ["*", "null", "https://*.example", "friend.example", "https://a@b", "file:///x"])
def test_an_origin_that_is_none_or_everybody_is_left_out_with_a_sentence(said: str) -> None:
    origins, _, (note,) = allowed_origins([said], "")
    assert origins == () and note.startswith(f"--cors-allow-origins {said} is left out: ")


@pytest.mark.parametrize("pattern", [".*", "https?://.*", r"https://[^/]+", "("])
def test_a_pattern_that_fits_everybody_is_left_out_with_a_sentence(pattern: str) -> None:
    _, kept, (note,) = allowed_origins([], pattern)
    assert kept == "" and note.startswith("--cors-allow-origins-regex is left out: ")


def test_good_ones_are_kept() -> None:
    assert allowed_origins([f"{FRIEND}/"], POLICY.origins_pattern) == ((FRIEND,), POLICY.origins_pattern, [])

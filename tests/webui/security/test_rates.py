"""How many requests an account may make a minute."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from modules.accounts import ADMIN, Accounts
from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import services
from webui.policy import ApiPolicy
from webui.security.rates import Rates
from webui.server import create_app


def test_a_minutes_requests_come_at_once_and_then_as_they_come_back() -> None:
    now = [0.0]
    rates = Rates(JSONResponse({}), per_minute=6, clock=lambda: now[0])
    assert [rates.take("ann") for _ in range(6)] == [0] * 6
    assert rates.take("ann") > 0 and rates.take("bob") == 0
    now[0] = 10.5  # one comes back every 10 s
    assert rates.take("ann") == 0 and 9 <= rates.take("ann") <= 11
    now[0] = 10_000
    assert [rates.take("ann") > 0 for _ in range(7)] == [False] * 6 + [True]


def test_an_account_is_told_when_to_go_on_and_others_are_not_held_up(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "users.db")
    for name in ("ann", "bob"):
        accounts.add(name, "a password", ADMIN)
    tokens = {name: {"authorization": f"Bearer {accounts.new_token(name)}"} for name in ("ann", "bob")}
    policy = ApiPolicy(requests_per_minute=3)
    with (
        services(tmp_path, api=policy, accounts=accounts) as given,
        TestClient(create_app(given, page=False), base_url=ORIGIN) as c,
    ):

        def asked(name: str, path: str = "/api/v1/explain") -> int:
            return c.post(path, json={"prompt": "a"}, headers=tokens[name]).status_code

        assert [asked("ann") for _ in range(4)] == [200, 200, 200, 429]
        assert asked("bob") == 200
        refused = c.post("/sdapi/v1/txt2img", json={}, headers=tokens["ann"])
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) <= 21
        assert refused.json()["detail"].startswith("this account may make 3 requests a minute; go on in ")
        assert asked("ann", "/sdapi/v1/interrupt") == 200, "stopping is never too much"
        assert c.get("/sdapi/v1/progress", headers=tokens["ann"]).status_code == 200

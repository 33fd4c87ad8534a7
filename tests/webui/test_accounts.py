"""Who gets in, and what belongs to whom: two people on one server, through the routes that a page uses."""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from PIL import Image
from starlette.testclient import TestClient

from modules.accounts import Accounts
from tests.webui.conftest import ORIGIN
from tests.webui.fake_server import services
from tests.webui.security.test_guard import routes
from webui.security.auth import COOKIE
from webui.security.guard import OPEN
from webui.server import create_app
from webui.services import Services

PASSWORDS = {"alice": "correct horse", "bob": "battery staple"}
HTML = {"accept": "text/html,application/xhtml+xml"}


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Accounts:
    made = Accounts(tmp_path_factory.mktemp("accounts") / "users.db")
    for name, password in PASSWORDS.items():
        made.add(name, password)
    return made


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, accounts: Accounts) -> Iterator[Services]:
    with services(tmp_path_factory.mktemp("data"), accounts=accounts, login=True) as made:
        yield made


@pytest.fixture(scope="module")
def stranger(given: Services) -> Iterator[TestClient]:
    with TestClient(create_app(given), base_url=ORIGIN, follow_redirects=False) as made:
        yield made


class Person:
    """A script of someone's. One client for all of them: Gradio's queue lives on its event loop."""

    def __init__(self, client: TestClient, token: str):
        self._client = client
        self._headers = {"authorization": f"Bearer {token}"}

    def request(self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any) -> Any:
        return self._client.request(method, path, headers={**self._headers, **(headers or {})}, **more)

    def get(self, path: str, **more: Any) -> Any:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> Any:
        return self.request("POST", path, **more)


@pytest.fixture(scope="module")
def alice(stranger: TestClient, accounts: Accounts) -> Person:
    return Person(stranger, accounts.new_token("alice"))


@pytest.fixture(scope="module")
def bob(stranger: TestClient, accounts: Accounts) -> Person:
    return Person(stranger, accounts.new_token("bob"))


# -- getting in


def test_no_route_answers_a_stranger_but_the_listed_ones(stranger: TestClient) -> None:
    """S04: Gradio's routes, ours, the mounted ones, and what is no route at all."""
    assert len(OPEN) <= 5
    tried = 0
    wanted = [*routes(stranger), ("/openapi.json", {"GET"}), ("/docs", {"GET"}), ("/nowhere", {"GET", "POST"})]
    wanted += [(f"/gradio_api/{path}", {"GET"}) for path in ("proxy=http://x/", "runs", "info", "openapi.json")]
    for path, methods in wanted:
        for method in methods - {"HEAD"}:
            answer = stranger.request(method, path)
            if path in OPEN:
                assert answer.status_code < 500, path
            else:
                assert (answer.status_code, answer.json()["error"]) == (401, "NotLoggedIn"), (method, path)
                assert answer.headers["www-authenticate"] == "Bearer"
                tried += 1
    assert tried > 80


def test_a_stranger_is_told_that_the_server_lives_and_no_more(stranger: TestClient, alice: Person) -> None:
    assert stranger.get("/healthz").json() == {"status": "ok"}
    assert set(alice.get("/healthz").json()) == {"status", "version", "worker", "detail"}


def test_a_browser_is_led_to_the_login_page_and_from_there_to_where_it_wanted(stranger: TestClient) -> None:
    browser = TestClient(stranger.app, base_url=ORIGIN, follow_redirects=False)
    led = browser.get("/api/v1/mine", headers=HTML)
    assert (led.status_code, led.headers["location"]) == (303, "/login?next=/api/v1/mine")
    page = browser.get(led.headers["location"], headers=HTML)
    assert page.status_code == 200
    assert len(page.content) < 5000
    assert 'autocomplete="current-password"' in page.text
    assert 'enctype="multipart/form-data"' in page.text
    assert "http://" not in page.text
    answer = log_in(browser, "alice", after="/api/v1/mine")
    assert (answer.status_code, answer.headers["location"]) == (303, "/api/v1/mine")
    assert browser.get("/", headers=HTML).status_code == 200
    assert browser.get("/login").headers["location"] == "/"


def log_in(browser: TestClient, name: str, password: str = "", after: str = "") -> Any:
    form = {"username": name, "password": password or PASSWORDS[name], "next": after}
    return browser.post("/login", files={key: (None, value) for key, value in form.items()})


@pytest.mark.parametrize(
    "after", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nb: c", ""]
)
def test_the_way_back_leads_to_no_other_server(stranger: TestClient, after: str) -> None:
    browser = TestClient(stranger.app, base_url=ORIGIN, follow_redirects=False)
    assert log_in(browser, "alice", after=after).headers["location"] == "/"


def test_a_wrong_password_is_a_sentence_on_the_page(stranger: TestClient) -> None:
    answer = log_in(stranger, 'alice"><script>', "wrong")
    assert answer.status_code == 401
    assert "The name or the password is not right" in answer.text
    assert "<script>" not in answer.text
    assert "set-cookie" not in answer.headers


def test_the_login_page_speaks_the_readers_language(stranger: TestClient) -> None:
    page = stranger.get("/login", headers={"accept-language": "zh-CN,zh;q=0.9"}).text
    assert '<html lang="zh">' in page
    assert "Password" not in page
    assert "密码" in page


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(stranger: TestClient, scheme: str, secure: bool) -> None:
    browser = TestClient(stranger.app, base_url=f"{scheme}://127.0.0.1:7860", follow_redirects=False)
    cookie = log_in(browser, "alice").headers["set-cookie"].lower()
    parts = {part.strip() for part in cookie.split(";")[1:]}
    assert {"httponly", "samesite=lax", "path=/"} <= parts
    assert ("secure" in parts) is secure
    assert len(base64.urlsafe_b64decode(browser.cookies[COOKIE] + "=")) == 32


def test_logging_out_ends_the_session_for_everyone_who_has_the_cookie(stranger: TestClient) -> None:
    app = stranger.app
    browsers = [TestClient(app, base_url=ORIGIN, follow_redirects=False) for _ in range(3)]
    for browser in browsers:
        log_in(browser, "bob")
    stolen = TestClient(app, base_url=ORIGIN, cookies=dict(browsers[0].cookies), follow_redirects=False)
    assert stolen.get("/config").status_code == 200
    assert browsers[0].post("/logout").headers["location"] == "/login"
    assert [client.get("/config").status_code for client in (browsers[0], stolen, *browsers[1:])] == [
        401,
        401,
        200,
        200,
    ]
    browsers[1].post("/logout", files={"everywhere": (None, "1")})
    assert [client.get("/config").status_code for client in browsers] == [401] * 3


def test_scripts_show_a_token_or_a_name_and_password(stranger: TestClient, accounts: Accounts) -> None:
    def status(value: str) -> int:
        return stranger.get("/config", headers={"authorization": value}).status_code

    def basic(text: str) -> str:
        return "Basic " + base64.b64encode(text.encode()).decode()

    assert status(f"Bearer {accounts.new_token('bob')}") == 200
    assert status(basic("bob:battery staple")) == 200
    for wrong in ("Bearer rp_x", "Bearer", "Basic", "Basic !!", basic("bob:wrong"), basic("bob"), "Digest x", "x"):
        assert status(wrong) == 401, wrong


def test_ten_wrong_passwords_close_the_door_for_an_address(tmp_path: Path) -> None:
    own = Accounts(tmp_path / "users.db")
    own.add("alice", PASSWORDS["alice"])
    with services(tmp_path / "data", accounts=own) as made:
        browser = TestClient(create_app(made), base_url=ORIGIN, follow_redirects=False)
        assert [log_in(browser, f"nobody{n}", "wrong").status_code for n in range(11)] == [401] * 10 + [429]
        answer = log_in(browser, "alice")
        assert (answer.status_code, "Too many failed logins" in answer.text) == (429, True)
        assert 0 < int(answer.headers["retry-after"]) <= 300


def test_a_server_with_an_account_asks_this_machine_too_and_one_without_does_not(tmp_path: Path) -> None:
    own = Accounts(tmp_path / "users.db")
    with services(tmp_path / "data", accounts=own) as made:
        browser = TestClient(create_app(made), base_url=ORIGIN, follow_redirects=False)
        assert browser.get("/config").json()["username"] == "local"
        assert browser.get("/login").headers["location"] == "/"
        own.add("alice", PASSWORDS["alice"])
        assert browser.get("/config").status_code == 401
        own.remove("alice")
    with services(tmp_path / "more", accounts=own, login=True) as made:  # reachable from elsewhere
        assert TestClient(create_app(made), base_url=ORIGIN).get("/config").status_code == 401


def test_strangers_may_not_send_much(stranger: TestClient) -> None:
    assert log_in(stranger, "alice", "x" * 70_000).status_code == 413


# -- what belongs to whom


class Work:
    """A picture that alice made on her page, and all that can be named of it."""

    def __init__(self, client: Person, given: Services):
        self.config = client.get("/config").json()
        click = self.function("txt2img_generate", "click")
        values = [self.component(i)["props"].get("value") for i in click["inputs"]]
        self.session = "alice-page"
        body = {"data": values, "fn_index": click["id"], "session_hash": self.session}
        joined = client.post("/gradio_api/queue/join", json=body)
        assert joined.status_code == 200, joined.text
        self.event = joined.json()["event_id"]
        assert "process_completed" in client.get(f"/gradio_api/queue/data?session_hash={self.session}").text
        (job,) = given.queue.list("alice", 1)
        self.job = str(job.id)
        said = asked(client, self, "txt2img_wake", "change", [f"0 {self.job}"], self.session)
        job = given.queue.get(self.job, "alice")
        self.picture = (job.output or {})["images"][0]["path"]
        self.number = given.history.page("alice")[0].number
        self.copy = next(str(path) for path in (given.data_dir / "tmp").rglob("*.png") if path.name in said)
        png = given.data_dir / "mine.png"
        Image.new("RGB", (8, 8), "red").save(png)
        sent = client.post("/gradio_api/upload?upload_id=alice-upload", files={"files": ("m.png", png.read_bytes())})
        (self.upload,) = sent.json()

    def component(self, number: int) -> dict[str, Any]:
        return next(found for found in self.config["components"] if found["id"] == number)

    def function(self, elem_id: str, event: str) -> dict[str, Any]:
        number = next(c["id"] for c in self.config["components"] if c["props"].get("elem_id") == elem_id)
        return next(f for f in self.config["dependencies"] if [number, event] in [list(t) for t in f["targets"]])


@pytest.fixture(scope="module")
def work(alice: Person, given: Services) -> Work:
    return Work(alice, given)


def test_what_is_alices_is_there_for_alice(alice: Person, work: Work) -> None:
    for path in (work.picture, work.copy, work.upload):
        assert alice.get("/gradio_api/file=" + quote(path)).status_code == 200, path


@pytest.mark.parametrize("noted", ["", "{job}\t{name}", "somebo{job}\t{name}"], ids=["lost", "whole", "torn"])
def test_a_picture_whose_name_or_note_has_an_odd_separator_is_its_owners(
    alice: Person, bob: Person, given: Services, noted: str
) -> None:
    folder = given.outputs_dir / "txt2img-images" / f"note {len(noted)}"
    folder.mkdir(parents=True)
    path = folder / "00001-a\u2028fox.png"
    Image.new("RGB", (8, 8), "orange").save(path)
    with contextlib.closing(sqlite3.connect(given.data_dir / "reprise.db")) as db, db:
        db.execute(
            "INSERT INTO pictures (job, owner, kind, path, created) VALUES ('its job', 'alice', 'txt2img', ?, 0)",
            (str(path),),
        )
    (folder / ".jobs").write_text(noted.format(job="its job", name=path.name), encoding="utf-8")
    address = "/gradio_api/file=" + quote(str(path))
    assert alice.get(address).status_code == 200
    assert bob.get(address).status_code in (403, 404)


def test_nothing_of_alices_is_there_for_bob(alice: Person, bob: Person, work: Work) -> None:
    """S06: events, sessions, uploads, pictures and jobs by their true names."""
    page, event = {"session_hash": work.session}, {"event_id": work.event}
    api = "/gradio_api"
    tries: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", f"{api}/queue/data?session_hash={work.session}", {}),
        ("GET", f"{api}/heartbeat/{work.session}", {}),
        ("POST", f"{api}/queue/join", {"json": {"data": [], "fn_index": 0, **page}}),
        ("POST", f"{api}/run/predict", {"json": {"data": [], **page}}),
        ("POST", f"{api}/api/predict", {"json": {"data": [], **page}}),
        ("POST", f"{api}/call/predict", {"json": {"data": [], **page}}),
        ("POST", f"{api}/component_server", {"json": {"component_id": 1, "fn_name": "x", "data": 0, **page}}),
        ("POST", f"{api}/cancel", {"json": {"fn_index": 0, "event_id": "x", **page}}),
        ("POST", f"{api}/cancel", {"json": {"fn_index": 0, "session_hash": "bobs", **event}}),
        ("POST", f"{api}/reset", {"json": event}),
        ("GET", f"{api}/call/predict/{work.event}", {}),
        ("GET", f"{api}/call/v2/predict/{work.event}", {}),
        ("POST", f"{api}/stream/{work.event}", {"json": {"data": [], **event}}),
        ("POST", f"{api}/stream/{work.event}/close", {}),
        ("GET", f"{api}/stream/{work.session}/1/1/playlist.m3u8", {}),
        ("GET", f"{api}/stream/{work.session}/1/1/playlist-file", {}),
        ("GET", f"{api}/upload_progress?upload_id=alice-upload", {}),
        ("POST", f"{api}/upload?upload_id=alice-upload", {"files": {"files": ("a.png", b"x")}}),
        *(("GET", f"{api}/file={quote(path)}", {}) for path in (work.picture, work.copy, work.upload)),
        *(("GET", f"{api}/file/{quote(path.lstrip('/'))}", {}) for path in (work.picture, work.copy, work.upload)),
        *(("HEAD", f"{api}/file={quote(path)}", {}) for path in (work.picture, work.copy, work.upload)),
        ("GET", f"{api}/file={quote(work.picture)}", {"headers": {"range": "bytes=0-10"}}),
        ("GET", f"/api/v1/replay/{work.job}", {}),
        ("GET", f"/api/v1/pictures/{work.number}", {}),
        ("GET", f"/api/v1/pictures/{work.number}/small", {}),
    ]
    assert len(tries) >= 20
    for method, path, more in tries:
        answer = bob.request(method, path, **more)
        assert answer.status_code in (403, 404), (method, path, answer.text)
    assert alice.get(f"{api}/file={quote(work.upload)}").status_code == 200


def asked(client: Person, work: Work, elem_id: str, event: str, data: list[Any], session: str) -> str:
    body = {"data": data, "fn_index": work.function(elem_id, event)["id"], "session_hash": session}
    assert client.post("/gradio_api/queue/join", json=body).status_code == 200
    return str(client.get("/gradio_api/queue/data", params={"session_hash": session}).text)


def test_an_event_of_bobs_takes_no_job_and_no_file_of_alices(bob: Person, work: Work) -> None:
    """S06, through the page's own handlers: taking up a job, sending its picture on, replaying it, reading a file."""
    file = {"path": work.upload, "meta": {"_type": "gradio.FileData"}, "orig_name": "m.png", "url": None}
    copy = {**file, "path": work.copy}
    tries: list[tuple[str, str, list[Any]]] = [
        ("txt2img_wake", "change", [f"0 {work.job}"]),
        ("txt2img_unqueue", "click", [work.job, work.job, work.job]),
        ("txt2img_send", "change", ["img2img 1", work.job, 0]),
        ("txt2img_replay", "click", [work.job, 0]),
        ("png_info_picture", "change", [file]),
        ("png_info_picture", "change", [copy]),
        ("png_info_replay", "click", [file]),
        ("history_replay", "click", [str(work.number)]),
    ]
    for number, (elem_id, event, data) in enumerate(tries):
        said = asked(bob, work, elem_id, event, data, f"bob-{number}")
        for secret in (work.picture, Path(work.copy).parent.name, "Seed: ", '"verdict"'):
            assert secret not in said, (elem_id, said)


def test_two_at_work_see_their_own_places_and_stop_their_own_jobs(
    alice: Person, bob: Person, given: Services, work: Work
) -> None:
    """The queue takes turns: bob's only job is second although alice came with three before him."""
    queue: Any = given.queue
    spec = {"kind": "txt2img", "params": {"prompt": "slow", "seed": 1, "steps": 100, "batch_size": 1, "batch_count": 1}}
    hers = [queue.submit("alice", spec).id for _ in range(4)]
    while queue.get(hers[0]).state == "queued":
        time.sleep(0.02)
    his = queue.submit("bob", spec).id
    assert [queue.position(job) for job in (*hers, his)] in ([0, 2, 3, 4, 1], [0, 1, 3, 4, 2])
    interrupt = work.function("txt2img_interrupt", "click")
    for client, job, stopped in ((bob, hers[0], False), (bob, his, True), (alice, hers[0], True)):
        body = {"data": [job], "fn_index": interrupt["id"], "session_hash": f"stop-{job}-{stopped}"}
        client.post("/gradio_api/queue/join", json=body)
        client.get("/gradio_api/queue/data", params={"session_hash": f"stop-{job}-{stopped}"})
        deadline = time.monotonic() + 20
        while stopped and queue.get(job).state != "cancelled" and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (queue.get(job).state == "cancelled") is stopped
    for job in hers[1:]:
        queue.cancel("alice", job)


def test_an_admin_sees_that_others_wait_and_can_stop_them_but_not_what_they_asked(
    alice: Person, bob: Person, given: Services
) -> None:
    queue: Any = given.queue
    params = {"prompt": "slow secret", "seed": 1, "steps": 100, "batch_size": 1, "batch_count": 1}
    hers, his = (queue.submit(name, {"kind": "txt2img", "params": params}).id for name in ("alice", "bob"))
    assert [job["id"] for job in bob.get("/api/v1/queue").json()["jobs"]] == [his]
    seen = alice.get("/api/v1/queue")
    assert {(job["id"], job["owner"]) for job in seen.json()["jobs"]} >= {(hers, "alice"), (his, "bob")}
    assert "secret" not in seen.text
    assert bob.post(f"/api/v1/queue/{hers}/cancel").status_code == 404
    assert alice.post(f"/api/v1/queue/{his}/cancel").status_code == 200
    assert alice.get(f"/api/v1/replay/{his}").status_code == 404
    assert alice.post(f"/api/v1/queue/{hers}/cancel").status_code == 200


def test_a_page_tells_whose_it_is(alice: Person, bob: Person) -> None:
    assert json.loads(alice.get("/config").text)["username"] == "alice"
    assert json.loads(bob.get("/config").text)["username"] == "bob"


def test_admins_are_known_by_their_account(given: Services) -> None:
    assert given.is_admin("alice")
    assert not given.is_admin("bob")
    assert not given.is_admin("nobody")

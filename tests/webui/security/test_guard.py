"""The guard alone against hand-made requests, and in front of every route of the real application."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from webui.security.guard import HEADERS, Guard
from webui.security.routes import routes_of

Seen = list[str]
FOREIGN_HOSTS = ("evil.example", "evil.example:7860", "127.0.0.1.nip.io", "", "localhost:notaport", "a@localhost")
FOREIGN_PAGES = (
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:8000"},
    {"origin": "http://127.0.0.1.nip.io:7860"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "cross-site"},
)


def routes(client: TestClient) -> Iterator[tuple[str, set[str]]]:
    """Every path and its methods, those of mounted applications too; parameters become "x"."""
    for path, methods in routes_of(client.app):
        yield re.sub(r"{[^}]*}", "x", path), set(methods)


def test_no_route_answers_a_foreign_host(client: TestClient) -> None:
    """S01."""
    for path, methods in routes(client):
        for method in methods:
            for host in FOREIGN_HOSTS:
                answer = client.request(method, path, headers={"host": host})
                assert answer.status_code == 421, (method, path, host)


def test_no_route_but_get_answers_a_foreign_page(client: TestClient) -> None:
    """S02. ``/gradio_api/reset`` and others have no side effect that could be seen: the status is the proof."""
    tried = 0
    for path, methods in routes(client):
        for method in methods - {"GET"}:
            for headers in FOREIGN_PAGES:
                answer = client.request(method, path, headers=headers)
                assert answer.status_code in (403, 404), (method, path, headers)
                tried += answer.status_code == 403
    assert tried > 50


def test_event_streams_do_not_answer_a_foreign_page(client: TestClient) -> None:
    for path in ("queue/data?session_hash=x", "heartbeat/x", "upload_progress?upload_id=x", "call/a/b"):
        for headers in FOREIGN_PAGES:
            assert client.get(f"/gradio_api/{path}", headers=headers).status_code == 403
    assert client.get("/healthz", headers={"accept": "text/event-stream", "origin": "null"}).status_code == 403


def test_a_page_of_ours_is_answered(client: TestClient) -> None:
    headers = {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}
    assert client.post("/gradio_api/reset", json={"event_id": "x"}, headers=headers).status_code == 200
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link on another page
    for host in ("localhost:7860", "[::1]:7860", "127.0.0.1", "LOCALHOST"):
        assert client.get("/healthz", headers={"host": host}).status_code == 200


def test_a_program_that_names_no_origin_is_answered(client: TestClient) -> None:
    assert client.post("/gradio_api/reset", json={"event_id": "x"}).status_code == 200


def test_routes_that_would_fetch_addresses_are_closed(client: TestClient) -> None:
    for path in (
        "/gradio_api/proxy=https://example.com/a.png",
        "/gradio_api/file=https://example.com/a.png",
        "/gradio_api/file=HTTP://example.com/a.png",
        "/gradio_api/file=%68ttp://example.com/a.png",
        "/gradio_api/deep_link?session_hash=x",
        "/gradio_api/runs",
        "/gradio_api/vibe-code",
        "/monitoring",
        "/monitoring/summary",
    ):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["detail"] == "there is nothing here"


def test_every_answer_carries_the_security_headers_and_none_invites_other_origins(client: TestClient) -> None:
    for path in ("/", "/healthz", "/config", "/theme.css", "/nowhere", "/gradio_api/file=/etc/passwd"):
        headers = client.get(path, headers={"origin": "http://evil.example"}).headers
        assert {name: headers.get(name) for name in HEADERS} == HEADERS, path
        assert not [name for name in headers if name.startswith("access-control-")], path


def test_nothing_but_json_and_forms_is_taken(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx"):
        answer = client.post("/gradio_api/reset", content=b"{}", headers={"content-type": kind})
        assert answer.status_code == 415, kind


# -- bodies, against a small application that says what reached it


def guarded(seen: Seen, **limits: Any) -> Guard:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append("called")
        body = await Request(scope, receive).body()
        seen.append(f"read {len(body)}")
        await JSONResponse({"size": len(body)})(scope, receive, send)

    return Guard(app, **limits)


def ask(guard: Guard, parts: list[bytes], headers: dict[str, str] | None = None, slow: float = 0.0) -> list[Message]:
    """Send a POST in parts and collect the answer's messages. What is not read stays in ``parts``."""
    queue = parts
    answer: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(slow)
        if not queue:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": queue.pop(0), "more_body": bool(queue)}

    async def send(message: Message) -> None:
        answer.append(message)

    framing = headers or {"transfer-encoding": "chunked"}
    pairs = {"host": "localhost", "content-type": "application/json", **framing}
    raw = [(name.encode(), value.encode()) for name, value in pairs.items()]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": raw, "query_string": b""}
    asyncio.run(guard(scope, receive, send))
    return answer


def test_a_body_within_the_limit_arrives_whole() -> None:
    seen: Seen = []
    answer = ask(guarded(seen, max_body=100), [b"x" * 50, b"y" * 50])
    assert answer[0]["status"] == 200
    assert seen == ["called", "read 100"]


def test_a_body_that_announces_too_much_is_refused_unread() -> None:
    seen: Seen = []
    assert ask(guarded(seen, max_body=100), [b"x"], {"content-length": "101"})[0]["status"] == 413
    assert seen == []


def test_a_body_that_is_too_large_is_read_past_before_it_is_refused() -> None:
    """Else the connection would break under a client that sends all before it listens."""
    listens_first = {"content-length": "250", "expect": "100-continue"}
    for headers, left in ((None, 0), ({"content-length": "250"}, 0), (listens_first, 5)):
        parts = [b"x" * 50] * 5
        assert ask(guarded([], max_body=150), parts, headers)[0]["status"] == 413
        assert len(parts) == left
    for headers in (None, {"content-length": "5000"}):  # no further than as much again
        parts = [b"x" * 50] * 100
        assert ask(guarded([], max_body=150), parts, headers)[0]["status"] == 413
        assert len(parts) in (93, 94)
    slow = [b"x"] * 1000
    assert ask(guarded([], max_body=900, body_s=0.05), slow, {"content-length": "1000"}, slow=0.01)[0]["status"] == 413
    assert len(slow) > 900


def test_a_body_in_chunks_is_cut_off_at_the_limit() -> None:
    seen: Seen = []
    answer = ask(guarded(seen, max_body=100), [b"x" * 60] * 50)
    assert [message["type"] for message in answer] == ["http.response.start", "http.response.body"]
    assert answer[0]["status"] == 413
    assert seen == ["called"]


def test_a_body_that_lies_about_its_length_is_cut_off() -> None:
    assert ask(guarded([], max_body=100), [b"x" * 60] * 3, {"content-length": "10"})[0]["status"] == 413
    assert ask(guarded([], max_body=100), [b"x"], {"content-length": "-1"})[0]["status"] == 400
    assert ask(guarded([], max_body=100), [b"x"], {"content-length": "²"})[0]["status"] == 400


def test_a_body_that_drips_is_given_up() -> None:
    answer = ask(guarded([], body_s=0.05), [b"x"] * 100, slow=0.01)
    assert answer[0]["status"] == 408


def test_an_answer_may_take_longer_than_a_body() -> None:
    """Event streams last for hours, and look whether their client is still there."""
    heard: list[str] = []

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.1)
        heard.append((await receive())["type"])

    async def run() -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            heard.append(message["type"])

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost")]}
        await Guard(stream, body_s=0.02)(scope, receive, send)

    asyncio.run(run())
    assert heard == ["http.request"]


def test_the_default_limit_holds_in_the_real_application(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(33):
            yield b" " * 2**20

    answer = client.post("/gradio_api/queue/join", content=chunks(), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    big = b"x" * (32 * 2**20 + 1)
    assert client.post("/gradio_api/upload", files={"files": ("a.png", big)}).status_code == 413


@pytest.mark.parametrize("headers", [{"host": "evil.example"}, {"host": "localhost", "origin": "http://evil.example"}])
def test_a_foreign_websocket_is_closed_before_it_opens(headers: dict[str, str]) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(guarded([])({"type": "websocket", "path": "/", "headers": raw}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_two_hosts_are_none() -> None:
    raw = [(b"host", b"localhost"), (b"host", b"evil.example")]
    refusal = guarded([]).foreign({"type": "http", "method": "GET", "path": "/", "headers": raw})
    assert refusal is not None
    assert refusal[0] == 421


def test_a_name_that_was_allowed_is_answered() -> None:
    guard = Guard(guarded([]).app, hosts=["Studio.lan", "[fe80::1]"])
    for host in (b"studio.lan:7860", b"STUDIO.LAN", b"[fe80::1]:80"):
        assert guard.foreign({"type": "http", "method": "GET", "path": "/", "headers": [(b"host", host)]}) is None
